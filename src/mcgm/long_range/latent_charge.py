"""Charges predicted from the local features, and their Coulomb energy: an interaction that decays as 1/R."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from mcgm.activations import silu
from mcgm.batch import Batch
from mcgm.errors import ConfigError, unknown_name
from mcgm.long_range.base import Contribution, Electrostatics, IndexReads, LongRange, LongRangeSpec, Promise
from mcgm.long_range.coulomb import SUMS, OpenPairs, Sum, coulomb_potential
from mcgm.long_range.mcgm.assignment import Assignment
from mcgm.long_range.options import require_positive
from mcgm.long_range.selection import Selection
from mcgm.segments import segment_sum, take

CONSTRAINTS = ("total", "none")


@dataclass(frozen=True)
class LatentCharges(LongRangeSpec):
    """Charges from the last layer's scalars, and the Coulomb energy of Gaussians around the atoms.

    Needs no charge labels (the energy teaches them), takes them where there are some. Open structures: all pairs.
    Source of the idea: LES, arXiv:2408.15165; the constraint is ours.

    Args:
        width: sigma of the Gaussians' interaction, Å: erf(r / (sqrt(2) width)) / r, that of point charges from about
            three widths on, finite where atoms touch.
        constraint: "total": charges sum to the total charge of the structure, what is missing is shared out by learned
            weights; "none": they need not, and two far molecules do not know of each other. Under both, training on
            the total (`loss.total_charge_weight`) teaches atoms to find it by themselves: then little is shared.
        periodic_sum: "ewald": explicit; "pme": on a mesh, for thousands of atoms in a cell.
    """

    width: float = 1.0
    constraint: Literal["total", "none"] = "total"
    periodic_sum: Literal["ewald", "pme"] = "ewald"

    def __post_init__(self) -> None:
        require_positive("width", self.width, "Å")
        for key, table in (("constraint", CONSTRAINTS), ("periodic_sum", tuple(SUMS))):
            if getattr(self, key) not in table:
                raise ConfigError(f"{key}: " + unknown_name("choice", getattr(self, key), table))

    @property
    def has_charges(self) -> bool:
        """Yes."""
        return True

    @property
    def knows_total_charge(self) -> bool:
        """Whether charges sum to it."""
        return self.constraint == "total"

    @property
    def not_promised(self) -> dict[Promise, str]:
        """What interacts as 1/R never stands alone."""
        return {
            "copies": "charges of copies interact at any distance",
            "isolation": "an atom without neighbours feels the charges far away",
        }

    @property
    def index_reads(self) -> IndexReads:
        """Wave vectors of the reciprocal lattice."""
        return "cell"

    def build(self, channels: int, layers: int) -> LongRange:
        """The module for a backbone of this width."""
        constraint = TotalCharge() if self.constraint == "total" else Unconstrained()
        return ChargeBlock(channels, self.width, constraint, SUMS[self.periodic_sum](self.width))


@dataclass(frozen=True, eq=False)
class ChargeIndex:
    """Pairs of open structures, places of periodic ones, and what their sum needs."""

    pairs: OpenPairs
    periodic: Selection
    lattice: Any


class TotalCharge(nn.Module):
    """What is missing to the total charge goes to the atoms in proportion to their weights.

    That is where sum (q - q')² / weight is smallest: charge equilibration with hardness alone.
    """

    def forward(
        self,
        batch: Batch,
        charges: Float[Tensor, "atom"],
        weights: Float[Tensor, "atom"],
        missing: Float[Tensor, "molecule"],
    ) -> Float[Tensor, "atom"]:
        """Charges that sum to `batch.charge` in every structure."""
        share = missing / segment_sum(weights, batch.molecule, batch.n_molecules)
        return charges + weights * take(share, batch.molecule)


class Unconstrained(nn.Module):
    """Charges as predicted."""

    def forward(
        self,
        batch: Batch,
        charges: Float[Tensor, "atom"],
        weights: Float[Tensor, "atom"],
        missing: Float[Tensor, "molecule"],
    ) -> Float[Tensor, "atom"]:
        """The same charges."""
        return charges


class ChargeBlock(LongRange):
    """Predicts charges after the last layer; exchanges nothing before it."""

    def __init__(self, channels: int, width: float, constraint: nn.Module, periodic_sum: Sum) -> None:
        super().__init__()
        self.hidden = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, 2)
        nn.init.normal_(self.output.weight, std=0.5 / channels**0.5)
        nn.init.zeros_(self.output.bias)
        self.constraint = constraint
        self.periodic_sum = periodic_sum
        self.potential = coulomb_potential(width)

    def index(self, batch: Batch) -> ChargeIndex:
        """See `ChargeIndex`."""
        periodic = Selection.lattices(batch)
        return ChargeIndex(OpenPairs.of(batch), periodic, self.periodic_sum.index(batch, periodic))

    def begin(
        self,
        batch: Batch,
        index: ChargeIndex,
        *,
        clusters: tuple[tuple[Assignment, ...], ...] | None,
        generator: torch.Generator | None,
    ) -> Batch:
        """The batch, with the index at hand."""
        return replace(batch, index=index)

    def exchange(self, layer: int, scalars: Float[Tensor, "atom channel"], state: Batch) -> tuple[None, Batch]:
        """No update."""
        return None, state

    def contribution(self, scalars: Float[Tensor, "atom channel"], state: Batch) -> Contribution:
        """Charges and their energies."""
        batch, index = state, state.index
        charges, softness = self.output(silu(self.hidden(scalars))).unbind(-1)
        missing = batch.charge - segment_sum(charges, batch.molecule, batch.n_molecules)
        charges = self.constraint(batch, charges, softplus(softness), missing)
        energy = index.pairs.energies(batch, charges, self.potential)
        if len(index.periodic):
            energy = energy + self.periodic_sum(batch, index.periodic, index.lattice, charges, self.potential)
        return replace(Contribution.none(batch), electrostatics=Electrostatics(charges, energy, missing))
