"""Lower halves of Ewald message passing's frequency filters: narrow values, mapped to channels by each layer."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mcgm.batch import Batch
from mcgm.long_range.reciprocal import LatticeWaves, half_space, volumes
from mcgm.long_range.selection import Selection
from mcgm.radial import GaussianBasis, PolynomialEnvelope


class RadialFilter(nn.Module):
    """Lower half of the filter of the length of k."""

    def __init__(self, cutoff: float, radial: int, bottleneck: int) -> None:
        super().__init__()
        self.basis = GaussianBasis(cutoff, radial)
        self.down = nn.Linear(radial, bottleneck, bias=False)

    def forward(self, length: Float[Tensor, "*rest"]) -> Float[Tensor, "*rest narrow"]:
        """Narrow values from lengths of wave vectors, 1/Å."""
        return self.down(self.basis(length.flatten())).unflatten(0, length.shape)


class Crystals(nn.Module, ABC):
    """Wave vectors of crystals, and the lower half of their filter."""

    @abstractmethod
    def index(self, batch: Batch, chosen: Selection) -> LatticeWaves:
        """Which wave vectors, from the cells."""

    @abstractmethod
    def forward(
        self, waves: LatticeWaves, cell: Float[Tensor, "structure 3 3"], radial: RadialFilter
    ) -> Float[Tensor, "structure wave narrow"]:
        """Narrow values, with how often each wave vector counts."""


class RadialCrystals(Crystals):
    """The filter of molecules: a wave vector stands for (2 pi)³ / V of k, as a voxel stands for its volume."""

    def __init__(self, cutoff: float, volume: float) -> None:
        super().__init__()
        self.envelope = PolynomialEnvelope(cutoff)
        self.volume = volume

    def index(self, batch: Batch, chosen: Selection) -> LatticeWaves:
        """All within the cutoff."""
        return LatticeWaves.within(batch, chosen, self.envelope.cutoff)

    def forward(
        self, waves: LatticeWaves, cell: Float[Tensor, "structure 3 3"], radial: RadialFilter
    ) -> Float[Tensor, "structure wave narrow"]:
        """By length."""
        squares = waves.vectors(cell).square().sum(-1)
        # the length of the zero vector has no derivative
        length = torch.where(squares > 0, squares, 1.0).sqrt() * (squares > 0)
        share = (2 * math.pi) ** 3 / (self.volume * volumes(cell)[:, None])
        return (waves.times * share * self.envelope(length))[..., None] * radial(length)


class TabulatedCrystals(Crystals):
    """A free value for each of some integer wave vectors (paper), over their number (decided)."""

    def __init__(self, most: tuple[int, int, int], bottleneck: int) -> None:
        super().__init__()
        self.most = most
        self.table = nn.Parameter(torch.empty(len(half_space(most)), bottleneck).uniform_(-1, 1))

    def index(self, batch: Batch, chosen: Selection) -> LatticeWaves:
        """The same for all."""
        return LatticeWaves.of_numbers(batch, chosen, self.most)

    def forward(
        self, waves: LatticeWaves, cell: Float[Tensor, "structure 3 3"], radial: RadialFilter
    ) -> Float[Tensor, "structure wave narrow"]:
        """The table."""
        return waves.times[..., None] * self.table / (2 * len(self.table) - 1)
