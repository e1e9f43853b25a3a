"""Relaxation of atoms, and of the cell around them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE, LBFGS
from ase.stress import full_3x3_to_voigt_6_stress

from mcgm.dynamics.record import keep_spread
from mcgm.dynamics.run import calculator_for
from mcgm.errors import ConfigError, StructureError
from mcgm.potential import Potential
from mcgm.structure import Structure

OPTIMIZERS = MappingProxyType({"lbfgs": LBFGS, "fire": FIRE})
"""ASE's optimisers by the name that the command accepts."""

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

    With `cell`, periodic cell vectors change as well (ASE's Fréchet filter), within the plane or line that they span,
    and what the stress does to them counts as forces. The last geometry that could be calculated is returned if the
    search leaves the physical.

    Raises:
        ConfigError: a potential that jumps, or a cell to be relaxed of a structure that has none.
        StructureError: the structure as given cannot be calculated.
    """
    name = atoms.info.get("name", atoms.symbols)
    if cell and not atoms.pbc.any():
        raise ConfigError(f"--cell needs periodic structures; {name} is not periodic.")
    if cell and Structure.from_atoms(atoms).volume == 0:
        raise ConfigError(
            f"--cell needs cells with a volume; {name} lacks a vector, or they lie in a plane. Give open axes one, too."
        )
    atoms = _copied(atoms, _OpenAxesKept if cell else Atoms)
    atoms.calc = calculator_for(potential, atoms, clusters=clusters, dtype=dtype)
    moved = FrechetCellFilter(atoms) if cell else atoms
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


class _OpenAxesKept(Atoms):
    """Atoms that say nothing of stress out of the plane or line of their periodic vectors: no filter then strains it.

    Strains are Cartesian, and periodic vectors may point anywhere.
    """

    def get_stress(self, voigt: bool = True, apply_constraint: bool = True, include_ideal_gas: bool = False) -> Any:
        """Both indices projected onto the span of the periodic vectors, eV/Å³."""
        span, _ = np.linalg.qr(np.array(self.cell)[self.pbc].T)
        onto = span @ span.T
        kept = onto @ super().get_stress(False, apply_constraint, include_ideal_gas) @ onto
        return full_3x3_to_voigt_6_stress(kept) if voigt else kept


def _copied(atoms: Atoms, kind: type[Atoms]) -> Atoms:
    """All but the calculator, as atoms of this kind."""
    copied = kind(cell=atoms.cell, pbc=atoms.pbc, info=atoms.info, celldisp=atoms.get_celldisp())
    copied.arrays = {name: values.copy() for name, values in atoms.arrays.items()}
    copied.constraints = copy.deepcopy(atoms.constraints)
    return copied


def _largest(forces: np.ndarray) -> float:
    return float(np.linalg.norm(forces, axis=1).max())


def _frozen(atoms: Atoms) -> Atoms:
    """A copy with results that no later step changes."""
    frozen = _copied(atoms, Atoms)
    results = {key: atoms.calc.results[key] for key in PROPERTIES if key in atoms.calc.results}
    frozen.calc = SinglePointCalculator(frozen, **results)
    keep_spread(frozen, atoms.calc.results)
    return frozen
