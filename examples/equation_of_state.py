"""Equation of state of a crystal with ASE, by a model trained within seconds on EMT energies and forces.

python examples/equation_of_state.py
"""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.eos import EquationOfState

from mcgm import Potential, Structure, build
from mcgm.data import Dataset, fit_references
from mcgm.interfaces.ase import MCGMCalculator
from mcgm.testing.trained import train_briefly


def copper(stretch: float = 1.0) -> Atoms:
    """The primitive cell."""
    return bulk("Cu", "fcc", a=3.6 * stretch)


def teach(count: int) -> Potential:
    """A small model of compressed and expanded, distorted crystals of two atoms, by effective-medium theory (EMT)."""
    chance = np.random.default_rng(0)
    structures = []
    for _ in range(count):
        atoms = copper(chance.uniform(0.93, 1.07)) * (2, 1, 1)
        atoms.rattle(chance.uniform(0.0, 0.1), rng=chance)
        atoms.calc = EMT()
        atoms.get_forces()
        structures.append(Structure.from_atoms(atoms))
    torch.manual_seed(0)
    options = {"channels": 24, "filters": 24, "radial": 24, "layers": 2}
    references = fit_references(Dataset.from_structures(structures))
    fresh = build(cutoff=4.0, backbone_options=options, references=references, elements=[29])
    return train_briefly(fresh, structures, steps=150, batch=4, learning_rate=1e-2)


def equation_of_state(calculator: Calculator) -> tuple[float, float]:
    """Lattice constant (Å) and bulk modulus (GPa), by Birch and Murnaghan."""
    crystals = [copper(stretch) for stretch in np.linspace(0.96, 1.04, 9)]
    for crystal in crystals:
        crystal.calc = calculator
    energies = [crystal.get_potential_energy() for crystal in crystals]
    fit = EquationOfState([crystal.get_volume() for crystal in crystals], energies, eos="birchmurnaghan")
    volume, _, modulus = fit.fit()
    return (4 * volume) ** (1 / 3), modulus / units.GPa


def main() -> None:
    learnt = MCGMCalculator(teach(60), dtype=torch.float64)
    for name, calculator in (("MCGM", learnt), ("EMT", EMT())):
        constant, modulus = equation_of_state(calculator)
        print(f"{name:5} lattice constant {constant:.3f} Å, bulk modulus {modulus:.0f} GPa")


if __name__ == "__main__":
    main()
