"""Steps of batches that are filled up and replayed are steps of training; that kernels are replayed needs a GPU."""

from functools import partial

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from mcgm import Batch, Structure, load
from mcgm.backbones import BACKBONES
from mcgm.data import Dataset
from mcgm.errors import ConfigError
from mcgm.long_range import MCGM, RANGE, Together
from mcgm.training import filling
from mcgm.training.batches import BatchSampler, Collate
from mcgm.training.config import TrainConfig, TrainingConfig
from mcgm.training.datamodule import StructureDataModule
from mcgm.training.filling import Filling, Size
from mcgm.training.fit import train
from mcgm.training.module import PotentialModule
from mcgm.training.recipe import merge, to_config
from mcgm.training.recorded import RecordedNetwork
from mcgm.training.schedule import make_schedule

CUTOFF = 5.0


@pytest.fixture
def network(small_network):
    """The function that makes one of this cutoff."""
    return partial(small_network, cutoff=CUTOFF)


@pytest.fixture(scope="module")
def sample() -> Dataset:
    return Dataset.open("sample")


def batches(sample, *, epoch=0, count=24, **options) -> list[list[Structure]]:
    options = {"atoms": 400, "structures": None} | options
    chosen = BatchSampler(sample.sizes, seed=0, epoch=epoch, **options).batches[:count]
    return [[sample[k] for k in each] for each in chosen]


def made(structures) -> Batch:
    return Batch.from_structures(structures, cutoff=CUTOFF, dtype=torch.float64)


def filling_of(sample, near=3.0, **options) -> Filling:
    return Filling.of([made(each) for each in batches(sample, **options)], near)


def loss_and_gradients(prediction, model):
    loss = prediction.energy.square().mean() + prediction.forces.square().mean()
    return loss, torch.autograd.grad(
        loss, [parameter for parameter in model.parameters() if parameter.requires_grad], allow_unused=True
    )


def assert_recorded_steps_are_right(model, sample, atoms=400):
    recorded = RecordedNetwork(model.train())
    collate = Collate(model, torch.float64, filling_of(sample, model.specification.index_reach, atoms=atoms))
    for structures in batches(sample, epoch=1, count=4, atoms=atoms):
        data = collate(structures)
        assert data.filled is not None
        found = recorded(data.batch, data.filled, forces=True)
        expected = model(data.batch)
        for name in ("energy", "forces", "atom_energy", "cluster_energy"):
            assert torch.allclose(getattr(found, name), getattr(expected, name), rtol=1e-9, atol=1e-9), name
        loss, gradients = loss_and_gradients(found, model)
        wanted, others = loss_and_gradients(expected, model)
        assert torch.allclose(loss, wanted)
        for one, other in zip(gradients, others, strict=True):
            assert (one is None) == (other is None)
            assert one is None or (one - other).abs().max() <= 1e-9 * max(1.0, float(other.abs().max()))
    assert 1 <= recorded.recordings <= 4


@pytest.mark.parametrize("block", ["none", "mcgm", "mcgm_mixing", "orientations", "mcgm_oriented", "range", "ewald"])
def test_blocks_learn_the_same_from_filled_batches(block, sample, network):
    assert_recorded_steps_are_right(network(long_range=block), sample)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_backbones_learn_the_same_from_filled_batches(backbone, sample, network):
    assert_recorded_steps_are_right(network(backbone), sample, atoms=200)


def test_filling_that_touches_itself_is_found_out(monkeypatch, sample, network):
    monkeypatch.setattr(filling._Missing, "_positions", lambda self, near: np.zeros((self.atoms, 3)))
    with pytest.raises(AssertionError):
        assert_recorded_steps_are_right(network(), sample)


def test_networks_that_look_beyond_a_structure_are_found_out(monkeypatch, sample, network):
    model = network("schnet", "none")
    whole = type(model.backbone).atom_energies
    monkeypatch.setattr(
        type(model.backbone), "atom_energies", lambda self, state: whole(self, state) - whole(self, state).mean()
    )
    with pytest.raises(AssertionError):
        assert_recorded_steps_are_right(model, sample)


@pytest.mark.parametrize(
    ("options", "most"),
    [({"atoms": 1000}, 1.25), ({"atoms": None, "structures": 8}, 1.5), ({"atoms": None, "structures": 64}, 1.2)],
)
def test_batches_of_an_epoch_have_few_forms_and_are_not_filled_by_much(options, most, sample):
    found = filling_of(sample, **options)
    forms, edges, atoms = set(), [], []
    for structures in batches(sample, epoch=1, count=40, **options):
        own = made(structures)
        filled = found.fill(own)
        size = Size.of(filled, 3.0)
        assert size.counts in {each.counts for each in found.sizes}
        assert size.largest == found.sizes[0].largest
        assert all(one <= other for one, other in zip(size.widths, found.sizes[0].widths, strict=True))
        forms.add(size.counts)
        edges.append(len(filled.neighbors.source) / len(own.neighbors.source))
        atoms.append(filled.n_atoms / own.n_atoms)
    assert len(forms) <= 4
    assert np.median(edges) < 1.1
    assert np.median(atoms) < most


def test_filling_is_out_of_reach_of_the_batch_and_sorted(sample):
    own = made(batches(sample)[0])
    filled = filling_of(sample).fill(own)
    source, target = filled.neighbors.source, filled.neighbors.target
    assert torch.equal(filled.positions[: own.n_atoms], own.positions)
    assert torch.equal((source < own.n_atoms), (target < own.n_atoms))
    assert (target.diff() >= 0).all()
    assert (source != target).all()
    pairs = source * filled.n_atoms + target
    assert len(pairs.unique()) == len(pairs)
    lengths = filled.edges.length[len(own.neighbors.source) :]
    assert lengths.min() > 0.5
    assert not ((lengths > 3.0) & (lengths < CUTOFF)).any()


def test_what_does_not_fit_is_left_alone(sample, network):
    found = filling_of(sample)
    assert found.fill(made([sample[k] for k in range(60)])) is None
    crystal = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    assert found.fill(made([Structure.from_atoms(crystal)])) is None
    labelled = [sample[k] for k in range(60)]
    data = Collate(network(), torch.float64, found)(labelled)
    assert data.filled is None
    assert data.batch.index is not None


def copies(atoms: Atoms, count: int, spread: float = 0.05) -> list[Structure]:
    """The molecule, moved a little each time."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(count):
        positions = atoms.positions + generator.normal(scale=spread, size=atoms.positions.shape)
        found.append(Structure(atoms.numbers, positions, energy=0.0, forces=np.zeros_like(positions)))
    return found


SCARCE = {
    "one element, lone atoms": Atoms("H"),
    "one element, two atoms": Atoms("H2", [[0, 0, 0], [0, 0, 1]]),
    "one element": Atoms("P4", [[0, 0, 0], [1.5, 1.5, 0], [1.5, 0, 1.5], [0, 1.5, 1.5]]),
    "no neighbours": Atoms("HCO", [[0, 0, 0], [30, 0, 0], [60, 0, 0]]),
    "two elements, all near": molecule("H2O"),
    "two elements": molecule("CH4"),
    "all atoms within reach of one": molecule("CH3CH2OH"),
}


@pytest.mark.parametrize("structures", [1, 4, 16])
@pytest.mark.parametrize("atoms", SCARCE.values(), ids=SCARCE)
def test_batches_with_little_in_them_are_filled(atoms, structures, network):
    model = network()
    every = copies(atoms, 6 * structures)
    chosen = [every[k : k + structures] for k in range(0, len(every), structures)]
    found = Filling.of([made(each) for each in chosen], model.specification.index_reach)
    recorded = RecordedNetwork(model.train())
    for each in chosen:
        data = Collate(model, torch.float64, found)(each)
        assert data.filled is not None
        prediction, expected = recorded(data.batch, data.filled, forces=True), model(data.batch)
        assert torch.allclose(prediction.energy, expected.energy)
        assert torch.allclose(prediction.forces, expected.forces)
    assert recorded.recordings <= 4


def test_more_forms_than_are_recorded_run_as_they_are(sample, monkeypatch, caplog, network):
    monkeypatch.setattr("mcgm.training.recorded.MOST", 1)
    model = network()
    recorded = RecordedNetwork(model.train())
    collate = Collate(model, torch.float64, filling_of(sample))
    made_of = [collate(each) for each in batches(sample, epoch=1, count=12)]
    found = [recorded(data.batch, data.filled, forces=True) for data in made_of]
    assert None in found
    assert recorded.recordings == 1
    assert caplog.text.count("1 forms of batches are recorded; others run as they are") == 1


def test_what_cannot_be_indexed_is_not_filled(sample, monkeypatch, network):
    model = network()

    def refuse(batch):
        raise MemoryError

    monkeypatch.setattr(model, "index", refuse)
    data = Collate(model, torch.float64, filling_of(sample))(batches(sample)[0])
    assert data.filled is None


@pytest.fixture
def pretended_gpu(monkeypatch):
    """Where steps run as recorded steps do, without a recording."""
    monkeypatch.setattr("mcgm.training.module.has_gpu", lambda config: True)


@pytest.mark.parametrize("forces", [True, False])
def test_training_ends_where_the_other_does(small_recipe, tmp_path, pretended_gpu, monkeypatch, forces):
    weights, replayed = {}, []
    whole = RecordedNetwork.__call__
    monkeypatch.setattr(
        RecordedNetwork,
        "__call__",
        lambda self, *args, **options: replayed.append(1) or whole(self, *args, **options),
    )
    for recorded in (False, True):
        loss = {} if forces else {"force_weight": 0.0}
        settings = {"cuda_graphs": recorded, "precision": "float64", "epochs": 2, "loss": loss}
        config = to_config(
            merge(small_recipe, {"model": {"long_range": "mcgm_oriented"}, "training": settings}), TrainConfig
        )
        train(config, tmp_path / str(recorded))
        weights[recorded] = load(tmp_path / str(recorded) / "model.safetensors").state_dict()
    assert replayed
    for name, value in weights[False].items():
        assert torch.allclose(weights[True][name], value, rtol=1e-7, atol=1e-9), name


def test_with_workers_and_in_parts_it_ends_where_the_other_does(small_recipe, tmp_path, pretended_gpu):
    always = {"precision": "float64", "schedule": {"kind": "constant"}, "checkpoint_minutes": 0.0}

    def trained(folder, *, resume=False, **settings):
        content = merge(small_recipe, {"model": {"long_range": "mcgm_oriented"}, "training": always | settings})
        return train(to_config(content, TrainConfig), tmp_path / folder, resume=resume).potential.state_dict()

    expected = trained("whole", epochs=2)
    trained("parts", epochs=1, cuda_graphs=True, workers=1)
    found = trained("parts", epochs=2, cuda_graphs=True, workers=1, resume=True)
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-7, atol=1e-9), name


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"training": {"compile": True}}, "one of the two"),
        ({"training": {"precision": "bf16-mixed"}}, "one of the two"),
        ({"model": {"long_range": "mcgm_paper"}}, "looks for clusters in every step"),
        ({"model": {"long_range": "mcgm_charges"}}, "sums charges structure by structure"),
    ],
)
def test_what_cannot_be_recorded_is_refused(small_recipe, tmp_path, pretended_gpu, settings, words):
    content = merge(merge(small_recipe, {"training": {"cuda_graphs": True}}), settings)
    with pytest.raises(ConfigError, match=words):
        train(to_config(content, TrainConfig), tmp_path / "out")


def test_clusters_beside_another_block_that_jumps_are_refused(pretended_gpu, network):
    model = network(long_range=Together((MCGM.random(), RANGE())))
    config = TrainingConfig(cuda_graphs=True)
    with pytest.raises(ConfigError, match="looks for clusters in every step"):
        PotentialModule(model, config, make_schedule(config.schedule, 1), forces=True)


def test_it_needs_a_gpu(small_recipe, tmp_path):
    content = merge(small_recipe, {"training": {"cuda_graphs": True, "accelerator": "cpu"}})
    with pytest.raises(ConfigError, match="cuda_graphs needs a GPU"):
        train(to_config(content, TrainConfig), tmp_path / "out")


def test_crystals_among_molecules_do_not_count(sample, network):
    salt = Structure.from_atoms(bulk("NaCl", "rocksalt", a=5.64, cubic=True)).replace(energy=0.0)
    mixed = Dataset.from_structures([salt, *(sample[k] for k in range(12))])
    config = TrainingConfig(batch_structures=1, batch_atoms=None, cuda_graphs=True)
    model = network()
    data = StructureDataModule(
        Dataset.from_structures(mixed), Dataset.from_structures(mixed), Collate(model, torch.float64), config
    )
    assert data.training_collate.filling is not None
    assert 11 not in data.training_collate.filling.elements


def test_crystals_are_refused(small_recipe, tmp_path, pretended_gpu):
    import ase.io

    frames = ase.io.read(small_recipe["data"]["path"], ":")
    for atoms in frames:
        atoms.set_cell([9.0, 9.0, 9.0])
        atoms.pbc = True
    ase.io.write(tmp_path / "crystals.extxyz", frames)
    content = merge(
        small_recipe, {"data": {"path": str(tmp_path / "crystals.extxyz")}, "training": {"cuda_graphs": True}}
    )
    with pytest.raises(ConfigError, match="some in all of the first"):
        train(to_config(content, TrainConfig), tmp_path / "out")
