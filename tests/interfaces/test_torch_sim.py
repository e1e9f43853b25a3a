"""torch-sim: its contract for models, with its own states and check where it is installed (`make test-torch-sim`)."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk, molecule

from mcgm.errors import ConfigError, StructureError
from mcgm.interfaces.ase import MCGMCalculator

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch-sim's own, about TorchScript
    try:
        import torch_sim
    except ImportError:
        torch_sim = None

from mcgm.interfaces.torch_sim import MCGMModel

installed = pytest.mark.skipif(torch_sim is None, reason="torch-sim is not installed (it needs Python >= 3.12)")

EXTRAS = {"charge": "charge", "spin": "spin"}


def state_of(*structures, dtype=torch.float64):
    """A state of torch-sim, or one with the same attributes: cells have their vectors as columns."""
    if torch_sim is not None:
        return torch_sim.io.atoms_to_state(list(structures), torch.device("cpu"), dtype, system_extras_map=EXTRAS)
    sizes = torch.tensor([len(atoms) for atoms in structures])
    stack = {
        "positions": np.concatenate([atoms.positions for atoms in structures]),
        "cell": np.stack([atoms.cell.array.T for atoms in structures]),
    }
    extras = {key: [atoms.info.get(key, 0.0) for atoms in structures] for key in EXTRAS}
    return SimpleNamespace(
        **{key: torch.tensor(value, dtype=dtype) for key, value in (stack | extras).items()},
        atomic_numbers=torch.from_numpy(np.concatenate([atoms.numbers for atoms in structures])),
        system_idx=torch.repeat_interleave(torch.arange(len(structures)), sizes),
        pbc=torch.tensor(structures[0].pbc),
    )


def crystals():
    """Of torch-sim's own check: several atoms, a long cell, one atom; with charges that differ."""
    found = [bulk("Si", "diamond", a=5.43, cubic=True), bulk("Mg", "hcp", a=3.21, c=5.21) * (3, 2, 1)]
    found.append(bulk("Fe", "bcc", a=2.87))
    for k, atoms in enumerate(found):
        atoms.rattle(0.05, seed=k)
        atoms.info = {"charge": float(k), "spin": 0.0}
    return found


@pytest.fixture(scope="module")
def model(smooth_potential):
    return MCGMModel(smooth_potential)


@installed
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_sims_own_check_passes(smooth_potential, dtype):
    from torch_sim.models.interface import ModelInterface, validate_model_outputs

    model = MCGMModel(smooth_potential, dtype=dtype)
    assert isinstance(model, ModelInterface)
    validate_model_outputs(model, torch.device("cpu"), dtype)


def test_many_systems_have_the_results_of_the_calculator_for_each(model, smooth_potential):
    structures = crystals()
    output = model(state_of(*structures))
    assert output["energy"].shape == (3,)
    first = 0
    for k, atoms in enumerate(structures):
        atoms.calc = MCGMCalculator(smooth_potential)
        assert output["energy"][k].item() == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
        forces = output["forces"][first : first + len(atoms)].numpy()
        np.testing.assert_allclose(forces, atoms.get_forces(), rtol=0, atol=1e-10)
        np.testing.assert_allclose(output["stress"][k].numpy(), atoms.get_stress(voigt=False), rtol=0, atol=1e-10)
        first += len(atoms)
    assert first == len(output["forces"]) == 21


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_one_system_alone_is_the_same_with_all_dimensions_kept(model, kind):
    structures = crystals()
    together, alone = model(state_of(*structures)), model(state_of(structures[kind]))
    first = sum(len(atoms) for atoms in structures[:kind])
    count = len(structures[kind])
    assert alone["energy"].shape == (1,)
    assert alone["forces"].shape == (count, 3)
    assert alone["stress"].shape == (1, 3, 3)
    torch.testing.assert_close(alone["energy"][0], together["energy"][kind], rtol=0, atol=1e-10)
    torch.testing.assert_close(alone["forces"], together["forces"][first : first + count], rtol=0, atol=1e-10)
    torch.testing.assert_close(alone["stress"][0], together["stress"][kind], rtol=0, atol=1e-10)


def test_outputs_are_detached_and_the_state_is_only_read(model):
    state = state_of(*crystals())
    before = {name: getattr(state, name).clone() for name in ("positions", "cell", "atomic_numbers", "system_idx")}
    state.positions.requires_grad_(True)
    output = model(state)
    assert not any(value.requires_grad for value in output.values())
    for name, value in before.items():
        assert torch.equal(getattr(state, name).detach(), value), name


def test_moving_an_atom_by_lattice_vectors_changes_nothing(model):
    state = state_of(crystals()[1])
    before = model(state)
    state.positions = state.positions.clone()
    state.positions[0] += 3 * state.cell[0, :, 0] - state.cell[0, :, 2]
    after = model(state)
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, rtol=0, atol=1e-10)


def test_open_molecules_have_no_stress(model):
    output = model(state_of(molecule("C6H6"), molecule("CH4")))
    assert output["energy"].shape == (2,)
    assert output["forces"].shape == (17, 3)
    assert output["stress"].shape == (2, 3, 3)
    assert output["stress"].isnan().all()


def test_a_slab_without_a_third_vector_leaves_the_stress_of_others(model):
    crystal, flat = crystals()[0], crystals()[0]
    for atoms in (crystal, flat):
        atoms.pbc = (True, True, False)
    flat.cell[2] = 0
    output, expected = model(state_of(crystal, flat)), model(state_of(crystal))
    assert output["stress"][1].isnan().all()
    torch.testing.assert_close(output["stress"][0], expected["stress"][0], rtol=0, atol=1e-12)


def test_outputs_are_what_was_asked_for_in_the_type_of_the_state(smooth_potential):
    model = MCGMModel(smooth_potential, dtype=torch.float32, compute_stress=False)
    assert (model.dtype, model.device) == (torch.float32, torch.device("cpu"))
    state = state_of(crystals()[0])
    output = model(state)
    assert set(output) == {"energy", "forces"}
    assert all(value.dtype == torch.float64 for value in output.values())
    model.compute_stress, model.compute_forces = True, False
    assert set(model(state)) == {"energy", "stress"}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_where_the_caller_has_switched_gradients_off(model, mode):
    state = state_of(molecule("CH4"))
    expected = model(state)["forces"]
    with mode():
        assert torch.equal(model(state)["forces"], expected)


def test_pairs_are_searched_again_only_for_systems_that_moved_far(smooth_potential):
    model, structures = MCGMModel(smooth_potential, skin=0.6), [molecule("C6H6"), molecule("CH3CH2OH")]
    for _ in range(3):
        model(state_of(*structures))
    assert model.neighbors.rebuilds == 2
    structures[1].rattle(0.4, seed=0)
    moved = model(state_of(*structures))
    assert model.neighbors.rebuilds == 3
    fresh = MCGMModel(smooth_potential)(state_of(*structures))
    torch.testing.assert_close(moved["forces"], fresh["forces"], rtol=0, atol=1e-10)
    exchanged = model(state_of(*structures[::-1]))
    torch.testing.assert_close(exchanged["energy"].flip(0), fresh["energy"], rtol=0, atol=1e-10)
    assert len(model(state_of(structures[0]))["energy"]) == 1


def test_charge_of_each_system_matters(model):
    neutral, charged = crystals()[0], crystals()[0]
    charged.info["charge"] = 2.0
    energy = model(state_of(neutral, charged))["energy"]
    assert abs(float(energy[0] - energy[1])) > 1e-4


def test_jumps_must_be_asked_for_and_frozen_clusters_belong_to_their_systems(jumping_potential):
    with pytest.raises(ConfigError, match="allow_discontinuous"):
        MCGMModel(jumping_potential)
    MCGMModel(jumping_potential, allow_discontinuous=True)
    frozen, structures = MCGMModel(jumping_potential, clusters="frozen"), crystals()
    frozen(state_of(*structures))
    frozen(state_of(*structures))
    with pytest.raises(StructureError, match="clusters are frozen for 21 atoms"):
        frozen(state_of(*structures[:2]))


def test_unusable_atoms_are_named_with_their_system(model):
    good, bad = molecule("CH4"), molecule("CH4")
    bad.positions[1] = bad.positions[0]
    with pytest.raises(StructureError, match=r"system 1 of the torch-sim state.*atoms 0 and 1"):
        model(state_of(good, bad))


@installed
@pytest.mark.parametrize("kind", ["dipeptide", "crystal"])
def test_dynamics_is_that_of_ase_and_conserves_energy(kind, smooth_potential, reference):
    """Two copies side by side, each of which must follow ASE."""
    expected = reference(kind)
    model = MCGMModel(smooth_potential)
    state = state_of(expected.start, expected.start)
    masses = torch.from_numpy(np.tile(expected.masses, 2))
    velocities = torch.from_numpy(np.tile(expected.velocities, (2, 1)))
    state.masses = masses
    moving = torch_sim.nve_init(state, model, kT=torch.tensor(0.02, dtype=torch.float64))
    moving.momenta = velocities * masses[:, None]
    total = []
    for positions in expected.positions[1:]:
        moving = torch_sim.nve_step(moving, model, dt=torch.tensor(0.5 * units.fs, dtype=torch.float64))
        for copy in moving.positions.numpy().reshape(2, -1, 3):
            np.testing.assert_allclose(copy, positions, rtol=0, atol=1e-6)
        kinetic = (moving.momenta**2 / masses[:, None]).sum() / 2
        total.append(float(moving.energy.sum() + kinetic) / 2)
    expected.assert_conserves(total)
