"""Relaxation of atoms, and of the cell around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE, LBFGS

from mcgm.dynamics.record import keep_spread
from mcgm.dynamics.run import calculator_for
from mcgm.errors import ConfigError, StructureError
from mcgm.potential import Potential

OPTIMIZERS = MappingProxyType({"lbfgs": LBFGS, "fire": FIRE})
"""ASE's optimisers by the name that the command accepts."""

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))

PROPERTIES = ("energy", "forces", "stress")


@dataclass(frozen=True)
class Relaxed:
    """Where the atoms came to, with energy (eV), forces (eV/Å) and stress as stored results.

    `problem` says what ended the search early, if anything did.
    """

    atoms: Atoms
    converged: bool
    steps: int
    largest_force: float
    problem: str = ""


def relax(
    potential: Potential,
    atoms: Atoms,
    *,
    optimizer: str = "lbfgs",
    fmax: float = 0.01,
    steps: int = 500,
    cell: bool = False,
    clusters: str = "fresh",
    dtype: str = "float64",
    watch: Callable[[int, float], None] = lambda step, largest_force: None,
) -> Relaxed:
    """Downhill until no force (eV/Å) is larger than `fmax`, or `steps` are done.

    With `cell`, cell vectors along periodic axes move as well (ASE's Fréchet filter), and what the stress does to
    them counts as forces. The last geometry that could be calculated is returned if the search leaves the physical.

    Raises:
        ConfigError: a potential that jumps, or a cell to be relaxed of a structure that has none.
        StructureError: the structure as given cannot be calculated.
    """
    if cell and not atoms.pbc.any():
        raise ConfigError(f"--cell needs periodic structures; {atoms.info.get('name', atoms.symbols)} is not periodic.")
    atoms = atoms.copy()
    atoms.calc = calculator_for(potential, atoms, clusters=clusters, dtype=dtype)
    mask = [bool(atoms.pbc[i] and atoms.pbc[j]) for i, j in VOIGT]
    moved = FrechetCellFilter(atoms, mask=mask) if cell else atoms
    largest = _largest(moved.get_forces())
    search = OPTIMIZERS[optimizer](moved, logfile=None)
    last, done, problem = _frozen(atoms), 0, ""
    try:
        for _ in search.irun(fmax=fmax, steps=steps):
            forces = moved.get_forces()
            if not np.isfinite(forces).all():
                raise StructureError("forces are not finite.")
            last, done, largest = _frozen(atoms), search.nsteps, _largest(forces)
            watch(done, largest)
    except StructureError as error:
        problem = str(error)
    converged = not problem and largest <= fmax
    last.info |= {"converged": converged, "steps": done, "largest_force": largest}
    return Relaxed(last, converged, done, largest, problem)


def _largest(forces: np.ndarray) -> float:
    return float(np.linalg.norm(forces, axis=1).max())


def _frozen(atoms: Atoms) -> Atoms:
    """A copy with results that no later step changes."""
    frozen = atoms.copy()
    results = {key: atoms.calc.results[key] for key in PROPERTIES if key in atoms.calc.results}
    frozen.calc = SinglePointCalculator(frozen, **results)
    keep_spread(frozen, atoms.calc.results)
    return frozen
