"""The ASE calculator: same numbers as the potential, fit for dynamics, and a good guest in the process."""

import copy

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_stress
from ase.filters import FrechetCellFilter
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from ase.stress import full_3x3_to_voigt_6_stress

from mcgm import Batch, build
from mcgm.errors import ConfigError, StructureError
from mcgm.interfaces.ase import MCGMCalculator
from mcgm.interfaces.skin import WideNeighbors
from mcgm.neighbors import find_neighbors
from mcgm.structure import Structure
from mcgm.testing import zoo


def make_potential(long_range="mcgm", **options):
    torch.manual_seed(0)
    return build(backbone="schnet", long_range=long_range, cutoff=4.0, **options).double().eval()


@pytest.fixture(scope="module")
def potential():
    return make_potential()


def salt(repeats=1):
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True) * (repeats, 1, 1)
    atoms.rattle(0.05, seed=0)
    return atoms


def direct(potential, atoms):
    return potential(Batch.from_atoms([atoms.copy()], cutoff=potential.cutoff, dtype=potential.dtype))


def assert_equals_potential(atoms, potential, tolerance=1e-12):
    expected = direct(potential, atoms)
    assert atoms.get_potential_energy() == pytest.approx(float(expected.energy[0]), abs=tolerance, rel=0)
    np.testing.assert_allclose(atoms.get_forces(), expected.forces.numpy(), rtol=0, atol=tolerance)
    if atoms.pbc.any():
        stress = full_3x3_to_voigt_6_stress(expected.stress[0].numpy())
        np.testing.assert_allclose(atoms.get_stress(), stress, rtol=0, atol=tolerance)


@pytest.mark.parametrize("animal", ["H", "CH4", "alanine dipeptide", "two waters far apart", "NaCl cell"])
def test_results_are_those_of_the_potential(potential, animal):
    atoms = zoo()[animal].to_atoms()
    atoms.calc = MCGMCalculator(potential)
    assert_equals_potential(atoms, potential)
    assert atoms.calc.results["free_energy"] == atoms.get_potential_energy()


def test_atom_energies_and_cluster_energy_add_up(potential):
    atoms = molecule("C6H6")
    atoms.calc = MCGMCalculator(potential)
    energy = atoms.get_potential_energy()
    assert atoms.get_potential_energies().shape == (12,)
    parts = atoms.get_potential_energies().sum() + atoms.calc.results["cluster_energy"]
    assert parts == pytest.approx(energy, abs=1e-12)
    assert abs(atoms.calc.results["cluster_energy"]) > 1e-6


def test_float32_is_offered_and_close(potential):
    atoms = molecule("C6H6")
    expected = float(direct(potential, atoms).energy[0])
    atoms.calc = MCGMCalculator(potential, dtype=torch.float32)
    assert atoms.get_potential_energy() == pytest.approx(expected, abs=1e-4)
    assert atoms.get_potential_energy() != expected
    assert potential.dtype == torch.float64


def test_a_model_file_gives_the_same(potential, tmp_path):
    path = tmp_path / "model.safetensors"
    potential.save(path)
    atoms = molecule("CH3OH")
    atoms.calc = MCGMCalculator(path)
    assert_equals_potential(atoms, potential)


def test_stress_is_that_of_strained_cells(potential):
    atoms = salt()
    atoms.calc = MCGMCalculator(potential)
    expected = calculate_numerical_stress(atoms, eps=1e-5)
    np.testing.assert_allclose(atoms.get_stress(), expected, rtol=0, atol=1e-8)
    assert np.abs(expected).max() > 1e-3


def test_pairs_are_searched_again_only_when_needed(potential):
    atoms = molecule("CH3CH2OH")
    atoms.calc = MCGMCalculator(potential, skin=0.6)
    for _ in range(5):
        atoms.positions += np.random.default_rng(0).uniform(-0.01, 0.01, atoms.positions.shape)
        atoms.get_forces()
    assert atoms.calc.rebuilds == 1
    atoms.positions[0] += 0.4
    assert_equals_potential(atoms, potential)
    assert atoms.calc.rebuilds == 2


def test_every_step_of_a_walk_equals_a_fresh_search(potential):
    atoms = salt(2)
    atoms.calc = MCGMCalculator(potential, skin=0.5)
    random = np.random.default_rng(1)
    for step in range(25):
        atoms.positions += random.normal(scale=0.02, size=atoms.positions.shape)
        atoms.set_cell(atoms.cell[:] @ (np.eye(3) + random.normal(scale=1e-3, size=(3, 3))), scale_atoms=True)
        if step % 5 == 0:
            atoms.wrap()
        assert_equals_potential(atoms, potential, tolerance=1e-11)
    assert 1 < atoms.calc.rebuilds < 20


def test_wrapping_atoms_needs_no_new_search(potential):
    atoms = salt()
    atoms.calc = MCGMCalculator(potential)
    before = atoms.get_potential_energy()
    atoms.positions += np.random.default_rng(0).integers(-3, 4, (len(atoms), 3)) @ atoms.cell[:]
    assert atoms.get_potential_energy() == pytest.approx(before, abs=1e-12)
    assert_equals_potential(atoms, potential)
    assert atoms.calc.rebuilds == 1


@pytest.mark.parametrize("pbc", [True, (True, True, False), (False, False, True), False])
def test_a_list_that_still_serves_holds_every_pair(pbc):
    random = np.random.default_rng(0)
    cell = np.array([[5.0, 0, 0], [1.5, 4.5, 0], [-0.7, 0.6, 6.0]])
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3), axis=-1).reshape(-1, 3) / 2
    structure = Structure(numbers=np.full(8, 6), positions=grid @ cell, cell=cell, pbc=pbc)
    wide, served = WideNeighbors.search(structure, cutoff=3.0, skin=0.8), 0
    for scale in np.linspace(0.01, 0.4, 40):
        deform = np.eye(3) + random.normal(scale=0.1 * scale, size=(3, 3))
        moved = structure.positions @ deform + random.normal(scale=scale, size=(8, 3))
        now = structure.replace(positions=moved, cell=cell @ deform)
        images = random.integers(-2, 3, (8, 3)) * now.pbc
        now = now.replace(positions=now.positions + images @ now.cell)
        wraps = wide.wraps(now)
        if wraps is not None:
            served += 1
            assert pairs_of(wide.within_cutoff(now, wraps)) == pairs_of(find_neighbors([now], 3.0))
    assert 3 < served < 40


def test_results_depend_on_the_images_that_are_given_and_not_on_those_of_earlier_ones():
    charged = make_potential("mcgm_charges")
    atoms = salt()
    atoms.calc = MCGMCalculator(charged)
    atoms.get_dipole_moment()
    atoms.positions[0] += atoms.cell[0]
    later = atoms.get_dipole_moment()
    anew = atoms.copy()
    anew.calc = MCGMCalculator(charged)
    np.testing.assert_allclose(later, anew.get_dipole_moment(), rtol=0, atol=1e-12)
    assert atoms.calc.rebuilds == 1


def test_an_open_vector_may_point_anywhere(potential):
    atoms = salt()
    atoms.pbc = (True, True, False)
    upright = atoms.copy()
    atoms.cell[2] = atoms.cell[0] + 2 * atoms.cell[1]
    for each in (atoms, upright):
        each.calc = MCGMCalculator(potential)
    for shift in np.eye(3):  # through the cell along all its axes
        atoms.positions += 1.5 * shift
        atoms.positions[1] += atoms.cell[0]
        upright.positions[:] = atoms.positions
        assert atoms.get_potential_energy() == pytest.approx(upright.get_potential_energy(), abs=1e-10)
        np.testing.assert_allclose(atoms.get_forces(), upright.get_forces(), rtol=0, atol=1e-10)


def pairs_of(neighbors):
    return set(
        zip(neighbors.target.tolist(), neighbors.source.tolist(), map(tuple, neighbors.image.tolist()), strict=True)
    )


@pytest.mark.parametrize("change", ["other atoms", "other elements", "open boundaries", "new cell"])
def test_a_changed_system_is_searched_again(potential, change):
    atoms = salt()
    calculator = MCGMCalculator(potential)
    atoms.calc = calculator
    atoms.get_potential_energy()
    if change == "other atoms":
        atoms = atoms[:-1]
    elif change == "other elements":
        atoms.numbers[0] = 19
    elif change == "open boundaries":
        atoms.pbc = False
    else:
        atoms.set_cell(atoms.cell[:] * 0.8, scale_atoms=True)
    atoms.calc = calculator
    assert_equals_potential(atoms, potential)
    assert calculator.rebuilds == 2


def test_halving_the_time_step_quarters_the_fluctuation_of_the_total_energy(potential):
    """What a symplectic integrator does if, and only if, the forces are the slope of a smooth energy."""
    fluctuation = []
    for timestep_fs, steps in ((0.5, 40), (0.25, 80)):
        atoms = molecule("CH4")
        atoms.calc = MCGMCalculator(potential)
        thermalize_momenta(atoms, 300, rng=np.random.default_rng(0))
        total, kinetic = [], []
        dynamics = VelocityVerlet(atoms, timestep=timestep_fs * units.fs)
        dynamics.attach(lambda atoms=atoms, total=total: total.append(atoms.get_total_energy()))
        dynamics.attach(lambda atoms=atoms, kinetic=kinetic: kinetic.append(atoms.get_kinetic_energy()))
        dynamics.run(steps)
        assert np.ptp(kinetic) > 0.1
        assert 1 < atoms.calc.rebuilds < steps / 2
        fluctuation.append(np.ptp(total))
    assert fluctuation[0] / fluctuation[1] == pytest.approx(4.0, rel=0.1)


def test_bfgs_relaxes_atoms_and_cell(potential):
    atoms = salt()
    atoms.calc = MCGMCalculator(potential)
    start = atoms.get_potential_energy()
    assert BFGS(atoms, logfile=None).run(fmax=1e-3, steps=200)
    assert atoms.get_potential_energy() < start
    relaxed = atoms.get_potential_energy()
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-2, steps=5)
    assert atoms.get_potential_energy() < relaxed


def test_global_torch_state_is_untouched(potential):
    atoms = salt()
    before = torch.get_default_dtype(), torch.get_num_threads(), torch.initial_seed(), torch.is_grad_enabled()
    state, switches = torch.get_rng_state(), torch.are_deterministic_algorithms_enabled()
    random = np.random.get_state()[1].copy()  # noqa: NPY002 - the legacy state is what must not change
    atoms.calc = MCGMCalculator(potential, dtype=torch.float32)
    atoms.get_forces()
    after = torch.get_default_dtype(), torch.get_num_threads(), torch.initial_seed(), torch.is_grad_enabled()
    assert before == after
    assert torch.equal(state, torch.get_rng_state())
    assert switches == torch.are_deterministic_algorithms_enabled()
    assert (random == np.random.get_state()[1]).all()  # noqa: NPY002


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_where_the_caller_has_switched_gradients_off(potential, mode):
    atoms = molecule("CH4")
    atoms.calc = MCGMCalculator(potential)
    with mode():
        forces = atoms.get_forces()
        assert not torch.is_grad_enabled()
    np.testing.assert_allclose(forces, direct(potential, atoms).forces.numpy(), rtol=0, atol=1e-12)


def test_works_under_another_default_type(potential):
    atoms = molecule("CH4")
    atoms.calc = MCGMCalculator(potential)
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert_equals_potential(atoms, potential)
    finally:
        torch.set_default_dtype(default)


def test_the_potential_given_is_not_changed(potential):
    given = copy.deepcopy(potential).train()
    atoms = molecule("CH4")
    atoms.calc = MCGMCalculator(given, dtype=torch.float32)
    atoms.get_forces()
    assert given.training
    assert all(p.requires_grad and p.dtype == torch.float64 for p in given.parameters())


def test_atoms_are_not_changed(potential):
    atoms = salt()
    positions, info = atoms.positions.copy(), dict(atoms.info)
    atoms.calc = MCGMCalculator(potential)
    atoms.get_stress()
    assert np.array_equal(positions, atoms.positions)
    assert info == atoms.info


@pytest.mark.parametrize("key", ["charge", "spin"])
def test_charge_and_spin_of_info_reach_the_potential(potential, key):
    atoms = molecule("CH4")
    atoms.calc = MCGMCalculator(potential)
    seen = []
    atoms.calc.potential.register_forward_pre_hook(lambda module, args: seen.append(getattr(args[0], key).item()))
    atoms.get_potential_energy()
    atoms.info[key] = 2
    atoms.get_potential_energy()
    atoms.get_potential_energy()
    assert seen == [0.0, 2.0]


def test_a_charge_that_becomes_no_number_is_refused(potential):
    atoms = molecule("CH4")
    atoms.calc = MCGMCalculator(potential, label="mine", directory="here")
    atoms.get_potential_energy()
    for charge in (np.array([1.0, 2.0]), "1", None, np.nan):
        atoms.info["charge"] = charge
        with pytest.raises(StructureError, match="charge is"):
            atoms.get_potential_energy()


def test_an_unknown_element_is_named():
    atoms = molecule("CH3Cl")
    atoms.calc = MCGMCalculator(make_potential(elements=[1, 6, 8]))
    with pytest.raises(StructureError, match=r"structure 'CClH3': atom 1 is Cl.*H C O"):
        atoms.get_potential_energy()


def test_overlapping_and_broken_atoms_are_refused(potential):
    calculator = MCGMCalculator(potential)
    with pytest.raises(StructureError, match="atoms 0 and 1"):
        Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.01]], calculator=calculator).get_forces()
    with pytest.raises(StructureError, match="not finite"):
        Atoms("H2", positions=[[0, 0, 0], [0, 0, np.nan]], calculator=calculator).get_forces()


def test_stress_of_an_open_molecule_is_refused(potential):
    atoms = molecule("CH4")
    atoms.calc = MCGMCalculator(potential)
    with pytest.raises(PropertyNotImplementedError, match="periodic"):
        atoms.get_stress()


@pytest.mark.parametrize("third", [(0, 0, 0), (1.3, 0.7, 0)])
def test_stress_of_a_slab_is_refused_until_it_has_a_third_vector(potential, third):
    atoms = salt()
    atoms.pbc = (True, True, False)
    atoms.rotate(40, (1, 2, 3), rotate_cell=True)
    upright = atoms.cell[2].copy()
    atoms.cell[2] = third @ atoms.cell[:]
    atoms.calc = MCGMCalculator(potential)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    with pytest.raises(PropertyNotImplementedError, match="open axes too"):
        atoms.get_stress()
    virials = []
    for factor in (1, 2):
        atoms.cell[2] = factor * upright
        virials.append(atoms.get_stress() * atoms.get_volume())
    np.testing.assert_allclose(*virials, rtol=0, atol=1e-11)
    assert np.abs(virials).max() > 0.1
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-12)
    np.testing.assert_allclose(atoms.get_forces(), forces, rtol=0, atol=1e-12)


def test_jumps_must_be_asked_for_by_name():
    paper = make_potential("mcgm_paper")
    with pytest.raises(ConfigError, match="allow_discontinuous"):
        MCGMCalculator(paper)
    atoms = molecule("CH3CH2OH")
    atoms.calc = MCGMCalculator(paper, allow_discontinuous=True)
    assert_equals_potential(atoms, paper)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"skin": -1.0}, "skin"),
        ({"skin": np.nan}, "skin is nan"),  # with which no pair would be near
        ({"skin": np.inf}, "skin is inf"),
        ({"skin": "0.3"}, "skin is '0.3'"),
        ({"dtype": torch.float16}, "dtype"),
        ({"device": "cpuu"}, "device 'cpuu': cannot be used.*There are here: cpu"),
        ({"skinn": 0.3}, "unknown option 'skinn'. Did you mean 'skin'"),
        ({"precision": "double"}, "dtype=torch.float64"),
    ],
)
def test_wrong_options_are_named(potential, options, word):
    with pytest.raises(ConfigError, match=word):
        MCGMCalculator(potential, **options)


def test_charges_and_dipole_are_results_of_a_potential_that_has_some():
    torch.manual_seed(0)
    atoms = molecule("CH3OH")
    atoms.info["charge"] = -1.0
    atoms.calc = MCGMCalculator(build(long_range="mcgm_charges", cutoff=3.0).double())
    assert atoms.get_charges().sum() == pytest.approx(-1.0)
    arm = atoms.positions - atoms.get_center_of_mass()
    np.testing.assert_allclose(atoms.get_dipole_moment(), atoms.get_charges() @ arm, atol=1e-12)
    atoms.calc = MCGMCalculator(build(long_range="mcgm", cutoff=3.0).double())
    with pytest.raises(PropertyNotImplementedError, match="no charges"):
        atoms.get_charges()


def test_what_is_no_potential_is_refused():
    with pytest.raises(ConfigError, match="the potential is 3; required: a potential, or the path of its file"):
        MCGMCalculator(3)
