"""The slot after every interaction layer: what a long-range block must offer, and what it gives back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mcgm.batch import Batch
from mcgm.long_range.mcgm.assignment import Assignment

Promise = Literal[
    "smooth", "derivatives", "rotation", "reflection", "translation", "wrapping", "copies", "supercell", "isolation"
]
"""What a potential promises of its energy unless its block says that it does not (`LongRangeSpec.not_promised`).

smooth: no jump, and none of the force, along a path; derivatives: forces and Hessians are those of the energy at every
structure; rotation, reflection, translation: of the whole structure; wrapping: of atoms by lattice vectors; copies, far
apart: n times the energy; supercell: the same energy per atom; isolation: an atom alone feels no force.
"""

IndexReads = Literal["neighbors", "cell", "positions"]
"""What an index is made of besides composition, neighbours and periodic axes: nothing, the cell, or positions too."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """One level of a hierarchy as it stood at one layer, above the level `below` (`None`: atoms).

    `energy` (before the potential's scale) is there at the last layer only.
    """

    assignment: Assignment
    molecule: Int[Tensor, "cluster"]
    below: Clusters | None = None
    energy: Float[Tensor, "cluster"] | None = None

    @property
    def mass(self) -> Float[Tensor, "cluster"]:
        """Number of atoms in each cluster, in parts where it is soft."""
        weight = self.assignment.weight
        return self.assignment.total(
            weight.new_ones(self.assignment.members) if self.below is None else self.below.mass
        )


@dataclass(frozen=True, eq=False)
class Electrostatics:
    """Charges of the atoms, e, and their Coulomb energies, eV (not multiplied by the potential's scale).

    `missing` is what the charges that atoms predict by themselves lack to the total charge, e: what a constraint shares
    out among all atoms of the structure, however far apart.
    """

    charges: Float[Tensor, "atom"]
    energy: Float[Tensor, "atom"]
    missing: Float[Tensor, "molecule"]


@dataclass(frozen=True, eq=False)
class Contribution:
    """What a block adds to the energy, before the potential's scale: one term per node, summed over each molecule.

    `clusters` holds the levels of every layer, outermost tuple over layers; empty for blocks without clusters.
    `electrostatics` is there for blocks with charges.
    """

    energy: Float[Tensor, "node"]
    molecule: Int[Tensor, "node"]
    clusters: tuple[tuple[Clusters, ...], ...] = ()
    electrostatics: Electrostatics | None = None

    @classmethod
    def none(cls, batch: Batch) -> Contribution:
        """No energy at all."""
        return cls(batch.positions.new_zeros(0), batch.molecule[:0])


class LongRange(nn.Module, ABC):
    """One long-range block for all layers of a backbone. Subclasses are final and never import `mcgm.backbones`.

    `Potential` calls `begin` once, `exchange` after every interaction layer, and `contribution` at the end. The state
    carries what the block keeps between layers; the module itself is never written to.
    """

    def index(self, batch: Batch) -> Any:
        """Index tensors derived once from a batch, a frozen dataclass; default none."""
        return None

    @abstractmethod
    def begin(
        self,
        batch: Batch,
        index: Any,
        *,
        clusters: tuple[tuple[Assignment, ...], ...] | None,
        generator: torch.Generator | None,
    ) -> Any:
        """First state. `clusters` prescribes assignments (layer, level); `generator` is where chance may enter."""

    @abstractmethod
    def exchange(
        self, layer: int, scalars: Float[Tensor, "atom channel"], state: Any
    ) -> tuple[Float[Tensor, "atom channel"] | None, Any]:
        """Update to add to the scalars (`None`: nothing) and the next state."""

    @abstractmethod
    def contribution(self, scalars: Float[Tensor, "atom channel"], state: Any) -> Contribution:
        """Energies that are not an atom's own."""

    def labelled_as(self, labelled: Any, index: Any) -> Any:
        """Index of a batch that is given the clusters of another frame, with that frame's index: default, its own."""
        return index

    def penalty(self) -> Float[Tensor, ""] | None:
        """A term of its weights that training adds to the loss of every step; default none."""
        return None


class LongRangeSpec(ABC):
    """The choice of a block with its options, before widths are known: a frozen dataclass of plain values."""

    @property
    def not_promised(self) -> dict[Promise, str]:
        """Promises that a potential with this block does not make, each with the reason; default: none is left out."""
        return {}

    @property
    def is_smooth(self) -> bool:
        """Whether the energy is a smooth function of the positions with this block."""
        return "smooth" not in self.not_promised

    @property
    def has_labels(self) -> bool:
        """Whether what makes the energy jump are labels of clusters, so that it is smooth where they are frozen."""
        return False

    @property
    def has_charges(self) -> bool:
        """Whether the block predicts charges."""
        return False

    @property
    def knows_total_charge(self) -> bool:
        """Whether the block is told the total charge of a structure; else ions are like neutral structures to it."""
        return False

    @property
    def is_separable(self) -> bool:
        """Whether molecules out of each other's reach do not know of each other: their energies add up exactly."""
        return False

    @property
    def reads_positions(self) -> bool:
        """Whether the energy depends on positions or cell otherwise than through the scalars; default: it does."""
        return True

    @property
    def index_reads(self) -> IndexReads:
        """What the block's index changes with; default: positions if the block reads them at all."""
        return "positions" if self.reads_positions else "neighbors"

    @property
    def index_reach(self) -> float:
        """Å within which the block's index lists neighbours apart from the others; default 0: it does not."""
        return 0.0

    @abstractmethod
    def build(self, channels: int, layers: int) -> LongRange:
        """The module for a backbone of this width and depth."""
