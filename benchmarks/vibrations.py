"""Frames as a simulation would bring them, without a potential that has been trained for the structure."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.data import covalent_radii
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from ase.neighborlist import neighbor_list

BOND, STIFF, SOFT = 1.25, 30.0, 1.0
"""Multiple of covalent radii up to which a spring is a bond's, and spring constants of bonds and others, eV/Å²."""

REACH = 3.0
"""Å, up to where atoms are held by springs."""


class Springs(Calculator):
    """An elastic network at rest in the structure it is made for: bonds vibrate as bonds do, and nothing flows."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def __init__(self, atoms: Atoms) -> None:
        super().__init__()
        self.i, self.j, self.shift = neighbor_list("ijS", atoms, REACH)
        self.rest = np.linalg.norm(self._vectors(atoms), axis=1)
        radius = covalent_radii[atoms.numbers]
        bonded = self.rest < BOND * (radius[self.i] + radius[self.j])
        self.constant = np.where(bonded, STIFF, SOFT)

    def _vectors(self, atoms: Atoms) -> np.ndarray:
        return atoms.positions[self.j] - atoms.positions[self.i] + self.shift @ np.array(atoms.cell)

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        """Energy and forces of all springs, each in the list twice."""
        super().calculate(atoms, properties, system_changes)
        vector = self._vectors(atoms)
        length = np.linalg.norm(vector, axis=1)
        stretch = length - self.rest
        forces = np.zeros_like(atoms.positions)
        np.add.at(forces, self.i, (self.constant * stretch / length)[:, None] * vector)
        self.results = {"energy": 0.25 * float(self.constant @ stretch**2), "forces": forces}


def trajectory(atoms: Atoms, count: int, *, temperature_K: float = 300.0, timestep_fs: float = 0.5) -> list[np.ndarray]:
    """Positions (Å) of consecutive steps at constant energy, after 50 fs in which the vibrations spread."""
    moving = atoms.copy()
    moving.calc = Springs(moving)
    generator = np.random.default_rng(0)
    MaxwellBoltzmannDistribution(moving, temperature_K=2 * temperature_K, rng=generator)
    integrator = VelocityVerlet(moving, timestep_fs * units.fs)
    integrator.run(round(50 / timestep_fs))
    frames = []
    for _ in range(count):
        integrator.run(1)
        frames.append(moving.positions.copy())
    return frames
