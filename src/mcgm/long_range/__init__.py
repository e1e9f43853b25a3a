"""Blocks for the slot after every interaction layer: MCGM, controls and rivals. Never imports `mcgm.backbones`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from mcgm.long_range.base import Clusters, Contribution, LongRange, LongRangeSpec
from mcgm.long_range.controls import AtomWise, ElementMean, GlobalMean, NoLongRange
from mcgm.long_range.ewald import EwaldMessages
from mcgm.long_range.latent_charge import LatentCharges
from mcgm.long_range.mcgm.specification import MCGM
from mcgm.long_range.neural_atoms import NeuralAtoms
from mcgm.long_range.orientation import Orientations
from mcgm.long_range.p3m import NeuralP3M
from mcgm.long_range.relay import RANGE
from mcgm.long_range.together import Together


def mcgm_with_charges(
    *,
    levels: int = 3,
    reduction: float = 2.0,
    activation: str = "silu",
    scope: Literal["system", "molecule"] = "system",
    width: float = 1.0,
    constraint: Literal["total", "none"] = "total",
    periodic_sum: Literal["ewald", "pme"] = "ewald",
) -> Together:
    """MCGM, smooth, and latent charges: global context and a 1/R tail. For the options see there."""
    mcgm = MCGM.smooth(levels=levels, reduction=reduction, activation=activation, scope=scope)
    return Together((mcgm, LatentCharges(width=width, constraint=constraint, periodic_sum=periodic_sum)))


def mcgm_with_orientations(
    *,
    levels: int = 3,
    reduction: float = 2.0,
    activation: str = "silu",
    scope: Literal["system", "molecule"] = "system",
    tensors: int = 16,
    reach: float = 3.0,
) -> Together:
    """MCGM, smooth, and an exchange of vectors and tensors within elements. For the options see there."""
    mcgm = MCGM.smooth(levels=levels, reduction=reduction, activation=activation, scope=scope)
    return Together((mcgm, Orientations(tensors=tensors, reach=reach, scope=scope)))


def mcgm_with_orientations_and_charges(
    *,
    levels: int = 3,
    reduction: float = 2.0,
    activation: str = "silu",
    scope: Literal["system", "molecule"] = "system",
    tensors: int = 16,
    reach: float = 3.0,
    width: float = 1.0,
    constraint: Literal["total", "none"] = "total",
    periodic_sum: Literal["ewald", "pme"] = "ewald",
) -> Together:
    """MCGM, smooth, orientations and latent charges: context, directions and a 1/R tail. For the options see there."""
    oriented = mcgm_with_orientations(
        levels=levels, reduction=reduction, activation=activation, scope=scope, tensors=tensors, reach=reach
    )
    charges = LatentCharges(width=width, constraint=constraint, periodic_sum=periodic_sum)
    return Together((*oriented.blocks, charges))


BLOCKS: dict[str, Callable[..., LongRangeSpec]] = {
    "none": NoLongRange,
    "mcgm": MCGM.smooth,
    "mcgm_mixing": MCGM.mixing,
    "mcgm_alone": MCGM.alone,
    "mcgm_paper": MCGM.paper,
    "mcgm_random": MCGM.random,
    "mcgm_kmeans": MCGM.kmeans,
    "atom_wise": AtomWise,
    "global_mean": GlobalMean,
    "element_mean": ElementMean,
    "charges": LatentCharges,
    "mcgm_charges": mcgm_with_charges,
    "orientations": Orientations,
    "mcgm_oriented": mcgm_with_orientations,
    "mcgm_oriented_charges": mcgm_with_orientations_and_charges,
    "range": RANGE,
    "neural_atoms": NeuralAtoms,
    "ewald": EwaldMessages.of_size,
    "neural_p3m": NeuralP3M.of_size,
}
"""Blocks by the name that `build` and configurations use."""

SPECIFICATIONS: dict[str, type[Any]] = {
    "none": NoLongRange,
    "mcgm": MCGM,
    "atom_wise": AtomWise,
    "global_mean": GlobalMean,
    "element_mean": ElementMean,
    "charges": LatentCharges,
    "together": Together,
    "orientations": Orientations,
    "range": RANGE,
    "neural_atoms": NeuralAtoms,
    "ewald": EwaldMessages,
    "neural_p3m": NeuralP3M,
}
"""Specifications by the name that model files use."""

__all__ = [
    "BLOCKS",
    "MCGM",
    "RANGE",
    "SPECIFICATIONS",
    "AtomWise",
    "Clusters",
    "Contribution",
    "ElementMean",
    "EwaldMessages",
    "GlobalMean",
    "LatentCharges",
    "LongRange",
    "LongRangeSpec",
    "NeuralAtoms",
    "NeuralP3M",
    "NoLongRange",
    "Orientations",
    "Together",
]
