"""Which atoms are within the cutoff of each other, and the vectors between them. No neighbour cap anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import vesin
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from mcgm.errors import StructureError
from mcgm.lattice import heights, reduced_cell, refuse_coarse, refuse_dense, translations
from mcgm.segments import take
from mcgm.structure import Structure

TOO_CLOSE = 0.1
"""Å; two atoms nearer than this are taken for a mistake in the file."""

DENSE_UP_TO = 160
"""Open molecules up to this many atoms are searched together as one padded array; larger ones by cell lists."""

MOST_BOXES, MOST_OPEN_BOXES = 50_000, 200
"""Boxes of the cutoff's size, in all and along the open axes of a slab or wire; more are searched by a tree. Above
100,000 vesin 0.6 divides by zero (SIGFPE) where one axis is short; in slabs and wires empty space takes its time."""


@dataclass(frozen=True, eq=False)
class Neighbors:
    """Pairs within the cutoff, each in both directions, sorted by target.

    `image` counts the cell vectors to add to the source's position; `crossing` lists the edges where it is not zero.
    """

    source: Int[Tensor, "edge"]
    target: Int[Tensor, "edge"]
    image: Int[Tensor, "edge 3"]
    crossing: Int[Tensor, "crossing"]


@dataclass(frozen=True, eq=False)
class Edges:
    """Messages run from source to target; `vector` points from target to source, Å."""

    source: Int[Tensor, "edge"]
    target: Int[Tensor, "edge"]
    vector: Float[Tensor, "edge 3"]
    length: Float[Tensor, "edge"]


class Pairs(NamedTuple):
    """Pairs of one or more structures as arrays, with atoms numbered through."""

    target: np.ndarray
    source: np.ndarray
    image: np.ndarray


def find_neighbors(structures: Sequence[Structure], cutoff: float) -> Neighbors:
    """All pairs closer than the cutoff (Å) in each structure, atoms numbered through the batch.

    Raises:
        StructureError: two atoms of one structure are closer than 0.1 Å, or they have more neighbours than any
            material (see `mcgm.lattice.refuse_dense`); the latter is found before any pair is stored.
    """
    offsets = np.cumsum([0, *(len(structure) for structure in structures)])
    small = [k for k, s in enumerate(structures) if not s.pbc.any() and len(s) <= DENSE_UP_TO]
    large = [k for k in range(len(structures)) if k not in set(small)]
    parts = [_search_cells(structures[k], cutoff, offsets[k]) for k in large]
    if small:
        parts.append(_search_dense([structures[k] for k in small], cutoff, offsets[:-1][small]))
    if len(parts) == 1:
        target, source, image = parts[0]
    else:
        target, source, image = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        order = np.argsort(target, kind="stable")
        target, source, image = target[order], source[order], image[order]
    crossing = np.flatnonzero(image[:, 0] | image[:, 1] | image[:, 2]) if large else np.zeros(0, dtype=np.int64)
    return Neighbors(*(torch.from_numpy(array) for array in (source, target, image, crossing)))


def _search_cells(structure: Structure, cutoff: float, offset: int) -> Pairs:
    cell, operation = reduced_cell(structure)
    _refuse_short_vectors(structure, cell)
    refuse_dense(structure, cell, cutoff)
    # vesin 0.6 takes forever where atoms of a slab are many cells apart, as after dynamics
    wraps = np.floor(structure.positions @ np.linalg.pinv(cell)).astype(np.int64) * structure.pbc
    inside = structure.positions - wraps @ cell
    length = heights(cell, structure.pbc)
    span = np.ptp(inside, axis=0)
    extent = np.where(structure.pbc, length, np.linalg.norm(span)) if structure.pbc.any() else span
    boxes = np.maximum(extent / cutoff, 1.0)
    if np.prod(boxes) > MOST_BOXES or (structure.pbc.any() and np.prod(boxes[~structure.pbc]) > MOST_OPEN_BOXES):
        shifts = translations(np.floor(cutoff / length) + structure.pbc)
        (i, j, image), distance = _search_images(inside, cell, shifts, cutoff)
    else:
        search = vesin.NeighborList(cutoff=cutoff, full_list=True)  # sorting is quicker below
        i, j, image, distance = search.compute(inside, cell, structure.pbc, "ijSd")
    _refuse_overlaps(structure, i, j, distance)
    i, j, image = i.astype(np.int64), j.astype(np.int64), image.astype(np.int64)
    if wraps.any():
        image = image + wraps[i] - wraps[j]
    if not np.array_equal(operation, np.eye(3)):
        image = image @ operation
    i, j, image = _canonical(i, j, image, len(structure))
    refuse_coarse(structure, cell, image)
    return Pairs(i + offset, j + offset, image)


def _search_images(
    inside: Float[np.ndarray, "atom 3"],
    cell: Float[np.ndarray, "3 3"],
    shifts: Int[np.ndarray, "image 3"],
    cutoff: float,
) -> tuple[Pairs, Float[np.ndarray, "edge"]]:
    """By a tree over atoms and their images: slower than boxes, but free space costs nothing."""
    images = (inside + (shifts @ cell)[:, None]).reshape(-1, 3)
    near = ((images > inside.min(axis=0) - cutoff) & (images < inside.max(axis=0) + cutoff)).all(axis=1)
    where = np.flatnonzero(near)
    found = cKDTree(inside).sparse_distance_matrix(cKDTree(images[near]), cutoff, output_type="ndarray")
    i, copy, distance = found["i"].astype(np.int64), where[found["j"]], found["v"]
    j, shift = copy % len(inside), shifts[copy // len(inside)]
    pair = (distance < cutoff) & ((i != j) | shift.any(axis=1))
    return Pairs(i[pair], j[pair], shift[pair]), distance[pair]


def _canonical(i: np.ndarray, j: np.ndarray, image: np.ndarray, atoms: int) -> Pairs:
    """Pairs by target, source and image, whatever the search."""
    key = i * atoms + j
    if (key[1:] < key[:-1]).any():
        order = np.argsort(key)
        i, j, key = i[order], j[order], key[order]
        image = image[order] if image.any() else image
    if (key[1:] == key[:-1]).any():
        order = np.lexsort((image[:, 2], image[:, 1], image[:, 0], key))
        i, j, image = i[order], j[order], image[order]
    return Pairs(i, j, image)


def _search_dense(structures: Sequence[Structure], cutoff: float, offsets: np.ndarray) -> Pairs:
    """Every pair of every open molecule in one padded array."""
    sizes = np.array([len(structure) for structure in structures])
    width = int(sizes.max())
    positions = np.full((len(sizes), width, 3), np.nan)  # nothing is near what is not there
    positions[np.arange(width) < sizes[:, None]] = np.concatenate([structure.positions for structure in structures])
    padded = torch.from_numpy(positions)
    distance = torch.cdist(padded, padded, compute_mode="donot_use_mm_for_euclid_dist").numpy()
    diagonal = np.arange(width)
    distance[:, diagonal, diagonal] = np.inf
    if (distance < TOO_CLOSE).any():
        k, i, j = (index[:1] for index in np.nonzero(distance < TOO_CLOSE))
        _refuse_overlaps(structures[int(k[0])], i, j, distance[k, i, j])
    found = np.flatnonzero(distance < cutoff)
    row = found // width  # of all molecules' atoms, padding included
    molecule = row // width
    first = (offsets - width * np.arange(len(sizes)))[molecule]
    target = row + first
    source = found - row * width + offsets[molecule]
    return Pairs(target, source, np.zeros((len(found), 3), dtype=np.int64))


def _refuse_overlaps(structure: Structure, i: np.ndarray, j: np.ndarray, distance: np.ndarray) -> None:
    near = np.flatnonzero(distance < TOO_CLOSE)
    if len(near):
        k = near[0]
        who = f"atoms {i[k]} and {j[k]}" if i[k] != j[k] else f"atom {i[k]} and its own periodic image"
        raise StructureError(
            f"{structure}: {who} are {distance[k]:.4f} Å apart; required: at least {TOO_CLOSE} Å. "
            "Remove the duplicate atom, or check the unit of length."
        )


def _refuse_short_vectors(structure: Structure, cell: np.ndarray) -> None:
    """A lattice vector is the distance of every atom from an image of itself."""
    length = np.linalg.norm(cell[structure.pbc], axis=1)
    if (length < TOO_CLOSE).any():
        raise StructureError(
            f"{structure}: atom 0 and its own periodic image are {length.min():.4g} Å apart; required: at least "
            f"{TOO_CLOSE} Å. The cell is {structure.cell.tolist()} Å: check its vectors and their unit."
        )


def edge_vectors(
    neighbors: Neighbors,
    positions: Float[Tensor, "atom 3"],
    cell: Float[Tensor, "molecule 3 3"],
    molecule: Int[Tensor, "atom"],
    rounding: Float[Tensor, "edge 3"] | None = None,
) -> Edges:
    """Vectors and lengths of the pairs, differentiable in positions and cell; `rounding` (Å) is added to them."""
    vector = pair_vectors(neighbors, positions, cell, molecule)
    if rounding is not None:
        vector = vector + rounding
    return Edges(neighbors.source, neighbors.target, vector, torch.linalg.vector_norm(vector, dim=-1))


def pair_vectors(
    neighbors: Neighbors,
    positions: Float[Tensor, "atom 3"],
    cell: Float[Tensor, "molecule 3 3"],
    molecule: Int[Tensor, "atom"],
) -> Float[Tensor, "edge 3"]:
    """From the target of each pair to its source (Å), periodic images included."""
    vector = take(positions, neighbors.source) - take(positions, neighbors.target)
    crossing = neighbors.crossing
    lattice = take(cell, molecule[neighbors.target[crossing]])
    shift = torch.einsum("ea,eab->eb", neighbors.image[crossing].to(cell.dtype), lattice)
    return vector.index_add(0, crossing, shift)
