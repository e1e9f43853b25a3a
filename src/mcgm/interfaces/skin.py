"""Pairs found once and used for as long as no pair can be missing: Verlet's list with a skin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from ase.geometry import complete_cell

from mcgm.batch import Batch
from mcgm.errors import ConfigError
from mcgm.neighbors import Neighbors, edge_vectors, find_neighbors
from mcgm.structure import Structure


@dataclass(frozen=True, eq=False)
class WideNeighbors:
    """Pairs within cutoff + skin (Å) of a structure as it stood at the search; serves all structures near it.

    Atoms may since have been wrapped into the cell and the cell may have been strained: a pair now within the cutoff
    was within cutoff + skin then, as long as (cutoff + skin) * smallest stretch - 2 * largest move >= cutoff, where a
    move is what is left of a displacement after the strain. Source: Verlet, Phys. Rev. 159, 98 (1967).
    """

    structure: Structure
    cutoff: float
    skin: float
    pairs: Neighbors

    @classmethod
    def search(cls, structure: Structure, cutoff: float, skin: float) -> WideNeighbors:
        """Search the structure."""
        return cls(structure, cutoff, skin, find_neighbors([structure], cutoff + skin))

    def wraps(self, structure: Structure) -> np.ndarray | None:
        """By how many lattice vectors each atom was moved since the search; `None` if it takes a new one."""
        then = self.structure
        if not np.array_equal(structure.numbers, then.numbers) or not np.array_equal(structure.pbc, then.pbc):
            return None
        positions, deform, stretch = structure.positions, np.eye(3), 1.0
        wraps = np.zeros((len(positions), 3), dtype=np.int64)
        if structure.pbc.any():
            now_cell, then_cell = _periodic_cell(structure), _periodic_cell(then)
            fractional = positions @ np.linalg.inv(now_cell)
            moved = np.round(fractional - then.positions @ np.linalg.inv(then_cell)) * structure.pbc
            wraps = moved.astype(np.int64)
            positions = positions - wraps @ structure.cell
            deform = np.linalg.inv(then_cell) @ now_cell
            stretch = float(np.linalg.svd(deform, compute_uv=False).min())
        moves = np.linalg.norm(positions - then.positions @ deform, axis=1)
        enough = (self.cutoff + self.skin) * stretch - 2 * moves.max() >= self.cutoff
        return wraps if enough else None

    def within_cutoff(self, structure: Structure, wraps: np.ndarray) -> Neighbors:
        """The pairs that are within the cutoff in this structure, which has these `wraps`."""
        pairs, moved = self.pairs, torch.from_numpy(wraps)
        if moved.any():
            image = pairs.image + moved[pairs.target] - moved[pairs.source]
            pairs = replace(pairs, image=image, crossing=torch.nonzero(image.any(dim=1)).flatten())
        molecule = torch.zeros(len(structure), dtype=torch.int64)
        positions, cell = torch.from_numpy(structure.positions), torch.from_numpy(structure.cell)
        near = torch.nonzero(edge_vectors(pairs, positions, cell[None], molecule).length < self.cutoff).flatten()
        image = pairs.image[near]
        crossing = torch.nonzero(image.any(dim=1)).flatten() if len(pairs.crossing) else pairs.crossing
        return Neighbors(pairs.source[near], pairs.target[near], image, crossing)


def _periodic_cell(structure: Structure) -> np.ndarray:
    """The cell with open axes along normals: a vector there, wherever it points, repeats nothing."""
    return complete_cell(structure.cell * structure.pbc[:, None])


class KeptNeighbors:
    """Batches of structures that come again and again; one is searched anew only once it has moved too far.

    Structures are known by their place in the list: others there are searched. `rebuilds` counts the searches.

    Args:
        cutoff: Å.
        skin: Å around the cutoff; half of it is how far atoms may move.

    Raises:
        ConfigError: a skin that is negative or no finite number.
    """

    def __init__(self, cutoff: float, skin: float) -> None:
        if not (isinstance(skin, int | float | np.number) and math.isfinite(skin) and skin >= 0):
            raise ConfigError(f"skin is {skin!r} Å; required: a finite number, zero or more.")
        self.cutoff = cutoff
        self.skin = skin
        self.rebuilds = 0
        self._wide: list[WideNeighbors] = []
        self._given: list[Neighbors] = []

    def batch(self, structures: Sequence[Structure]) -> Batch:
        """The structures in float64 on the CPU, with the pairs within the cutoff."""
        del self._wide[len(structures) :]
        placed = [self._place(k, structure) for k, structure in enumerate(structures)]
        return self._side_by_side(structures, placed, skin=0.0)

    def wide_batch(self, structures: Sequence[Structure]) -> tuple[Batch, bool]:
        """Likewise with all pairs found, those in the skin included, and whether any are not those of the last call."""
        del self._wide[len(structures) :]
        for k, structure in enumerate(structures):
            wraps = self._wide[k].wraps(structure) if k < len(self._wide) else None
            if wraps is None or wraps.any():
                self._search(k, structure)
        last, self._given = self._given, [wide.pairs for wide in self._wide]
        is_new = len(last) != len(self._given) or any(a is not b for a, b in zip(last, self._given, strict=True))
        return self._side_by_side(structures, self._given, skin=self.skin), is_new

    def _side_by_side(self, structures: Sequence[Structure], pairs: Sequence[Neighbors], skin: float) -> Batch:
        sizes = torch.tensor([len(structure) for structure in structures])

        def stack(name: str) -> torch.Tensor:
            return torch.from_numpy(np.array([getattr(s, name) for s in structures]))

        return Batch(
            numbers=torch.from_numpy(np.concatenate([s.numbers for s in structures])),
            positions=torch.from_numpy(np.concatenate([s.positions for s in structures])),
            molecule=torch.repeat_interleave(torch.arange(len(structures)), sizes),
            cell=stack("cell"),
            pbc=stack("pbc"),
            charge=stack("charge"),
            spin=stack("spin"),
            neighbors=_side_by_side(pairs, sizes.tolist()),
            cutoff=self.cutoff,
            skin=skin,
            periodic=any(bool(s.pbc.any()) for s in structures),
        )

    def _place(self, k: int, structure: Structure) -> Neighbors:
        """Pairs of the k-th structure, of the last search there if they still serve."""
        wraps = self._wide[k].wraps(structure) if k < len(self._wide) else None
        if wraps is None:
            self._search(k, structure)
            wraps = np.zeros((len(structure), 3), dtype=np.int64)
        return self._wide[k].within_cutoff(structure, wraps)

    def _search(self, k: int, structure: Structure) -> None:
        self._wide[k : k + 1] = [WideNeighbors.search(structure, self.cutoff, self.skin)]
        self.rebuilds += 1


def _side_by_side(pairs: Sequence[Neighbors], sizes: Sequence[int]) -> Neighbors:
    """Atoms, and edges that cross, numbered through."""
    if len(pairs) == 1:
        return pairs[0]
    atoms = np.concatenate([[0], np.cumsum(sizes)])
    edges = np.concatenate([[0], np.cumsum([len(each.source) for each in pairs])])
    return Neighbors(
        source=torch.cat([each.source + int(first) for each, first in zip(pairs, atoms, strict=False)]),
        target=torch.cat([each.target + int(first) for each, first in zip(pairs, atoms, strict=False)]),
        image=torch.cat([each.image for each in pairs]),
        crossing=torch.cat([each.crossing + int(first) for each, first in zip(pairs, edges, strict=False)]),
    )
