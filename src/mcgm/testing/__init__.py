"""Physics checks for any potential: measuring functions, a table of claims, and a suite of tests to inherit.

`validate_potential(potential)` measures everything and raises nothing. `PhysicsSuite` is the same as tests. The
measuring functions return the figure itself, for reports.
"""

from mcgm.testing.derivatives import (
    PathScan,
    finite_differences,
    gradgradcheck,
    path_scan,
    second_derivatives,
    stress_finite_differences,
)
from mcgm.testing.dynamics import drift_at_rest, energy_drift
from mcgm.testing.effort import FULL, QUICK, Effort
from mcgm.testing.flips import FlipScan, cluster_margin, flip_scan
from mcgm.testing.independence import (
    batch_mates,
    copies_apart,
    gradient_leak,
    repetition,
    side_by_side,
    supercell,
    unlike_apart,
)
from mcgm.testing.limits import CutoffStep, cutoff_step, degenerate
from mcgm.testing.predict import Deviation, Predictor
from mcgm.testing.suite import InvarianceSuite, PhysicsSuite
from mcgm.testing.symmetry import (
    lattice_translation,
    net_force,
    permutation,
    reflection,
    rotation,
    translation,
)
from mcgm.testing.tolerances import DOUBLE, SINGLE, Tolerance, tolerance_for
from mcgm.testing.trained import train_briefly
from mcgm.testing.validation import Row, Validation, validate_potential
from mcgm.testing.zoo import degenerate_structures, known, zoo

__all__ = [
    "DOUBLE",
    "FULL",
    "QUICK",
    "SINGLE",
    "CutoffStep",
    "Deviation",
    "Effort",
    "FlipScan",
    "InvarianceSuite",
    "PathScan",
    "PhysicsSuite",
    "Predictor",
    "Row",
    "Tolerance",
    "Validation",
    "batch_mates",
    "cluster_margin",
    "copies_apart",
    "cutoff_step",
    "degenerate",
    "degenerate_structures",
    "drift_at_rest",
    "energy_drift",
    "finite_differences",
    "flip_scan",
    "gradgradcheck",
    "gradient_leak",
    "known",
    "lattice_translation",
    "net_force",
    "path_scan",
    "permutation",
    "reflection",
    "repetition",
    "rotation",
    "second_derivatives",
    "side_by_side",
    "stress_finite_differences",
    "supercell",
    "tolerance_for",
    "train_briefly",
    "translation",
    "unlike_apart",
    "validate_potential",
    "zoo",
]
