"""How far one hierarchy reaches: over a whole structure, or over each covalently connected molecule in it.

| scope | energy of molecules out of reach of each other | a bond forms or breaks |
|---|---|---|
| `WholeSystem` | not a sum: each knows of the other at any distance | smooth |
| `BondedMolecules` | exactly a sum | a step |
| `FadingMolecules` (in `fading.py`) | exactly a sum | smooth |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from ase.data import covalent_radii
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from mcgm.batch import Batch
from mcgm.long_range.mcgm.assignment import Nodes
from mcgm.neighbors import Edges
from mcgm.segments import take

BONDED = 1.25
"""Two atoms are bonded below this multiple of the sum of their covalent radii (Cordero et al. 2008)."""


@dataclass(frozen=True, eq=False)
class Presence:
    """How much of guests is there, 0 to 1: `weight` in means, 1 for atoms at home; `reach` of the guest's element.

    The latter is 1 where an atom at home is of this element, and the same for all guests of one element.
    """

    weight: Float[Tensor, "guest"]
    reach: Float[Tensor, "guest"]


class Guests(Protocol):
    """Atoms that are seen in a group besides their own, each in part."""

    @property
    def atom(self) -> Int[Tensor, "guest"]:
        """Which atom."""

    @property
    def group(self) -> Int[Tensor, "guest"]:
        """In which group it is a guest."""

    def presence(self, batch: Batch) -> Presence:
        """How much of it is there, differentiable in positions and cell."""


@dataclass(frozen=True, eq=False)
class Groups:
    """Group of every atom, and structure of every group; numbered structure after structure.

    `guests` are atoms of other groups that a group also sees; `None` where there are none.
    """

    group: Int[Tensor, "atom"]
    molecule: Int[Tensor, "group"]
    guests: Guests | None = None

    def nodes(self, numbers: Int[Tensor, "atom"]) -> Nodes:
        """Atoms, and after all of them guests, as nodes of the kind that their atomic numbers say."""
        group = self.group
        if self.guests is not None:
            group = torch.cat([group, self.guests.group])
            numbers = torch.cat([numbers, take(numbers, self.guests.atom)])
        return Nodes.grouped(group, len(self.molecule), numbers)


class Scope(nn.Module, ABC):
    """Splits the atoms of a batch into the groups that share a hierarchy."""

    @abstractmethod
    def forward(self, batch: Batch) -> Groups:
        """The groups of a batch, an index: nothing in it is differentiable."""


class WholeSystem(Scope):
    """One hierarchy per structure: fragments know of each other at any distance."""

    def forward(self, batch: Batch) -> Groups:
        """Group and structure are the same."""
        return Groups(batch.molecule, torch.arange(batch.n_molecules, device=batch.device))


class BondedMolecules(Scope):
    """One hierarchy per covalently connected molecule, periodic images included.

    Two molecules out of reach of the backbone do not know of each other, exactly. The energy changes abruptly where a
    bond passes 1.25 times the sum of covalent radii: for rules that jump anyway.
    """

    def forward(self, batch: Batch) -> Groups:
        """Connected components of the bond graph, numbered by their first atom."""
        with torch.no_grad():
            edges = batch.edges
        label, first = components(edges, edges.length < BONDED * covalent_sum(batch, edges), batch.n_atoms)
        return Groups(torch.from_numpy(label).to(batch.device), batch.molecule[torch.from_numpy(first)])


def covalent_sum(batch: Batch, edges: Edges) -> Float[Tensor, "edge"]:
    """Sum of the covalent radii at the ends of every edge, Å."""
    radius = torch.as_tensor(covalent_radii, dtype=edges.length.dtype, device=batch.device)[batch.numbers]
    return radius[edges.source] + radius[edges.target]


def components(edges: Edges, bond: Bool[Tensor, "edge"], atoms: int) -> tuple[np.ndarray, np.ndarray]:
    """Connected component of every atom, numbered by their first atoms, and those first atoms."""
    rows = edges.source[bond].cpu().numpy(), edges.target[bond].cpu().numpy()
    graph = coo_array((np.ones(len(rows[0]), dtype=bool), rows), shape=(atoms, atoms))
    found = connected_components(graph, directed=False)[1]
    _, first, label = np.unique(found, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(first)
    rank[order] = np.arange(len(first))
    return rank[label], first[order]
