"""Batches filled up to a few sizes, so that what a GPU does for one of a size can be replayed for all of it.

What fills them are structures of atoms in clumps far apart, whose pairs are as many as are missing: of near ones
within a clump, of others between clumps, which are out of every reach. Nothing is asked of their energies and forces.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from mcgm.batch import Batch
from mcgm.neighbors import Neighbors
from mcgm.slots import Slots

LEVELS = (0.35, 0.7, 0.95)
"""Shares of batches that fit into each size but the largest, which takes all that were looked at and a little more."""

ROOM = 0.15
"""Share of its edges for which a size has room in atoms that fill."""

STEP = 4
"""Widths of tables are multiples of it."""

FAR, NEAREST = 50.0, 1 / 3
"""Å between clumps, and distance of neighbours in a clump relative to how near its atoms must be."""

LARGEST_CLUMP = 19
"""A point of a face-centred cubic lattice with its two shells: all within three times the shortest distance."""


@dataclass(frozen=True)
class Size:
    """What is counted in a batch; `near` are edges shorter than a block looks for, `elements` those of each structure.

    `widths` are the most edges, and the most near ones, that arrive at an atom; `largest` the most atoms, and the most
    elements, of a structure.
    """

    structures: int
    atoms: int
    edges: int
    near: int
    elements: int
    widths: tuple[int, int]
    largest: tuple[int, int]

    @classmethod
    def of(cls, batch: Batch, near: float) -> Self:
        """Count."""
        kinds = torch.unique(torch.stack([batch.molecule, batch.numbers]), dim=1)
        target, is_near = batch.neighbors.target, batch.edges.length < near
        lists = (target, target[is_near], batch.molecule, kinds[0])
        most = [int(torch.bincount(each, minlength=1).max()) for each in lists]
        counts = (batch.n_molecules, batch.n_atoms, len(target), int(is_near.sum()), kinds.shape[1])
        return cls(*counts, (most[0], most[1]), (most[2], most[3]))

    @property
    def counts(self) -> tuple[int, int, int, int, int]:
        """What is added up over structures."""
        return self.structures, self.atoms, self.edges, self.near, self.elements


@dataclass(frozen=True)
class Filling:
    """Sizes that batches are filled up to, the smallest first; atoms that fill are of these elements.

    Args:
        near: Å, within which a block looks for neighbours of its own; 0: none does.
    """

    sizes: tuple[Size, ...]
    elements: tuple[int, ...]
    near: float = 0.0

    @classmethod
    def of(cls, batches: Iterable[Batch], near: float = 0.0) -> Self:
        """Sizes for batches like these."""
        elements: set[int] = set()
        found = []
        for batch in batches:
            found.append(Size.of(batch, near))
            elements.update(batch.numbers.unique().tolist())
        counts = np.array([size.counts for size in found], dtype=float)
        mean = counts.mean(axis=0)
        largest = (counts / np.maximum(mean, 1.0)).max(axis=1)
        widths = tuple(STEP * -(-max(size.widths[k] for size in found) // STEP) for k in range(2))
        levels = np.unique([*np.quantile(largest, LEVELS), 1.02 * largest.max()])
        most = tuple(max(size.largest[k] for size in found) for k in range(2))
        sizes = tuple(_room(mean * level, (widths[0], widths[1]), (most[0], most[1])) for level in levels)
        return cls(sizes, tuple(sorted(elements)), near)

    def fill(self, batch: Batch) -> Batch | None:
        """The batch with what fills it up to the first size that it fits into, in float64; `None`: none, or a crystal.

        Args:
            batch: in float64, without an index.
        """
        if batch.periodic:
            return None
        own = Size.of(batch, self.near)
        for size in self.sizes:
            missing = _Missing.of(own, size)
            if missing is not None:
                return missing.added(batch, self.elements, self.near)
        return None

    def widened(self, index: Any) -> Any:
        """The index with tables of the sizes' widths: each by the least of them that is enough."""
        return _widened(index, sorted(self.sizes[0].widths))


def _room(counts: np.ndarray, widths: tuple[int, int], largest: tuple[int, int]) -> Size:
    """A size for these counts, with enough atoms more to have the edges that may be missing."""
    structures, atoms, edges, near, elements = counts
    filling = max(ROOM * edges / max(widths[0], 1), ROOM * near / max(widths[1], 1), 2 * widths[0])
    more = 3 + structures / 16 + filling / largest[0]
    atoms_each, elements_each = (min(2.0, (1 + most) / 2) for most in largest)  # of the others, above one, below most
    return Size(
        structures=int(np.ceil(structures + more)),
        atoms=int(np.ceil(atoms + max(filling + largest[0], atoms_each * more + (largest[0] - atoms_each)))),
        edges=2 * int(np.ceil(edges / 2)),
        near=2 * int(np.ceil(near / 2)),
        elements=int(np.ceil(elements + elements_each * more + (largest[1] - elements_each))),
        widths=widths,
        largest=largest,
    )


@dataclass(frozen=True)
class _Missing:
    """What fills a batch up: pairs are counted once, both ways together.

    The first structure is as large, and of as many elements, as any may be.
    """

    structures: int
    atoms: int
    near: int
    far: int
    elements: int
    clump: int
    largest: tuple[int, int]

    @classmethod
    def of(cls, own: Size, size: Size) -> Self | None:
        """The difference, where atoms can have so many edges and elements."""
        structures, atoms, edges, near, elements = np.subtract(size.counts, own.counts).tolist()
        if structures < 2 or min(atoms, edges, near, edges - near, elements) < 0 or edges % 2 or near % 2:
            return None
        limits = zip((*own.widths, *own.largest), (*size.widths, *size.largest), strict=True)
        if any(mine > most for mine, most in limits):
            return None
        near, far = near // 2, (edges - near) // 2
        room = min(size.widths[1], LARGEST_CLUMP - 1, size.widths[0] - 2 * _turns(far, atoms))
        missing = cls(structures, atoms, near, far, elements, max(room, 0) + 1 if near else 1, size.largest)
        return missing if missing._can_be(size.widths[0]) else None

    def _can_be(self, width: int) -> bool:
        others, atoms, elements = self.structures - 1, self.atoms - self.largest[0], self.elements - self.largest[1]
        if not others <= atoms <= others * self.largest[0]:
            return False
        if not others <= elements <= int(np.minimum(_shared(atoms, others), self.largest[1]).sum()):
            return False
        turns = _turns(self.far, self.atoms)
        has_room = self.clump - 1 + 2 * turns <= width and self.clump + turns <= (self.atoms + 1) // 2
        return has_room and self.near <= self._most_near

    @property
    def _most_near(self) -> int:
        whole, rest = divmod(self.atoms, self.clump)
        return (whole * self.clump * (self.clump - 1) + rest * (rest - 1)) // 2

    def added(self, batch: Batch, elements: Sequence[int], near: float) -> Batch:
        """The batch, then what fills it."""
        source, target = self._edges()
        others = self.structures - 1
        of_others = _shared(self.atoms - self.largest[0], others)
        kinds = _shared(self.elements - self.largest[1], others)
        kinds = np.array([self.largest[1], *_at_most(kinds, np.minimum(of_others, self.largest[1]))])
        of_each = np.array([self.largest[0], *of_others])
        structure = np.repeat(np.arange(self.structures), of_each)
        place = np.arange(self.atoms) - np.repeat(np.cumsum(of_each) - of_each, of_each)
        numbers = np.asarray(elements)[place % kinds[structure]]
        first = batch.n_atoms

        def more(own: torch.Tensor, values: np.ndarray) -> torch.Tensor:
            return torch.cat([own, torch.from_numpy(values).to(own.dtype)])

        neighbors = batch.neighbors
        return batch.replace(
            numbers=more(batch.numbers, numbers),
            positions=more(batch.positions, self._positions(near)),
            molecule=more(batch.molecule, structure + batch.n_molecules),
            cell=more(batch.cell, np.zeros((self.structures, 3, 3))),
            pbc=more(batch.pbc, np.zeros((self.structures, 3), dtype=bool)),
            charge=more(batch.charge, np.zeros(self.structures)),
            spin=more(batch.spin, np.zeros(self.structures)),
            neighbors=Neighbors(
                more(neighbors.source, source + first),
                more(neighbors.target, target + first),
                more(neighbors.image, np.zeros((len(source), 3), dtype=np.int64)),
                neighbors.crossing,
            ),
        )

    def _edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Both ways, by target."""
        atom = np.arange(self.atoms)
        step = np.arange(1, self.clump)
        first, second = (each.ravel() for each in np.broadcast_arrays(atom[:, None], atom[:, None] + step))
        together = (second < self.atoms) & (first // self.clump == second // self.clump)
        near = first[together][: self.near], second[together][: self.near]
        turn, start = np.divmod(np.arange(self.far), self.atoms)
        far = start, (start + self.clump + turn) % self.atoms
        one, other = (np.concatenate(ends) for ends in zip(near, far, strict=True))
        source, target = np.concatenate([one, other]), np.concatenate([other, one])
        order = np.lexsort((source, target))
        return source[order], target[order]

    def _positions(self, near: float) -> np.ndarray:
        """Clumps on a grid, and their atoms around their middles, Å."""
        grid = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3, indexing="ij"), -1).reshape(-1, 3)
        lattice = grid[grid.sum(axis=1) % 2 == 0]
        lattice = lattice[np.argsort((lattice**2).sum(axis=1), kind="stable")] / np.sqrt(2)
        clump, place = np.divmod(np.arange(self.atoms), self.clump)
        side = int(np.ceil((clump[-1] + 1) ** (1 / 3)))
        middles = np.stack(np.unravel_index(clump, (side, side, side)), axis=1)
        return lattice[place] * (near * NEAREST) + FAR * middles


def _turns(far: int, atoms: int) -> int:
    """How often atoms take turns until all far edges have a start."""
    return -(-far // max(atoms, 1))


def _shared(count: int, among: int) -> np.ndarray:
    """Whole numbers that differ by one at most."""
    return np.diff(np.linspace(0, count, among + 1).astype(int))


def _at_most(kinds: np.ndarray, most: np.ndarray) -> np.ndarray:
    """The same sum, and no entry above its limit: what one has too much goes to those with room."""
    kept = np.minimum(kinds, most)
    over = int((kinds - kept).sum())
    room = np.cumsum(most - kept)
    return kept + np.diff(np.minimum(room, over), prepend=0)


def _widened(item: Any, widths: Sequence[int]) -> Any:
    if isinstance(item, Slots):
        enough = next((width for width in widths if width >= item.width), item.width)
        return item.widened(enough)
    if isinstance(item, tuple):
        return tuple(_widened(value, widths) for value in item)
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        fields = {field.name: _widened(getattr(item, field.name), widths) for field in dataclasses.fields(item)}
        return type(item)(**fields)
    return item
