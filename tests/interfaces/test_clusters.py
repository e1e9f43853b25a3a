"""Frozen clusters: a potential that jumps becomes one that dynamics can run on."""

import numpy as np
import pytest
import torch
from ase import units
from ase.build import molecule
from ase.constraints import Hookean
from ase.io.trajectory import Trajectory
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet

from mcgm import build
from mcgm.errors import ConfigError, StructureError
from mcgm.interfaces.ase import FrozenClusters, MCGMCalculator
from mcgm.long_range import MCGM, LongRangeSpec, NoLongRange, Orientations, Together
from mcgm.long_range.mcgm.clusterers import ByElement, KMeansPlusPlus
from mcgm.long_range.mcgm.hierarchy import Hierarchy
from mcgm.testing import zoo
from mcgm.testing.derivatives import path_through

OVER_ATOMS = MCGM(levels=1, clusterers=(KMeansPlusPlus(2.0),), energy_per="cluster")
"""K-means over the atoms themselves, whose labels flip often."""


class Declares(LongRangeSpec):
    """Exchanges nothing, and promises less than it could."""

    def __init__(self, **not_promised):
        self.left_out = not_promised

    @property
    def not_promised(self):
        return self.left_out

    def build(self, channels, layers):
        return NoLongRange().build(channels, layers)


def make_potential(long_range=OVER_ATOMS, scale=0.3, **options):
    torch.manual_seed(0)
    options = {"cutoff": 3.0, "backbone_options": {"layers": 1}} | options
    potential = build(long_range=long_range, scale=scale, **options).double().eval()
    if isinstance(potential.long_range, Hierarchy):  # fresh ones whisper; here they are to be heard
        layers = [*potential.long_range.exchanges.modules(), *(head.energy for head in potential.long_range.heads)]
        with torch.no_grad():
            for parameter in (p for layer in layers if isinstance(layer, torch.nn.Linear) for p in layer.parameters()):
                parameter.mul_(5)
    return potential


@pytest.fixture(scope="module")
def potential():
    return make_potential()


def dipeptide():
    return zoo()["alanine dipeptide"].to_atoms()


def largest_step(calculator, structure, steps=100, step=1e-2):
    """The figure of `path_scan`, as a user of the calculator would measure it; at this step itself good to 1e-5 eV."""
    frames, direction = path_through(structure, steps=steps, step=step, seed=0)
    energy, slope = [], []
    for frame in frames:
        atoms = frame.to_atoms()
        atoms.calc = calculator
        energy.append(atoms.get_potential_energy())
        slope.append((atoms.get_forces() * direction).sum())
    slope = np.array(slope)
    return np.abs(np.diff(energy) + step * (slope[1:] + slope[:-1]) / 2).max()


def test_the_energy_along_a_path_steps_with_fresh_labels_and_not_with_frozen_ones(potential):
    structure = zoo()["alanine dipeptide"]
    assert largest_step(MCGMCalculator(potential, allow_discontinuous=True), structure) > 1e-3
    assert largest_step(MCGMCalculator(potential, clusters="frozen"), structure) < 1e-5


@pytest.mark.parametrize("scope", ["system", "molecule"])
def test_nothing_steps_as_a_bond_breaks_with_frozen_clusters(scope):
    potential = make_potential(MCGM.paper(scope=scope))
    steps = {}
    for clusters in ("fresh", "frozen"):
        energy, atoms = [], molecule("C2H6")
        atoms.calc = MCGMCalculator(potential, clusters=clusters, allow_discontinuous=True)
        apart = np.where(atoms.positions[:, 2] > 0, 0.5, -0.5)[:, None] * [0, 0, 1]
        start = atoms.positions.copy()
        for stretch in np.arange(0.33, 0.41, 2e-3):
            atoms.positions = start + stretch * apart
            energy.append(atoms.get_potential_energy())
        steps[clusters] = np.abs(np.diff(energy, n=2)).max()
    assert steps["frozen"] < 1e-4
    assert (steps["fresh"] > 1e-2) == (scope == "molecule")


def test_forces_are_the_slope_of_the_energy_with_the_labels_of_the_first_frame(potential):
    atoms = dipeptide()
    atoms.calc = MCGMCalculator(potential, clusters="frozen")
    atoms.get_potential_energy()
    atoms.rattle(0.15, seed=1)
    forces = atoms.get_forces()
    fresh = atoms.copy()
    fresh.calc = MCGMCalculator(potential, allow_discontinuous=True)
    assert abs(fresh.get_potential_energy() - atoms.get_potential_energy()) > 1e-4
    for atom, axis in ((0, 0), (5, 2), (17, 1)):
        energies = []
        for move in (1e-4, -1e-4):
            moved = atoms.copy()
            moved.positions[atom, axis] += move
            moved.calc = atoms.calc
            energies.append(moved.get_potential_energy())
        assert (energies[1] - energies[0]) / 2e-4 == pytest.approx(forces[atom, axis], abs=1e-6)


def total_energies(calculator, timestep_fs, duration_fs=60):
    """Of a molecule tied to its place by springs, since no fresh network holds one together."""
    atoms = dipeptide()
    atoms.calc = calculator
    atoms.set_constraint([Hookean(k, tuple(place), 20.0, 0.0) for k, place in enumerate(atoms.positions)])
    thermalize_momenta(atoms, 300, rng=np.random.default_rng(0))
    energies = []
    dynamics = VelocityVerlet(atoms, timestep=timestep_fs * units.fs)
    dynamics.attach(lambda: energies.append(atoms.get_total_energy()))
    dynamics.run(round(duration_fs / timestep_fs))
    return np.array(energies)


def test_dynamics_with_frozen_clusters_conserves_energy_where_fresh_ones_jump(potential):
    frozen = [total_energies(MCGMCalculator(potential, clusters="frozen"), step) for step in (1.0, 0.5)]
    fresh = total_energies(MCGMCalculator(potential, allow_discontinuous=True), 0.5)
    assert np.ptp(frozen[0]) / np.ptp(frozen[1]) == pytest.approx(4, rel=0.2)
    assert np.abs(np.diff(fresh)).max() > 5 * np.abs(np.diff(frozen[1])).max()
    assert np.abs(np.diff(fresh)).max() > 5e-3


def test_the_first_frame_is_that_of_fresh_labels_and_results_say_whose_were_used(potential, tmp_path):
    fresh, frozen = dipeptide(), dipeptide()
    fresh.calc = MCGMCalculator(potential, allow_discontinuous=True)
    frozen.calc = MCGMCalculator(potential, clusters="frozen")
    assert frozen.get_potential_energy() == pytest.approx(fresh.get_potential_energy(), abs=1e-12)
    np.testing.assert_allclose(frozen.get_forces(), fresh.get_forces(), rtol=0, atol=1e-12)
    assert fresh.calc.results["clusters"] == "of every frame"
    assert frozen.calc.results["clusters"] == "frozen at the first frame"
    with Trajectory(tmp_path / "frames.traj", "w") as trajectory:
        trajectory.write(frozen)
    with Trajectory(tmp_path / "frames.traj") as trajectory:
        assert trajectory[0].get_potential_energy() == frozen.get_potential_energy()


def test_a_run_goes_on_with_the_labels_of_the_frame_where_it_began(potential):
    start, later = dipeptide(), dipeptide()
    later.rattle(0.15, seed=1)
    energies = []
    calculator = MCGMCalculator(potential, clusters="frozen")
    for atoms in (start, later):
        atoms.calc = calculator
        energies.append(atoms.get_potential_energy())
    again = later.copy()
    again.calc = MCGMCalculator(potential, clusters=FrozenClusters(at=start))
    assert again.get_potential_energy() == pytest.approx(energies[1], abs=1e-12)
    assert again.calc.results["clusters"] == "frozen at a given frame"
    forgetful = later.copy()
    forgetful.calc = MCGMCalculator(potential, clusters="frozen")
    assert abs(forgetful.get_potential_energy() - energies[1]) > 1e-4


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_clusters_may_be_frozen_where_the_caller_has_switched_gradients_off(potential, mode):
    atoms = dipeptide()
    with mode():
        atoms.calc = MCGMCalculator(potential, clusters=FrozenClusters(at=atoms))
    assert np.isfinite(atoms.get_forces()).all()


@pytest.mark.parametrize("change", ["fewer atoms", "other order", "periodic"])
def test_frozen_clusters_refuse_other_atoms(potential, change):
    atoms = dipeptide()
    calculator = MCGMCalculator(potential, clusters="frozen")
    atoms.calc = calculator
    atoms.get_potential_energy()
    if change == "fewer atoms":
        atoms = atoms[:-1]
    elif change == "other order":
        atoms = atoms[::-1]
    else:
        atoms.set_cell([20, 20, 20])
        atoms.pbc = True
    atoms.calc = calculator
    with pytest.raises(StructureError, match="Make a new calculator"):
        atoms.get_potential_energy()


def test_freezing_clusters_freezes_nothing_of_other_blocks():
    pair = Together((MCGM(levels=1, clusterers=(ByElement(),), scope="molecule", energy_per="cluster"), Orientations()))
    potential = make_potential(pair)
    waters = molecule("H2O") + molecule("H2O")
    waters.positions[3:] += [4.0, 0, 0]
    waters.calc = MCGMCalculator(potential, clusters="frozen")
    waters.get_potential_energy()
    for near in (-1.0, -0.6):  # what was out of reach comes within it
        waters.positions[3:, 0] += near
        anew = waters.copy()
        anew.calc = MCGMCalculator(potential, clusters=FrozenClusters(at=waters))
        assert waters.get_potential_energy() == pytest.approx(anew.get_potential_energy(), abs=1e-10)
        np.testing.assert_allclose(waters.get_forces(), anew.get_forces(), rtol=0, atol=1e-10)


def test_what_makes_no_sense_is_refused_with_what_to_do(potential):
    with pytest.raises(ConfigError, match=r"long_range='mcgm'.*clusters='frozen'.*allow_discontinuous=True"):
        MCGMCalculator(potential)
    with pytest.raises(ConfigError, match="this one is smooth"):
        MCGMCalculator(make_potential("mcgm"), clusters="frozen")
    jumps = make_potential(Declares(smooth="it is made to jump"))
    with pytest.raises(ConfigError, match=r"false\): it is made to jump\.(?!.*frozen)"):
        MCGMCalculator(jumps)
    with pytest.raises(ConfigError, match="has none: it is made to jump"):
        MCGMCalculator(jumps, clusters="frozen")
    with pytest.raises(ConfigError, match="Did you mean 'frozen'"):
        MCGMCalculator(potential, clusters="frosen")


def test_a_symmetry_that_is_not_promised_is_said():
    potential = make_potential(Declares(rotation="its grid is fixed in space", copies="it sees them all"))
    with pytest.warns(UserWarning, match="no invariance under rotation: its grid is fixed in space"):
        MCGMCalculator(potential)
