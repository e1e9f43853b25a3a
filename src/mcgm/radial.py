"""Functions of the distance: cutoff envelopes and radial bases."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mcgm.errors import ConfigError, unknown_name


class PolynomialEnvelope(nn.Module):
    """Smooth step from 1 at zero distance to 0 at the cutoff, where its first `vanishing` derivatives are zero.

    u(d) = 1 - d^p sum_{k=0}^{vanishing} binomial(p - 1 + k, k) (1 - d)^k, d = r / cutoff; zero beyond the cutoff. It
    falls like (1 - d)^(vanishing + 1). With three vanishing derivatives the slope of the force is as flat as the force.
    Two make Eq. 8 of DimeNet (arXiv:2003.03123), which this generalises (a regularised incomplete beta function).
    """

    def __init__(self, cutoff: float, exponent: int = 6, vanishing: int = 3) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.exponent = exponent
        self.coefficients = tuple(math.comb(exponent - 1 + k, k) for k in range(vanishing + 1))

    def forward(self, length: Float[Tensor, "edge"]) -> Float[Tensor, "edge"]:
        """Envelope at each length, Å."""
        d = length / self.cutoff
        left = 1 - d
        inner = torch.full_like(d, self.coefficients[-1])
        for coefficient in self.coefficients[-2::-1]:
            inner = inner * left + coefficient
        return torch.where(d < 1, 1 - d.pow(self.exponent) * inner, torch.zeros_like(d))


class PublishedEnvelope(PolynomialEnvelope):
    """The polynomial of DimeNet and GemNet as published: two vanishing derivatives (arXiv:2003.03123, Eq. 8)."""

    def __init__(self, cutoff: float, exponent: int = 6) -> None:
        super().__init__(cutoff, exponent, vanishing=2)


class CosineCutoff(nn.Module):
    """(cos(pi r / cutoff) + 1) / 2 inside the cutoff: what SchNet, PaiNN and ViSNet publish.

    Its second derivative does not vanish at the cutoff, so no backbone here has it as its default.
    """

    def __init__(self, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff

    def forward(self, length: Float[Tensor, "edge"]) -> Float[Tensor, "edge"]:
        """Envelope at each length, Å."""
        wave = 0.5 * (torch.cos(length * (math.pi / self.cutoff)) + 1)
        return torch.where(length < self.cutoff, wave, torch.zeros_like(length))


ENVELOPES = {"polynomial": PolynomialEnvelope, "dimenet": PublishedEnvelope, "cosine": CosineCutoff}
"""Envelopes by the name under which a configuration asks for them."""


def envelope_named(name: str, cutoff: float, **options: int) -> nn.Module:
    """The envelope of this name, with options of its own (such as the exponent of a polynomial).

    Raises:
        ConfigError: unknown name.
    """
    if name not in ENVELOPES:
        raise ConfigError(unknown_name("envelope", name, ENVELOPES))
    return ENVELOPES[name](cutoff, **options)


class GaussianBasis(nn.Module):
    """Gaussians on an even grid from zero to the cutoff, as wide as their spacing.

    Source: SchNet, arXiv:1706.08566, section 4.1.
    """

    centers: Tensor

    def __init__(self, cutoff: float, size: int) -> None:
        super().__init__()
        self.register_buffer("centers", torch.linspace(0, cutoff, size))
        self.exponent = -0.5 * ((size - 1) / cutoff) ** 2

    def forward(self, length: Float[Tensor, "edge"]) -> Float[Tensor, "edge radial"]:
        """Basis values at each length, Å."""
        return torch.exp(self.exponent * (length[:, None] - self.centers).square())


class BesselBasis(nn.Module):
    """sqrt(2/cutoff) sin(n pi r / cutoff) / r for n = 1..size, with fixed frequencies.

    Source: DimeNet, arXiv:2003.03123, Eq. 7; finite at any r > 0.
    """

    frequencies: Tensor

    def __init__(self, cutoff: float, size: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.arange(1, size + 1) * (math.pi / cutoff))
        self.norm = math.sqrt(2 / cutoff)

    def forward(self, length: Float[Tensor, "edge"]) -> Float[Tensor, "edge radial"]:
        """Basis values at each length, Å."""
        r = length[:, None]
        return self.norm * torch.sin(r * self.frequencies) / r
