"""The drift of the total energy as a figure."""

import numpy as np
import pytest
import torch
from ase import units

from mcgm import build
from mcgm.errors import StructureError
from mcgm.structure import Structure
from mcgm.testing import drift_at_rest, energy_drift, zoo
from mcgm.testing.dynamics import _Bonds, _simulate


class Oscillator:
    """A diatomic spring of 30 eV/Å² at 1 Å: what velocity Verlet does with it is known in closed form."""

    structure = Structure(numbers=[1, 1], positions=[[0, 0, 0], [1.05, 0, 0]])

    def __call__(self, positions):
        vector = positions[1] - positions[0]
        length = np.linalg.norm(vector)
        pull = 30.0 * (length - 1.0) * vector / length
        return 15.0 * (length - 1.0) ** 2, np.array([pull, -pull])


def test_drift_is_small_for_a_smooth_potential_and_grows_with_the_time_step():
    torch.manual_seed(0)
    potential = build(long_range="mcgm", cutoff=4.0, scale=0.1, backbone_options={"layers": 2}).double().eval()
    structure = zoo()["NaCl cell"]
    drift = [
        energy_drift(potential, structure, timestep_fs=dt, duration_ps=0.15, temperature_K=100) for dt in (1.5, 7.5)
    ]
    assert drift[0] < drift[1]
    assert drift[0] < 0.1


def test_the_conserved_energy_of_a_vibration_swings_far_less_than_its_total_energy():
    settings = {"temperature_K": 300.0, "duration_ps": 0.1, "seed": 0}
    coarse, fine = (_simulate(Oscillator(), timestep_fs=dt, **settings).conserved for dt in (0.8, 0.4))
    quadratic = 0.05 * (30.0 / 0.5 / 1.0) * (0.8 * units.fs) ** 2 / 8
    assert np.ptp(coarse) < quadratic / 4
    assert np.ptp(fine) < np.ptp(coarse) / 8


def test_atoms_that_an_untrained_potential_does_not_hold_are_held_by_springs():
    torch.manual_seed(0)
    options = {"channels": 8, "filters": 8, "radial": 8, "layers": 2}
    potential = build(long_range="none", cutoff=4.0, scale=1e-3, backbone_options=options).double().eval()
    found = drift_at_rest(potential, zoo()["CH4"], duration_ps=0.05)
    assert found.held
    assert found.rate < 0.05


def test_a_structure_is_whole_only_without_crushed_bonds_and_new_neighbours():
    methane = zoo()["CH4"]
    assert methane.numbers[0] == 6
    first, second = methane.positions[1] - methane.positions[0], methane.positions[2] - methane.positions[0]
    crushed, met = methane.positions.copy(), methane.positions.copy()
    crushed[1] = methane.positions[0] + 0.6 * first
    between = (first + second) / np.linalg.norm(first + second)
    aside = (first - second) / np.linalg.norm(first - second)
    for atom, side in ((1, 0.3), (2, -0.3)):
        met[atom] = methane.positions[0] + 1.1 * between + side * aside
    broken = methane.positions.copy()
    broken[1] = methane.positions[0] + 2.2 * first
    bonds = _Bonds.of(methane)
    bonds.require(methane.positions)
    for frame in (crushed, met, broken):
        with pytest.raises(StructureError, match="do not hold"):
            bonds.require(frame)
