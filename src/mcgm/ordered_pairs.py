"""Pairs of atoms in one order, whatever found them: by target, source and image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Int

SAMPLED, NEARLY = 16, 0.1
"""Every how many keys are looked at, and what share of these may lie below the one before."""

MOST_BITS = 12
"""Of the number of an image, for a table of all."""


class Pairs(NamedTuple):
    """Pairs in both directions, by target; `crossing` are those whose image is not the source itself."""

    target: Int[np.ndarray, "edge"]
    source: Int[np.ndarray, "edge"]
    image: Int[np.ndarray, "edge 3"]
    crossing: Int[np.ndarray, "crossing"]

    def shifted(self, offset: int) -> Self:
        """The same pairs of atoms that are numbered from `offset` on."""
        return self._replace(target=self.target + offset, source=self.source + offset) if offset else self

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Pairs of several structures, whose atoms were numbered through."""
        target, source, image = (np.concatenate(arrays) for arrays in list(zip(*parts, strict=True))[:3])
        order = np.argsort(target, kind="stable")
        image = image[order]
        return cls(target[order], source[order], image, np.flatnonzero(image.any(axis=1)))


def both_directions(
    i: Int[np.ndarray, "pair"],
    j: Int[np.ndarray, "pair"],
    image: Int[np.ndarray, "pair 3"],
    reach: int,
    wraps: Int[np.ndarray, "atom 3"],
    operation: Int[np.ndarray, "3 3"],
) -> Pairs:
    """Each pair from both sides, by target, source and image.

    Every pair comes once: `j` moved by `image`, at most `reach` along each axis, beside `i`, of atoms that were moved
    by -`wraps` into a cell which is `operation` times the structure's own. The images returned are those of the atoms
    and the cell as they were.
    """
    if reach:
        reach = int(np.abs(operation).sum(axis=0).max()) * (reach + int(np.ptp(wraps, axis=0).max()))
    of_atom, of_image = (len(wraps) - 1).bit_length(), (2 * reach).bit_length()
    if 2 * of_atom + 3 * of_image > 63:
        image = (image + wraps[i] - wraps[j]) @ operation
        return _sorted_by_columns(np.r_[i, j], np.r_[j, i], np.r_[image, -image])
    # One number a pair: sorted as it is, and taken apart by its bits. The image's part is linear in the image.
    places = of_image * np.array([2, 1, 0])
    sides = np.empty((2, len(i)), dtype=np.int32 if 2 * of_atom + 3 * of_image < 32 else np.int64)
    for side, target, source in ((sides[0], i, j), (sides[1], j, i)):
        np.left_shift(target, of_atom, out=side, casting="unsafe")
        np.bitwise_or(side, source, out=side, casting="unsafe")
        side <<= 3 * of_image
    if reach:
        here = reach * int((1 << places).sum())
        code = _linear(image, wraps, i, j, operation @ (1 << places))
        np.add(sides[0], here + code, out=sides[0], casting="unsafe")
        np.add(sides[1], here - code, out=sides[1], casting="unsafe")
    key = sides.reshape(-1)
    _sort(key)
    images, crossing = np.zeros((len(key), 3), dtype=np.int64), np.zeros(0, dtype=np.int64)
    if reach:
        code = key & ((1 << 3 * of_image) - 1)
        crossing = np.flatnonzero(code != here)
        images = _images(code, of_image, places, reach)
        key >>= 3 * of_image
    source = key & ((1 << of_atom) - 1)
    key >>= of_atom
    return Pairs(key.astype(np.int64, copy=False), source.astype(np.int64, copy=False), images, crossing)


def _images(
    code: Int[np.ndarray, "edge"], bits: int, places: Int[np.ndarray, "3"], reach: int
) -> Int[np.ndarray, "edge 3"]:
    """From their numbers; where these are few, as nearly always, from a table of all."""
    few = 3 * bits <= MOST_BITS
    numbers = np.arange(1 << 3 * bits) if few else code.astype(np.int64, copy=False)
    images = (numbers[:, None] >> places & ((1 << bits) - 1)) - reach
    return images.take(code, axis=0) if few else images


def _sort(key: Int[np.ndarray, "edge"]) -> None:
    """In place: by merging where keys are nearly in order, as those of chains are, else by splitting."""
    some = key[::SAMPLED]
    down = np.count_nonzero(some[1:] < some[:-1])
    key.sort(kind="stable" if down < NEARLY * len(some) else "quicksort")


def _linear(
    image: Int[np.ndarray, "pair 3"],
    wraps: Int[np.ndarray, "atom 3"],
    i: np.ndarray,
    j: np.ndarray,
    weights: np.ndarray,
) -> Int[np.ndarray, "pair"]:
    """The sum of an image's components with these weights, wraps included."""
    code = sum(np.multiply(image[:, k], weight, dtype=np.int64) for k, weight in enumerate(weights))
    if wraps.any():
        moved = wraps @ weights
        code += moved[i]
        code -= moved[j]
    return code


def _sorted_by_columns(target: np.ndarray, source: np.ndarray, image: np.ndarray) -> Pairs:
    order = np.lexsort((image[:, 2], image[:, 1], image[:, 0], source, target))
    image = image[order]
    return Pairs(target[order], source[order], image, np.flatnonzero(image.any(axis=1)))
