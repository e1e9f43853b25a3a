"""Radial and circular bases of GemNet-T, in both published forms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from mcgm.backbones.angular import exact_constant
from mcgm.backbones.bessel import LearnedBesselBasis, SphericalBesselBasis
from mcgm.radial import GaussianBasis


@dataclass(frozen=True)
class InitialScales:
    """Scale factors before they are fitted: after gates by distance, sums over triplets, and sums at atoms."""

    gate: float
    triplets: float
    atoms: float


class Basis(nn.Module, ABC):
    """Radial basis without its envelope, and circular basis with its linear map.

    `scales` are what `fit_scale_factors` finds on drug-like molecules with cutoffs of 4 to 6 Å, rounded: with factors
    of 1 the features of an unfitted network would grow by orders of magnitude.
    """

    scales: InitialScales

    @abstractmethod
    def radial(self, length: Float[Tensor, "edge"]) -> Float[Tensor, "edge radial"]:
        """Functions of the distance, Å."""

    @abstractmethod
    def circular(
        self, length: Float[Tensor, "edge"], envelope: Float[Tensor, "edge 1"], radial: Float[Tensor, "edge radial"]
    ) -> Float[Tensor, "edge degree basis"]:
        """Radial factors of each degree's Legendre polynomial, linearly mapped; `radial` already has its envelope."""


class BesselBases(Basis):
    """Learnt Bessel functions and spherical Fourier-Bessel functions: the paper's (arXiv:2106.08903, Eqs. 8 and 9)."""

    def __init__(self, cutoff: float, size: int, degrees: int, basis: int) -> None:
        super().__init__()
        self.scales = InitialScales(gate=0.65, triplets=0.4, atoms=0.1)
        self.bessel = LearnedBesselBasis(cutoff, size)
        self.spherical = SphericalBesselBasis(cutoff, degrees, size)
        self.weight = nn.Parameter(circular_weight(degrees, size, basis))

    def radial(self, length: Float[Tensor, "edge"]) -> Float[Tensor, "edge radial"]:
        """Bessel functions."""
        return self.bessel(length)

    def circular(
        self, length: Float[Tensor, "edge"], envelope: Float[Tensor, "edge 1"], radial: Float[Tensor, "edge radial"]
    ) -> Float[Tensor, "edge degree basis"]:
        """Spherical Bessel functions of each degree."""
        return torch.bmm(envelope * self.spherical(length), self.weight).transpose(0, 1)


class GaussianBases(Basis):
    """Gaussians, and their products with the Legendre polynomials: the form trained on OC20 and OE62."""

    norms: Tensor

    def __init__(self, cutoff: float, size: int, degrees: int, basis: int) -> None:
        super().__init__()
        self.scales = InitialScales(gate=1.0 * size**0.5, triplets=0.9 * size**0.5, atoms=0.2 * size**0.5)
        self.gaussians = GaussianBasis(cutoff, size)
        self.weight = nn.Parameter(circular_weight(degrees, size, basis))
        norms = np.sqrt((2 * np.arange(degrees) + 1) / (4 * np.pi))
        self.register_buffer("norms", exact_constant(norms[:, None]), persistent=False)

    def radial(self, length: Float[Tensor, "edge"]) -> Float[Tensor, "edge radial"]:
        """Gaussians."""
        return self.gaussians(length)

    def circular(
        self, length: Float[Tensor, "edge"], envelope: Float[Tensor, "edge 1"], radial: Float[Tensor, "edge radial"]
    ) -> Float[Tensor, "edge degree basis"]:
        """The same Gaussians for each degree."""
        degrees, size, basis = self.weight.shape
        mapped = radial @ self.weight.transpose(0, 1).reshape(size, degrees * basis)
        return mapped.view(-1, degrees, basis) * self.norms.view(torch.float64).to(mapped.dtype)


BASES: dict[str, type[Basis]] = {"bessel": BesselBases, "gaussian": GaussianBases}
"""Bases by the name under which a configuration asks for them."""


def circular_weight(degrees: int, size: int, basis: int) -> Float[Tensor, "degree radial basis"]:
    """Initial linear map of the circular basis."""
    return standard_orthogonal(torch.empty(basis, degrees * size)).T.reshape(degrees, size, basis)


@torch.no_grad()
def standard_orthogonal(weight: Float[Tensor, "output input"]) -> Float[Tensor, "output input"]:
    """Orthogonal rows brought to mean 0 and variance 1 / inputs, in place (arXiv:2106.08903, section 6)."""
    nn.init.orthogonal_(weight)
    variance, mean = torch.var_mean(weight, dim=1, keepdim=True)
    return weight.sub_(mean).div_(torch.sqrt(variance * weight.shape[1] + 1e-6))
