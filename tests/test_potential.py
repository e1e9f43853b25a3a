"""What a potential promises about energies, forces, precision and errors."""

import dataclasses

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch.utils._python_dispatch import TorchDispatchMode

from mcgm import Batch, build
from mcgm.backbones import BACKBONES
from mcgm.backbones.schnet import SchNet
from mcgm.errors import ConfigError, StructureError
from mcgm.long_range import BLOCKS, MCGM
from mcgm.potential import Potential

CUTOFF = 3.5
SMALL = {"channels": 8, "filters": 8, "radial": 6, "layers": 2}


@dataclasses.dataclass(frozen=True)
class FreeElements:
    energies: np.ndarray = dataclasses.field(default_factory=lambda: -1000.123456789 * np.arange(119.0))
    intercept: float = -3.3


def make(long_range="mcgm", dtype=torch.float64, **options):
    torch.manual_seed(0)
    settings = {"backbone_options": SMALL, "cutoff": CUTOFF, "references": FreeElements(), "scale": 0.7, "shift": -0.2}
    return build(long_range=long_range, **(settings | options)).to(dtype).eval()


def make_batch(dtype=torch.float64, structures=None):
    structures = [molecule("CH3OH"), molecule("H2O"), bulk("Si")] if structures is None else structures
    return Batch.from_atoms(structures, cutoff=CUTOFF, dtype=dtype)


WITHOUT_ENERGY = ("none", "atom_wise", "charges", "orientations", "range", "neural_atoms", "ewald")
"""Blocks whose nodes have no energies of their own, beside that of charges."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("long_range", BLOCKS)
def test_the_energy_is_the_sum_of_its_parts(long_range, dtype):
    batch = make_batch(dtype)
    prediction = make(long_range, dtype)(batch)
    total = torch.zeros(3, dtype=torch.float64).index_add(0, batch.molecule, prediction.atom_energy)
    total = total + prediction.cluster_energy + prediction.electrostatic_energy - 3.3
    torch.testing.assert_close(prediction.energy, total, rtol=1e-14, atol=0)
    assert prediction.energy.dtype == torch.float64
    assert (prediction.cluster_energy == 0).all() == (long_range in WITHOUT_ENERGY)
    assert (prediction.electrostatic_energy == 0).all() == ("charges" not in long_range)


def test_cluster_energies_are_those_of_the_last_layers_clusters_times_the_scale():
    prediction = make("mcgm_paper")(make_batch())
    total = torch.zeros(3, dtype=torch.float64)
    for level in prediction.clusters[-1]:
        total = total.index_add(0, level.molecule, level.energy)
    torch.testing.assert_close(prediction.cluster_energy, 0.7 * total)


def test_scale_shift_and_references_enter_as_promised():
    batch = make_batch()
    plain = make(references=None, scale=1.0, shift=0.0)(batch)
    full = make()(batch)
    own = torch.from_numpy(FreeElements().energies)[batch.numbers] - 0.2
    # 0.7 and 0.2 were kept in float32 before the cast
    torch.testing.assert_close(full.atom_energy, own + 0.7 * plain.atom_energy, rtol=1e-10, atol=1e-6)
    torch.testing.assert_close(full.forces, 0.7 * plain.forces, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.float(),
        lambda p: p.double(),
        lambda p: p.float().double(),
        lambda p: p.half().float(),
        lambda p: p.to(torch.float32),
        lambda p: p.to("cpu", torch.float64),
    ],
)
def test_reference_energies_stay_in_double_precision(change):
    potential = change(make(dtype=torch.float32))
    assert potential.references.energies.dtype == potential.references.intercept.dtype == torch.float64
    assert potential.references.energies[6] == FreeElements().energies[6]


def test_reference_energies_follow_the_device():
    potential = make().to("meta")
    assert potential.references.energies.device.type == "meta"
    assert potential.device.type == "meta"


def test_a_double_potential_predicts_in_double():
    potential = make(dtype=torch.float32).double()
    assert potential.dtype == torch.float64
    assert potential(make_batch().to(potential.dtype)).forces.dtype == torch.float64


def test_single_and_double_precision_agree():
    single, double = make(dtype=torch.float32)(make_batch(torch.float32)), make()(make_batch())
    torch.testing.assert_close(single.energy, double.energy, rtol=0, atol=1e-5)
    torch.testing.assert_close(single.forces.double(), double.forces, rtol=0, atol=1e-5)


def test_forces_need_no_gradient_mode_and_evaluation_leaves_no_graph():
    potential, batch = make(), make_batch()
    with torch.no_grad():
        quiet = potential(batch)
    loud = potential(batch)
    assert torch.equal(quiet.forces, loud.forces)
    for prediction in (quiet, loud):
        assert not prediction.energy.requires_grad
        assert not prediction.forces.requires_grad
        assert not prediction.clusters[-1][-1].energy.requires_grad
    assert not batch.positions.requires_grad


def test_forces_in_inference_mode_are_refused_with_the_way_out():
    potential = build(cutoff=4.0).eval()
    batch = Batch.from_atoms([molecule("H2O")], cutoff=4.0)
    with torch.inference_mode():
        assert potential(batch, forces=False).energy.isfinite()
        with pytest.raises(ConfigError, match=r"Use torch\.no_grad\(\)"):
            potential(batch)
    with torch.no_grad():
        assert potential(batch).forces.isfinite().all()


def test_training_gives_energies_and_forces_that_reach_the_weights():
    potential = make().train()
    prediction = potential(make_batch())
    for value in (prediction.energy, prediction.forces.square(), prediction.stress.square()):
        gradients = torch.autograd.grad(value.sum(), list(potential.parameters()), retain_graph=True, allow_unused=True)
        reached = [gradient for gradient in gradients if gradient is not None and gradient.abs().max() > 0]
        assert len(reached) > len(gradients) / 2


def test_positions_that_require_gradients_give_forces_that_can_be_differentiated():
    batch = make_batch()
    batch = batch.replace(positions=batch.positions.requires_grad_())
    forces = make()(batch).forces
    assert torch.autograd.grad(forces[0, 0], batch.positions)[0].abs().max() > 0


def test_energies_alone_are_those_beside_forces():
    potential, batch = make(), make_batch()
    alone, full = potential(batch, forces=False), potential(batch)
    assert alone.forces is None
    assert alone.stress is None
    assert torch.equal(alone.energy, full.energy)


def test_stress_is_given_where_a_batch_is_periodic_and_zero_for_open_structures():
    potential = make()
    crystal, open_molecule = bulk("NaCl", "rocksalt", a=5.6), molecule("H2O")
    assert potential(make_batch(structures=[open_molecule])).stress is None
    mixed = potential(make_batch(structures=[open_molecule, crystal])).stress
    alone = potential(make_batch(structures=[crystal])).stress
    assert (mixed[0] == 0).all()
    assert mixed[1].abs().max() > 0
    torch.testing.assert_close(mixed[1], alone[0])
    torch.testing.assert_close(alone, alone.transpose(1, 2))
    assert potential(make_batch(structures=[crystal]), stress=False).stress is None


def test_an_unknown_element_is_named_with_structure_and_atom():
    potential = make(elements=[1, 6, 8])
    with pytest.raises(StructureError, match=r"structure 1 of the batch: atom 2 is S, .* It knows: H C O"):
        potential(make_batch(structures=[molecule("H2O"), Atoms("HOS", np.diag([0.0, 1.0, 2.0]))]))
    assert potential(make_batch(structures=[molecule("H2O")])).energy.shape == (1,)


def test_another_cutoff_or_precision_is_refused_and_says_what_to_do():
    potential = make()
    with pytest.raises(StructureError, match=r"within 5 Å; required: 3.5 Å. Make it with cutoff=potential.cutoff"):
        potential(Batch.from_atoms([molecule("H2O")], cutoff=5.0, dtype=torch.float64))
    with pytest.raises(StructureError, match=r"dtype=potential.dtype"):
        potential(make_batch(torch.float32))


def test_an_index_made_before_gives_the_same_prediction():
    potential, batch = make("mcgm_paper"), make_batch()
    assert torch.equal(potential(potential.index(batch)).forces, potential(batch).forces)


def test_a_prediction_leaves_module_batch_and_chance_alone():
    potential, batch = make("mcgm_random"), make_batch()
    weights = {name: tensor.clone() for name, tensor in potential.state_dict().items()}
    attributes = [set(vars(module)) for module in potential.modules()]
    chance, positions = torch.get_rng_state(), batch.positions.clone()
    potential(batch)
    assert torch.equal(torch.get_rng_state(), chance)
    assert torch.equal(batch.positions, positions)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in potential.state_dict().items())
    assert [set(vars(module)) for module in potential.modules()] == attributes


def test_drawn_clusters_change_the_energy_only_with_the_generator():
    potential = make("mcgm_random", long_range_options={"reduction": 1.3})
    batch = make_batch(structures=[molecule("CH3CONH2")])
    energies = [potential(batch, generator=torch.Generator().manual_seed(seed)).energy.item() for seed in (0, 0, 1, 2)]
    assert energies[0] == energies[1]
    assert len(set(energies)) > 1


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("long_range", BLOCKS)
def test_every_name_builds_a_potential(backbone, long_range):
    potential = build(backbone=backbone, long_range=long_range, cutoff=CUTOFF).eval()
    prediction = potential(make_batch(torch.float32, [molecule("CH3OH")]))
    assert prediction.forces.shape == (6, 3)
    assert torch.isfinite(prediction.forces).all()
    assert f"smooth={potential.is_smooth}" in repr(potential)


def test_objects_are_accepted_in_place_of_names():
    backbone = SchNet(**SMALL, cutoff=4.0)
    block = MCGM.paper(levels=2)
    potential = build(backbone=backbone, long_range=block)
    assert isinstance(potential, Potential)
    assert potential.backbone is backbone
    assert potential.specification is block
    assert potential.cutoff == 4.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "shnet"}, "unknown backbone 'shnet'. Did you mean 'schnet'"),
        ({"long_range": "mgcm"}, "unknown long-range block 'mgcm'. Did you mean 'mcgm'"),
        ({"size": "large"}, "unknown size of schnet 'large'"),
        ({"backbone_options": {"chanels": 3}}, "backbone schnet: unknown option 'chanels'. Did you mean 'channels'"),
        ({"long_range_options": {"reductions": 3}}, "unknown option 'reductions'. Did you mean 'reduction'"),
        ({"long_range_options": {"levels": 0}}, "levels is 0"),
        ({"long_range": "none", "long_range_options": {"levels": 2}}, "unknown option 'levels'"),
        ({"long_range": None}, "long_range is None; required: a name"),
        ({"long_range": MCGM}, "long_range is .*MCGM.*; required: a name"),
        ({"backbone": None}, "backbone is None; required: its name"),
        ({"long_range": "charges", "long_range_options": {"width": float("inf")}}, "width is inf; required: a number"),
        ({"elements": [1, 300]}, "elements: 300 is no element; required: atomic numbers, 1 to 118"),
        ({"elements": ["H"]}, "elements: 'H' is no element"),
        ({"elements": []}, "elements is empty"),
        ({"scale": float("nan")}, "scale is nan, shift is 0.0; required: numbers"),
        ({"scale": 0.0}, "scale is 0.0"),
    ],
)
def test_a_wrong_name_or_option_is_an_error_that_tells_the_nearest(options, message):
    with pytest.raises(ConfigError, match=message):
        build(**options)


def test_a_backbone_without_named_sizes_is_built_with_its_own_defaults(monkeypatch):
    monkeypatch.delattr("mcgm.backbones.schnet.SIZES")
    assert build(backbone="schnet", cutoff=4.0).backbone.hyperparameters == SchNet(cutoff=4.0).hyperparameters


class Counted(TorchDispatchMode):
    """Counts the tensor operations."""

    operations = 0

    def __torch_dispatch__(self, function, kinds, arguments=(), options=None):
        self.operations += 1
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("scope", ["system", "molecule"])
@pytest.mark.parametrize("long_range", ["mcgm", "mcgm_paper", "mcgm_random"])
def test_the_number_of_operations_does_not_grow_with_molecules(long_range, scope):
    potential = make(long_range, long_range_options={"scope": scope, "reduction": 1.3})

    def operations(copies):
        batch = potential.index(make_batch(structures=[molecule("CH3CONH2")] * copies))
        with Counted() as counted:
            potential(batch)
        return counted.operations

    assert operations(2) == operations(9)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cutoff": "5"}, "cutoff is '5' Å; required: a finite length"),
        ({"cutoff": None}, "cutoff is None Å; required: a finite length"),
        ({"scale": "x"}, "scale is 'x'"),
        ({"backbone_options": {"layers": 1.5}}, "layers is 1.5; required: a whole number"),
    ],
)
def test_settings_of_another_type_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        build(**options)


def test_a_network_cast_to_half_precision_says_what_to_do():
    batch = Batch.from_atoms([molecule("H2O")], cutoff=4.0, dtype=torch.bfloat16)
    with pytest.raises(ConfigError, match="required: float32 or float64"):
        build(cutoff=4.0).to(torch.bfloat16)(batch)
