"""Fourier layers on a mesh: learned factors for each frequency (Li et al. 2021, arXiv:2010.08895)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from mcgm.long_range.mesh import Mesh


class Mixing(nn.Module, ABC):
    """What is done with the channels of each kept frequency."""

    @abstractmethod
    def forward(self, spectrum: Complex[Tensor, "structure mode channel"]) -> Complex[Tensor, "structure mode channel"]:
        """Linear in the spectrum."""


class Channelwise(Mixing):
    """A complex factor for each frequency and channel: P3M's influence function, learned."""

    def __init__(self, modes: int, channels: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.randn(modes, channels, 2) * 0.5**0.5)

    def forward(self, spectrum: Complex[Tensor, "structure mode channel"]) -> Complex[Tensor, "structure mode channel"]:
        """Times the factors."""
        return spectrum * torch.view_as_complex(self.factor)


class FullMixing(Mixing):
    """A complex matrix for each frequency, as in the Fourier neural operator."""

    def __init__(self, modes: int, channels: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(modes, channels, channels, 2) * (0.5 / channels) ** 0.5)

    def forward(self, spectrum: Complex[Tensor, "structure mode channel"]) -> Complex[Tensor, "structure mode channel"]:
        """Times the matrices."""
        return torch.einsum("smc,mcd->smd", spectrum, torch.view_as_complex(self.matrix))


MIXINGS: dict[str, type[Channelwise] | type[FullMixing]] = {"channelwise": Channelwise, "full": FullMixing}
"""Mixings by the name that specifications use."""


def kept_modes(mesh: Mesh, modes: Mesh | None) -> Int[Tensor, "mode"]:
    """Places in the flattened half spectrum of frequencies |f_d| <= modes_d; `None`: all."""
    axes = [torch.fft.fftfreq(count, 1 / count).round().abs() for count in mesh[:2]]
    axes.append(torch.arange(mesh[2] // 2 + 1, dtype=torch.float32))
    most: tuple[Any, ...] = mesh if modes is None else modes
    kept = [frequency <= m for frequency, m in zip(axes, most, strict=True)]
    return torch.nonzero((kept[0][:, None, None] & kept[1][:, None] & kept[2]).flatten()).flatten()


class FourierLayer(nn.Module):
    """act(W m + inverse FFT of (G_k times FFT of m)): a map of each point, and a convolution over the periodic box.

    Frequencies that are not kept pass through W alone.
    """

    modes: Tensor

    def __init__(self, channels: int, mesh: Mesh, modes: Mesh | None, mixing: str, activation: type[nn.Module]) -> None:
        super().__init__()
        self.mesh = mesh
        self.register_buffer("modes", kept_modes(mesh, modes), persistent=False)
        self.mixing: Mixing = MIXINGS[mixing](len(self.modes), channels)
        self.pointwise = nn.Linear(channels, channels)
        self.activation = activation()

    def convolve(self, points: Float[Tensor, "point channel"]) -> Float[Tensor, "point channel"]:
        """The part that reaches across the mesh."""
        grid = points.reshape(-1, *self.mesh, points.shape[-1])
        spectrum = torch.fft.rfftn(grid, dim=(1, 2, 3), norm="ortho")
        shape = spectrum.shape
        flat = spectrum.flatten(1, 3)
        mixed = torch.zeros_like(flat).index_copy(1, self.modes, self.mixing(flat.index_select(1, self.modes)))
        return torch.fft.irfftn(mixed.reshape(shape), s=self.mesh, dim=(1, 2, 3), norm="ortho").reshape(points.shape)

    def forward(self, points: Float[Tensor, "point channel"]) -> Float[Tensor, "point channel"]:
        """What is added to the features of the points."""
        return self.activation(self.pointwise(points) + self.convolve(points))
