"""Potentials, structures and ASE's own trajectory, which every other program must follow."""

from functools import cache

import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet

from mcgm import build
from mcgm.interfaces.ase import MCGMCalculator
from mcgm.testing import zoo

STEPS, TIMESTEP_FS = 20, 0.5


def make_potential(long_range="mcgm", **options):
    torch.manual_seed(0)
    options = {"cutoff": 4.0, "scale": 0.3, "backbone_options": {"layers": 1}} | options
    return build(long_range=long_range, **options).double().eval()


@pytest.fixture(scope="session")
def smooth_potential():
    return make_potential()


@pytest.fixture(scope="session")
def jumping_potential():
    return make_potential("mcgm_paper")


@pytest.fixture(scope="session")
def charged_potential():
    return make_potential("mcgm_charges")


@pytest.fixture(scope="session")
def model_file(smooth_potential, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    smooth_potential.save(path)
    return path


def make_dipeptide():
    """Not neutral and not a singlet, so that these numbers matter."""
    atoms = zoo()["alanine dipeptide"].to_atoms()
    atoms.info = {"charge": 1.0, "spin": 1.0}
    return atoms


def make_crystal():
    """Sheared, and with an atom outside of the cell."""
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    atoms.rattle(0.05, seed=0)
    atoms.set_cell([[5.64, 0, 0], [0.5, 5.5, 0], [-0.4, 0.3, 5.8]], scale_atoms=True)
    atoms.positions[2] += atoms.cell[0] - 2 * atoms.cell[2]
    atoms.info = {"charge": 0.0, "spin": 0.0}
    return atoms


STRUCTURES = {"dipeptide": make_dipeptide, "crystal": make_crystal}


@pytest.fixture
def dipeptide():
    return make_dipeptide()


@pytest.fixture
def crystal():
    return make_crystal()


class Reference:
    """What ASE computes: results at the start, then velocity Verlet at constant energy."""

    def __init__(self, atoms, potential):
        self.start, self.atoms = atoms, atoms.copy()
        self.atoms.calc = MCGMCalculator(potential)
        self.energy, self.forces = self.atoms.get_potential_energy(), self.atoms.get_forces()
        self.stress = self.atoms.get_stress(voigt=False) if atoms.pbc.any() else None
        thermalize_momenta(self.atoms, 300, rng=np.random.default_rng(0))
        self.velocities, self.masses = self.atoms.get_velocities(), self.atoms.get_masses()
        self.positions, self.total = [self.atoms.positions.copy()], []
        dynamics = VelocityVerlet(self.atoms, TIMESTEP_FS * units.fs)
        dynamics.attach(lambda: self.total.append(self.atoms.get_total_energy()))
        for _ in range(STEPS):
            dynamics.run(1)
            self.positions.append(self.atoms.positions.copy())

    @property
    def kinetic(self):
        return (self.masses[:, None] * self.velocities**2).sum() / 2

    def assert_conserves(self, total):
        """A total energy (eV) by step swings as little as ASE's, and much less than what atoms exchange."""
        assert np.ptp(total) < 1.2 * np.ptp(self.total) + 1e-6
        assert np.ptp(total) < 0.02 * self.kinetic


@pytest.fixture(scope="session")
def reference(smooth_potential):
    """By the name of the structure."""
    return cache(lambda kind: Reference(STRUCTURES[kind](), smooth_potential))
