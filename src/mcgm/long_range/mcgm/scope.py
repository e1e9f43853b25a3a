"""How far one hierarchy reaches: over a whole structure, or over each covalently connected molecule in it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from ase.data import covalent_radii
from jaxtyping import Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from mcgm.batch import Batch

BOND_TOLERANCE = 1.25
"""Two atoms are bonded below this multiple of the sum of their covalent radii (Cordero et al. 2008)."""


class Scope(nn.Module, ABC):
    """Splits the atoms of a batch into the groups that share a hierarchy."""

    @abstractmethod
    def forward(self, batch: Batch) -> tuple[Int[Tensor, "atom"], Int[Tensor, "group"]]:
        """Group of every atom, and the structure of every group; groups are numbered structure after structure."""


class WholeSystem(Scope):
    """One hierarchy per structure: fragments know of each other at any distance."""

    def forward(self, batch: Batch) -> tuple[Int[Tensor, "atom"], Int[Tensor, "group"]]:
        """Group and structure are the same."""
        return batch.molecule, torch.arange(batch.n_molecules, device=batch.device)


class EachMolecule(Scope):
    """One hierarchy per covalently connected molecule, periodic images included.

    Two molecules out of reach of the backbone do not know of each other, exactly. The energy changes abruptly where a
    bond passes 1.25 times the sum of covalent radii.
    """

    def forward(self, batch: Batch) -> tuple[Int[Tensor, "atom"], Int[Tensor, "group"]]:
        """Connected components of the bond graph, numbered by their first atom."""
        with torch.no_grad():
            edges = batch.edges
        radius = torch.as_tensor(covalent_radii, dtype=edges.length.dtype, device=batch.device)[batch.numbers]
        bond = edges.length < BOND_TOLERANCE * (radius[edges.source] + radius[edges.target])
        rows = edges.source[bond].cpu().numpy(), edges.target[bond].cpu().numpy()
        graph = coo_array((np.ones(len(rows[0]), dtype=bool), rows), shape=(batch.n_atoms, batch.n_atoms))
        label = connected_components(graph, directed=False)[1]
        _, first, group = np.unique(label, return_index=True, return_inverse=True)
        rank = np.empty_like(first)
        order = np.argsort(first)
        rank[order] = np.arange(len(first))
        return (
            torch.from_numpy(rank[group]).to(batch.device),
            batch.molecule[torch.from_numpy(first[order]).to(batch.device)],
        )


SCOPES: dict[str, type[Scope]] = {"system": WholeSystem, "molecule": EachMolecule}
"""Scopes by the name that specifications use."""
