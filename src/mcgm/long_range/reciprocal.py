"""Wave vectors of one half of the space, and the features of a structure at each of them (structure factors).

With real features the values at -k are the conjugates of those at k: one half is enough, counted twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mcgm.batch import Batch
from mcgm.errors import StructureError
from mcgm.long_range.selection import Selection
from mcgm.segments import segment_mean, take

MOST_PHASES = 100_000_000
"""Wave vectors times atoms of a batch: 0.8 GB in float64 for each of a few arrays."""

TOUCHING = 1e-9
"""How far outside a ball a vector may seem to lie by rounding."""


def volumes(cell: Float[Tensor, "structure 3 3"]) -> Float[Tensor, "structure"]:
    """Å³. A triple product: derivatives of `torch.linalg.det` wait for the device."""
    first, second, third = cell.unbind(1)
    return (first * torch.linalg.cross(second, third)).sum(-1).abs()


def half_space(most: tuple[int, int, int]) -> Int[np.ndarray, "wave 3"]:
    """(0, 0, 0), and one of each pair n, -n of integer vectors with |n_i| <= most_i."""
    axes = [np.arange(0, most[0] + 1), *(np.arange(-n, n + 1) for n in most[1:])]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    x, y, z = grid.T
    kept = grid[(x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))]
    return np.concatenate([np.zeros((1, 3), dtype=kept.dtype), kept])


def ball(radius: float) -> Int[np.ndarray, "wave 3"]:
    """Those with |n| <= radius, one half of the space, zero first."""
    most = math.floor(radius + TOUCHING)
    waves = half_space((most, most, most))
    return waves[np.linalg.norm(waves, axis=1) <= radius + TOUCHING]


@dataclass(frozen=True, eq=False)
class LatticeWaves:
    """Integer wave vectors of periodic structures, and how often each counts in each of them (zero: not at all)."""

    number: Float[Tensor, "wave 3"]
    times: Float[Tensor, "structure wave"]

    @classmethod
    def within(cls, batch: Batch, chosen: Selection, cutoff: float) -> LatticeWaves:
        """All reciprocal-lattice vectors within a ball (1/Å).

        Raises:
            StructureError: more than memory holds.
        """
        cells = batch.cell[chosen.structure].detach().double().cpu()
        reach = torch.linalg.vector_norm(cells, dim=2).amax(0) * cutoff / (2 * math.pi) + TOUCHING
        x, y, z = (int(n) for n in reach)
        _refuse_many((x + 1) * (2 * y + 1) * (2 * z + 1) // 2, chosen)
        waves = torch.from_numpy(half_space((x, y, z))).double()
        length = torch.linalg.vector_norm(waves @ (2 * math.pi * torch.linalg.inv(cells).mT), dim=2)
        times = times_counted(waves) * (length <= cutoff)
        used = times.any(dim=0)
        return cls(waves[used].to(batch.positions), times[:, used].to(batch.positions))

    @classmethod
    def of_numbers(cls, batch: Batch, chosen: Selection, most: tuple[int, int, int]) -> LatticeWaves:
        """The same for every structure: |n_i| <= most_i."""
        waves = torch.from_numpy(half_space(most)).to(batch.positions)
        _refuse_many(len(waves), chosen)
        return cls(waves, times_counted(waves).expand(len(chosen), -1))

    def vectors(self, cell: Float[Tensor, "structure 3 3"]) -> Float[Tensor, "structure wave 3"]:
        """1/Å."""
        inverse, _ = torch.linalg.inv_ex(cell)  # `inv` waits for the device, to say that a cell has none
        return self.number @ (2 * math.pi * inverse.mT)


def times_counted(waves: Float[Tensor, "wave 3"]) -> Float[Tensor, "wave"]:
    """Two for those that stand for -n too, one for zero."""
    return 1.0 + waves.any(dim=1).to(waves.dtype)


def _refuse_many(waves: int, chosen: Selection) -> None:
    atoms = chosen.size * len(chosen)
    if waves * atoms > MOST_PHASES:
        raise StructureError(
            f"{waves:,} wave vectors and {atoms:,} atoms in {len(chosen)} periodic structures need too much memory. "
            "Use a smaller k_cutoff or smaller batches."
        )


@dataclass(frozen=True, eq=False)
class Waves:
    """cos(k x) and sin(k x) of structures side by side, and the atoms' window (`None`: one everywhere)."""

    chosen: Selection
    cosine: Float[Tensor, "structure wave size"]
    sine: Float[Tensor, "structure wave size"]
    window: Float[Tensor, "structure size 1"] | None

    @classmethod
    def of(
        cls,
        chosen: Selection,
        vectors: Float[Tensor, "*rest wave 3"],
        arm: Float[Tensor, "structure size 3"],
        window: Float[Tensor, "structure size 1"] | None = None,
    ) -> Waves:
        """From wave vectors (1/Å; the same for all, or each structure's) and positions (Å)."""
        phase = vectors @ arm.mT
        return cls(chosen, torch.cos(phase), torch.sin(phase), window)

    def structure_factors(
        self, features: Float[Tensor, "atom channel"]
    ) -> tuple[Float[Tensor, "structure wave channel"], Float[Tensor, "structure wave channel"]]:
        """Real part of sum_j h_j exp(-i k x_j), and minus its imaginary part."""
        padded = self.chosen.pad(features)
        if self.window is not None:
            padded = padded * self.window
        return self.cosine @ padded, self.sine @ padded

    def messages(
        self, features: Float[Tensor, "atom channel"], weight: Float[Tensor, "*structure wave channel"]
    ) -> Float[Tensor, "atom channel"]:
        """sum_k weight_k exp(i k x_i) sum_j h_j exp(-i k x_j) over the whole space, for even weights counted twice."""
        real, imaginary = self.structure_factors(features)
        padded = self.cosine.mT @ (weight * real) + self.sine.mT @ (weight * imaginary)
        padded = padded if self.window is None else padded * self.window
        return self.chosen.unpad(padded, features.shape[0])


def about_centroid(batch: Batch) -> Float[Tensor, "atom 3"]:
    """Positions relative to the mean of their structure's, Å."""
    positions = batch.exact_positions
    center = segment_mean(positions, batch.molecule, batch.n_molecules)
    return (positions - take(center, batch.molecule)).to(batch.positions.dtype)
