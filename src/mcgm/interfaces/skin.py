"""Pairs found once and used for as long as no pair can be missing: Verlet's list with a skin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from ase.geometry import complete_cell

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

    def unwrapped(self, structure: Structure) -> np.ndarray | None:
        """Positions (Å) without the wraps since the search, or `None` if the structure needs a new one."""
        then = self.structure
        if not np.array_equal(structure.numbers, then.numbers) or not np.array_equal(structure.pbc, then.pbc):
            return None
        positions, deform, stretch = structure.positions, np.eye(3), 1.0
        if structure.pbc.any():
            now_cell, then_cell = complete_cell(structure.cell), complete_cell(then.cell)
            fractional = positions @ np.linalg.inv(now_cell)
            wraps = np.round(fractional - then.positions @ np.linalg.inv(then_cell)) * structure.pbc
            positions = positions - wraps @ structure.cell
            deform = np.linalg.inv(then_cell) @ now_cell
            stretch = float(np.linalg.svd(deform, compute_uv=False).min())
        moves = np.linalg.norm(positions - then.positions @ deform, axis=1)
        enough = (self.cutoff + self.skin) * stretch - 2 * moves.max() >= self.cutoff
        return positions if enough else None

    def within_cutoff(self, positions: np.ndarray, cell: np.ndarray) -> Neighbors:
        """The pairs that are within the cutoff at these positions, which `unwrapped` gave."""
        molecule = torch.zeros(len(positions), dtype=torch.int64)
        edges = edge_vectors(self.pairs, torch.from_numpy(positions), torch.from_numpy(cell)[None], molecule)
        near = edges.length < self.cutoff
        image = self.pairs.image[near]
        return Neighbors(
            source=self.pairs.source[near],
            target=self.pairs.target[near],
            image=image,
            crossing=torch.nonzero(image.any(dim=1)).flatten(),
        )
