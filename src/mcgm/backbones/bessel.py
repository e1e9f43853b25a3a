"""Bessel functions of the distance: a learnt radial basis, and the radial part of the Fourier-Bessel basis."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.special import spherical_jn
from torch import Tensor, nn

from mcgm.backbones.angular import exact_constant


class LearnedBesselBasis(nn.Module):
    """sin(f_n x) / x with x = r / cutoff and learnt frequencies that start at f_n = n pi.

    Source: DimeNet, arXiv:2003.03123, Eq. 7, in units of the cutoff as in the authors' code (a constant factor).
    """

    def __init__(self, cutoff: float, size: int) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.frequencies = nn.Parameter(torch.arange(1, size + 1) * math.pi)

    def forward(self, length: Float[Tensor, "edge"]) -> Float[Tensor, "edge radial"]:
        """Basis values at each length, Å."""
        x = (length / self.cutoff)[:, None]
        return torch.sin(self.frequencies * x) / x


class SphericalBesselBasis(nn.Module):
    """Radial part of the spherical Fourier-Bessel basis, j_l(z_ln x) with x = r / cutoff and z_ln the roots of j_l.

    Normalised to sqrt(2 / j_{l+1}(z_ln)²) sqrt((2l+1) / 4 pi): times P_l(cos angle) these functions are orthonormal on
    the unit ball. Degree stands first in the result, because each degree meets its own harmonics.
    Source: DimeNet, arXiv:2003.03123, Eq. 6, in units of the cutoff.
    """

    roots: Tensor
    norms: Tensor

    def __init__(self, cutoff: float, degrees: int, size: int) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.degrees = degrees
        roots = spherical_bessel_roots(degrees, size)
        degree = np.arange(degrees)[:, None]
        norms = np.sqrt(2 * (2 * degree + 1) / (4 * np.pi)) / np.abs(spherical_jn(degree + 1, roots))
        self.register_buffer("roots", exact_constant(roots), persistent=False)
        self.register_buffer("norms", exact_constant(norms), persistent=False)

    def forward(self, length: Float[Tensor, "edge"]) -> Float[Tensor, "degree edge radial"]:
        """Basis values at each length, Å.

        In float64 inside: the recurrence over degrees cancels to nothing at short distances in float32.
        """
        roots, norms = self.roots.view(torch.float64), self.norms.view(torch.float64)
        x = (length.to(torch.float64) / self.cutoff)[:, None] * roots[:, None, :]
        return (norms[:, None, :] * spherical_bessel(x)).to(length.dtype)


def spherical_bessel(x: Float[Tensor, "degree *rest"]) -> Float[Tensor, "degree *rest"]:
    """j_l(x[l]) for every degree l by the recurrence j_{l+1} = (2l+1) j_l / x - j_{l-1}; x > 0.

    Each step carries on only with the rows of the degrees still to come.
    """
    inverse = 1 / x
    sine = torch.sin(x) * inverse
    before, here = sine, (sine - torch.cos(x)) * inverse
    values = [before[0]]
    for degree in range(1, x.shape[0]):
        before, here = before[1:], here[1:]
        values.append(here[0])
        before, here = here, (2 * degree + 1) * inverse[degree:] * here - before
    return torch.stack(values)


def spherical_bessel_roots(degrees: int, size: int) -> np.ndarray:
    """First positive roots of j_0 to j_{degrees-1}: those of j_{l+1} lie between those of j_l."""
    bracket = np.arange(1, size + degrees) * np.pi
    roots = [bracket[:size]]
    for degree in range(1, degrees):
        bracket = np.array([_root_between(degree, below, above) for below, above in pairwise(bracket)])
        roots.append(bracket[:size])
    return np.stack(roots)


def _root_between(degree: int, below: float, above: float) -> float:
    return brentq(lambda x: spherical_jn(degree, x), below, above, xtol=1e-13)
