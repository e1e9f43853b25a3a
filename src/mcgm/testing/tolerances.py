"""Every limit of the physics checks, named once."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Tolerance:
    """Limits for one precision. Derivatives are always measured in float64, so their limits do not depend on it.

    Attributes:
        energy: eV per atom, between structures that are physically the same.
        forces: eV/Å, likewise, and for the sum of all forces per atom.
        stress: eV/Å³, likewise.
        difference: eV/Å, forces against central differences of the energy; eV/Å³ for stress.
        curvature: eV/Å², second derivatives against central differences of the first.
        path: eV, change of energy along a path minus the work of the forces, per step.
        cutoff: eV, eV/Å and eV/Å², across the cutoff.
        copies: eV per copy, molecules that are out of each other's reach.
        drift: meV per atom and ps, total energy at constant energy and volume.
        swing: meV per atom, by which the energy may swing to and fro, which short runs cannot tell from drift.
        unlike: eV, molecules that must not know of each other, beyond the rounding of their energies.
        paths: eV, the same energy by way of evaluation and of the calculator, in float64.
    """

    energy: float
    forces: float
    stress: float
    difference: float = 1e-6
    curvature: float = 1e-5
    path: float = 1e-6
    cutoff: float = 1e-8
    copies: float = 1e-8
    drift: float = 0.05
    swing: float = 0.2
    unlike: float = 1e-11
    paths: float = 1e-6


DOUBLE = Tolerance(energy=1e-10, forces=1e-9, stress=1e-10)
"""Limits for float64."""

SINGLE = Tolerance(energy=1e-5, forces=1e-4, stress=1e-5, copies=1e-4)
"""Limits for float32."""


def tolerance_for(dtype: torch.dtype) -> Tolerance:
    """Limits for float32 or float64."""
    return DOUBLE if dtype == torch.float64 else SINGLE
