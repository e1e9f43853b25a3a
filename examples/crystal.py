"""A crystal from training to dynamics at constant pressure, by a model trained within seconds on energies and stress.

    python examples/crystal.py

Cu3Au by effective-medium theory (EMT): a strained cell is relaxed, an equation of state gives the bulk modulus, and a
supercell runs at constant temperature and pressure. `mcgm relax MODEL crystal.cif -o relaxed.extxyz --cell` does the
first from the command line.
"""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.eos import EquationOfState
from ase.filters import FrechetCellFilter
from ase.md.nose_hoover_chain import IsotropicMTKNPT
from ase.md.velocitydistribution import thermalize_momenta
from ase.optimize import LBFGS

from mcgm import Potential, Structure, build
from mcgm.data import Dataset, fit_references
from mcgm.dynamics.relax import relax
from mcgm.interfaces.ase import MCGMCalculator
from mcgm.testing.trained import train_briefly
from mcgm.training.config import LossConfig


def alloy(edge: float = 3.75) -> Atoms:
    """The cubic cell of four atoms."""
    atoms = bulk("Cu", "fcc", a=edge, cubic=True)
    atoms.symbols[0] = "Au"
    return atoms


def strained(chance: np.random.Generator, *, strain: float = 0.03, displacement: float = 0.08) -> Atoms:
    """The cell under random strain, its atoms displaced at random."""
    atoms = alloy()
    atoms.set_cell(atoms.cell @ (np.eye(3) + chance.normal(scale=strain, size=(3, 3))), scale_atoms=True)
    atoms.rattle(displacement, rng=chance)
    return atoms


def teach(count: int = 24) -> Potential:
    """A small model of strained crystals; with stress as a label it needs few of them."""
    chance = np.random.default_rng(0)
    structures = []
    for _ in range(count):
        atoms = strained(chance)
        atoms.calc = EMT()
        atoms.get_stress()
        structures.append(Structure.from_atoms(atoms))
    torch.manual_seed(0)
    fresh = build(
        cutoff=4.5,
        backbone_options={"channels": 16, "filters": 16, "radial": 16, "layers": 2},
        references=fit_references(Dataset.from_structures(structures)),
        elements=[29, 79],
    )
    loss = LossConfig(stress_weight=100.0)
    return train_briefly(fresh, structures, steps=100, batch=3, learning_rate=1e-2, loss=loss)


def lattice_constant(atoms: Atoms) -> float:
    """Å, from the volume."""
    return float(atoms.get_volume() ** (1 / 3))


def relaxed_by_emt(atoms: Atoms) -> Atoms:
    """The same relaxation by the teacher."""
    atoms = atoms.copy()
    atoms.calc = EMT()
    LBFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.01)
    return atoms


def bulk_modulus(calculator: Calculator, edge: float) -> float:
    """GPa, by Birch and Murnaghan."""
    crystals = [alloy(edge * stretch) for stretch in np.linspace(0.98, 1.02, 7)]
    for crystal in crystals:
        crystal.calc = calculator
    energies = [crystal.get_potential_energy() for crystal in crystals]
    fit = EquationOfState([crystal.get_volume() for crystal in crystals], energies, eos="birchmurnaghan")
    return fit.fit()[2] / units.GPa


def at_constant_pressure(atoms: Atoms, calculator: Calculator, *, steps: int = 20) -> tuple[float, float]:
    """Temperature (K) and volume per atom (Å³) of a supercell after a few steps at 300 K and no pressure."""
    atoms = atoms.repeat((2, 2, 1))
    atoms.calc = calculator
    thermalize_momenta(atoms, 600.0, rng=np.random.default_rng(1))  # half of it goes into the bonds
    step = 2 * units.fs
    dynamics = IsotropicMTKNPT(atoms, step, temperature_K=300, pressure_au=0.0, tdamp=50 * step, pdamp=500 * step)
    dynamics.run(steps)
    return atoms.get_temperature(), atoms.get_volume() / len(atoms)


def main() -> None:
    potential = teach()
    calculator = MCGMCalculator(potential, dtype=torch.float64)
    start = strained(np.random.default_rng(1))

    found, expected = relax(potential, start, cell=True), relaxed_by_emt(start)
    edges = lattice_constant(found.atoms), lattice_constant(expected)
    print(f"relaxed in {found.steps} steps: lattice constant {edges[0]:.3f} Å, by EMT {edges[1]:.3f} Å")

    moduli = bulk_modulus(calculator, edges[0]), bulk_modulus(EMT(), edges[1])
    print(f"bulk modulus {moduli[0]:.0f} GPa, by EMT {moduli[1]:.0f} GPa")

    cell, supercell = alloy(edges[0]), alloy(edges[0]).repeat((2, 1, 1))
    cell.calc = supercell.calc = calculator
    difference = supercell.get_potential_energy() / len(supercell) - cell.get_potential_energy() / len(cell)
    print(f"energy per atom of a supercell less that of the cell: {difference:.0e} eV")

    temperature, volume = at_constant_pressure(found.atoms, calculator)
    print(f"after 40 fs at constant pressure: {temperature:.0f} K, {volume:.2f} Å³ per atom")


if __name__ == "__main__":
    main()
