"""Functions of directions: real spherical harmonics, so that a sum over pairs of edges becomes two sums over edges."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import sph_harm_y
from torch import Tensor, nn


def exact_constant(values: np.ndarray) -> Tensor:
    """Bits of float64 values as integers: a buffer of them moves with its module, but no cast can round it.

    Read it back with `.view(torch.float64)`.
    """
    return torch.from_numpy(np.array(values, dtype=np.float64, order="C")).view(torch.int64)


class SphericalHarmonics(nn.Module):
    """Real spherical harmonics of degrees 0 to `degrees - 1`, `degrees`² columns, degree by degree.

    Normalised such that their products over one degree sum to the Legendre polynomial of the angle,
    Σ_m Y_lm(u) Y_lm(v) = P_l(u·v) (addition theorem), so that Σ_m Y_lm(u)² = 1.
    They are evaluated as polynomials in the components of the unit vector: smooth in every direction, poles and linear
    molecules included, where an angle as arccos or atan2 has no derivative.
    """

    bits: Tensor
    exponents: Tensor

    def __init__(self, degrees: int) -> None:
        super().__init__()
        self.degrees = degrees
        exponents = monomial_exponents(degrees)
        self.register_buffer("bits", exact_constant(harmonic_coefficients(degrees)), persistent=False)
        columns = exponents + (degrees + 1) * np.arange(3)
        self.register_buffer("exponents", torch.from_numpy(columns.T.copy()), persistent=False)

    def forward(self, direction: Float[Tensor, "edge 3"]) -> Float[Tensor, "edge harmonic"]:
        """Harmonics of each unit vector."""
        powers = [torch.ones_like(direction)]
        for _ in range(self.degrees):
            powers.append(powers[-1] * direction)
        table = torch.stack(powers, dim=-1).flatten(1)
        x, y, z = self.exponents
        monomials = table.index_select(1, x) * table.index_select(1, y) * table.index_select(1, z)
        return monomials @ self.bits.view(torch.float64).to(direction.dtype)


def monomial_exponents(degrees: int) -> np.ndarray:
    """Exponents of the monomials x^a y^b z^c of the two highest degrees, a basis of all polynomials on the sphere."""
    totals = [total for total in (degrees - 1, degrees - 2) if total >= 0]
    return np.array([(a, b, n - a - b) for n in totals for a in range(n + 1) for b in range(n - a + 1)])


def harmonic_coefficients(degrees: int) -> np.ndarray:
    """Columns that turn the monomials into harmonics, solved at construction from scipy's values at fixed points."""
    points = np.random.default_rng(0).normal(size=(20 * degrees**2, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    polar, azimuth = np.arccos(points[:, 2]), np.arctan2(points[:, 1], points[:, 0])
    columns = []
    for degree in range(degrees):
        for order in range(-degree, degree + 1):
            value = sph_harm_y(degree, abs(order), polar, azimuth) * np.sqrt(4 * np.pi / (2 * degree + 1))
            columns.append(value.real if order == 0 else np.sqrt(2) * (value.real if order > 0 else value.imag))
    monomials = np.prod(points[:, None, :] ** monomial_exponents(degrees), axis=-1)
    return np.linalg.lstsq(monomials, np.stack(columns, axis=1), rcond=None)[0]
