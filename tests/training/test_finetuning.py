"""Trainings that start with the weights of a saved model."""

import dataclasses
import hashlib
import logging

import ase.io
import numpy as np
import pytest
import torch
import yaml
from ase.calculators.singlepoint import SinglePointCalculator

from mcgm import build, load
from mcgm.checkpoint import read_header
from mcgm.cli import main
from mcgm.data import Dataset, ElementReferences, fit_references
from mcgm.data.references import refit_references
from mcgm.errors import ConfigError
from mcgm.testing import train_briefly
from mcgm.training.config import StartConfig, TrainConfig
from mcgm.training.evaluation import evaluate
from mcgm.training.fit import train
from mcgm.training.recipe import merge, to_config
from mcgm.training.resuming import LastCheckpoint
from mcgm.training.start import completed
from mcgm.training.state import read_state

SHIFT = {1: -0.7, 6: 12.0, 8: -31.0}
"""eV by element between the two levels of theory."""

NETWORK = {
    "backbone": "schnet",
    "cutoff": 3.0,
    "backbone_options": {"channels": 8, "filters": 8, "radial": 8, "layers": 2},
}
STILL = {"learning_rate": 1e-30, "weight_decay": 0.0, "ema": None, "epochs": 1}
"""Training that leaves every weight as it was."""


def at_another_level(frames, factor=1.1):
    """The same frames with other element energies and a slightly stronger interaction."""
    changed = []
    for atoms in frames:
        pairs = atoms.get_potential_energy() + 3.0 * atoms.numbers.sum()
        results = {
            "energy": factor * pairs - 3.0 * atoms.numbers.sum() + sum(SHIFT.get(z, 0.0) for z in atoms.numbers),
            "forces": factor * atoms.get_forces(),
        }
        atoms = atoms.copy()
        atoms.calc = SinglePointCalculator(atoms, **results)
        changed.append(atoms)
    return changed


@pytest.fixture(scope="module")
def folder(tmp_path_factory, labelled):
    """A saved model (with and without a block), and few structures at another level of theory."""
    folder = tmp_path_factory.mktemp("finetuning")
    ase.io.write(folder / "first.extxyz", labelled(60))
    frames = labelled(48, seed=1)
    ase.io.write(folder / "second.extxyz", at_another_level(frames))
    ase.io.write(folder / "shifted.extxyz", at_another_level(frames, factor=1.0))
    ase.io.write(folder / "same.extxyz", frames)
    dataset = Dataset.open(folder / "first.extxyz")
    common = NETWORK | {"references": fit_references(dataset), "scale": 0.5, "elements": dataset.elements}
    for name, block, steps in (("model", "mcgm", 40), ("local", "none", 1)):
        torch.manual_seed(0)
        fresh = build(long_range=block, **common)
        potential = train_briefly(fresh, dataset, steps=steps, batch=6, learning_rate=2e-2)
        (folder / name).mkdir()
        potential.save(folder / name / "model.safetensors")
    return folder


@pytest.fixture
def recipe(folder):
    """Eight structures of the other level for training, and the saved model to start from."""
    return {
        "data": {"path": str(folder / "second.extxyz"), "split": {"train": 8, "val": 8, "test": 32}},
        "training": {"epochs": 4, "batch_atoms": 20, "tensorboard": False, "learning_rate": 2e-3, "ema": 0.9},
        "start": {"model": str(folder / "model")},
    }


def configured(recipe, *changes):
    for change in changes:
        recipe = merge(recipe, change)
    return to_config(completed(recipe), TrainConfig)


def weights(potential, part):
    return {name: value for name, value in potential.state_dict().items() if name.startswith(f"{part}.")}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_a_saved_model_learns_more_from_few_structures_than_fresh_weights(recipe, folder, tmp_path):
    tuned = train(configured(recipe), tmp_path / "tuned")
    scratch = {"start": {"model": None}, "model": NETWORK | {"long_range": "mcgm"}}
    fresh = train(configured(recipe, scratch), tmp_path / "fresh")
    test = tuned.parts.test
    errors = [evaluate(trained.potential, test).metrics for trained in (tuned, fresh)]
    assert errors[0].energy_mae_mev < 0.5 * errors[1].energy_mae_mev
    assert errors[0].force_mae_mev_per_A < 0.5 * errors[1].force_mae_mev_per_A


def test_references_follow_the_labels_and_the_scale_stays(recipe, folder, tmp_path):
    """Labels that differ by element energies alone are met as well as before, without a step of training."""
    saved = load(folder / "model/model.safetensors")
    shifted, same = (
        train(
            configured(recipe, {"training": STILL, "data": {"path": str(folder / f"{name}.extxyz")}}), tmp_path / name
        )
        for name in ("shifted", "same")
    )
    found = evaluate(shifted.potential, shifted.parts.val).metrics
    assert found.energy_mae_mev == pytest.approx(evaluate(same.potential, same.parts.val).metrics.energy_mae_mev, 1e-6)
    change = shifted.potential.references.energies - same.potential.references.energies
    assert {z: float(change[z]) for z in SHIFT} == pytest.approx(SHIFT, abs=1e-6)
    assert torch.equal(shifted.potential.scale, saved.scale)
    assert_equal(weights(shifted.potential, "backbone"), weights(saved, "backbone"))


def with_fluorine(labelled, folder):
    """Settings of data where every oxygen is fluorine."""
    frames = at_another_level(labelled(24, seed=2))
    for atoms in frames:
        atoms.numbers[atoms.numbers == 8] = 9
    ase.io.write(folder / "fluorine.extxyz", frames)
    return {"data": {"path": str(folder / "fluorine.extxyz"), "split": {"train": 16, "val": 8, "test": 0}}}


def test_unseen_elements_start_fresh_with_a_warning_and_absent_ones_stay(recipe, folder, tmp_path, caplog, labelled):
    saved = load(folder / "model/model.safetensors")
    data = with_fluorine(labelled, tmp_path)
    with caplog.at_level(logging.WARNING, logger="mcgm"):
        trained = train(configured(recipe, data, {"training": STILL | {"seed": 1}}), tmp_path / "run")
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "does not know F; their embeddings start fresh. It knows: H C O" in said
    assert "no structure has O; their reference energies stay" in said
    assert trained.potential.elements == (1, 6, 8, 9)
    before, after = saved.backbone.embedding.weight, trained.potential.backbone.embedding.weight
    changed = (before != after).any(1).nonzero().flatten().tolist()
    assert changed == [9]
    assert after[9].std() > 0.3
    assert trained.potential.references.energies[8] == saved.references.energies[8]


@pytest.mark.parametrize("frozen", ["none", "backbone"])
def test_a_frozen_backbone_does_not_learn_new_elements_and_the_warning_says_so(
    recipe, tmp_path, caplog, labelled, frozen
):
    data = with_fluorine(labelled, tmp_path)
    with caplog.at_level(logging.WARNING, logger="mcgm"):
        train(configured(recipe, data, {"training": {"freeze": frozen, "epochs": 1}}), tmp_path / "run")
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "does not know F; their embeddings start fresh" in said
    assert ("stay so with a frozen backbone, which describes them badly" in said) == (frozen == "backbone")


@pytest.mark.parametrize(("frozen", "other"), [("backbone", "long_range"), ("long_range", "backbone")])
def test_a_frozen_part_keeps_every_bit_and_the_other_one_learns(recipe, folder, tmp_path, frozen, other):
    saved = load(folder / "model/model.safetensors")
    trained = train(configured(recipe, {"training": {"freeze": frozen, "epochs": 1}}), tmp_path)
    assert_equal(weights(trained.potential, frozen), weights(saved, frozen))
    before, after = weights(saved, other), weights(trained.potential, other)
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(moved) > len(before) / 2


def test_a_local_model_is_given_a_block(recipe, folder, tmp_path):
    saved = load(folder / "local/model.safetensors")
    changes = {"start": {"model": str(folder / "local")}, "model": {"long_range": "mcgm"}, "training": STILL}
    trained = train(configured(recipe, changes), tmp_path / "still")
    assert_equal(weights(trained.potential, "backbone"), weights(saved, "backbone"))
    assert weights(trained.potential, "long_range")
    assert not weights(saved, "long_range")
    learning = train(configured(recipe, changes | {"training": {"freeze": "backbone", "epochs": 1}}), tmp_path / "run")
    assert_equal(weights(learning.potential, "backbone"), weights(saved, "backbone"))
    other_seed = train(configured(recipe, changes, {"training": {"seed": 1}}), tmp_path / "other")
    first, second = (weights(item.potential, "long_range") for item in (trained, other_seed))
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_a_resumed_fine_tuning_equals_one_that_never_stopped(recipe, folder, tmp_path, monkeypatch):
    config = configured(recipe, {"training": {"epochs": 2, "freeze": "long_range"}})
    train(config, tmp_path / "whole")
    save = LastCheckpoint.on_train_epoch_end

    class Interrupted(Exception):
        pass

    def stop(self, trainer, module):
        save(self, trainer, module)
        if trainer.current_epoch == 0:
            raise Interrupted

    monkeypatch.setattr(LastCheckpoint, "on_train_epoch_end", stop)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "parts")
    monkeypatch.undo()
    train(config, tmp_path / "parts", resume=True)
    whole, parts = (read_state(tmp_path / name / "last.ckpt") for name in ("whole", "parts"))
    for key in ("state_dict", "current_model_state", "averaging_state"):
        assert_equal({k: v for k, v in whole[key].items() if isinstance(v, torch.Tensor)}, parts[key])
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert models[0] == models[1]
    path = folder / "local/model.safetensors"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    other = dataclasses.replace(config, start=StartConfig(str(path), digest))
    with pytest.raises(ConfigError, match="other settings in 'start'"):
        train(other, tmp_path / "parts", resume=True)


def test_the_file_says_what_it_started_from_and_another_one_is_refused(recipe, folder, tmp_path):
    path = folder / "model/model.safetensors"
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(merge(recipe, {"start": {"model": None}})))
    words = [str(tmp_path / "recipe.yaml"), "--training.epochs", "1", "-o", str(tmp_path / "run")]
    assert main(["train", *words, "--from", str(path)]) == 0
    written = read_header(tmp_path / "run/model.safetensors")["extra"]["recipe"]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert written["start"] == {"model": str(path), "sha256": digest, "member": None}
    assert written["model"]["long_range"] == "saved"
    assert written["model"]["backbone_options"]["channels"] == 8
    load(folder / "local/model.safetensors").save(tmp_path / "copy.safetensors")
    with pytest.raises(ConfigError, match=r"start\.sha256: .*copy\.safetensors"):
        configured(recipe, {"start": {"model": str(tmp_path / "copy.safetensors"), "sha256": digest}})


def test_precision_and_references_are_those_of_the_file_unless_the_recipe_says_otherwise(recipe, tmp_path):
    potential = build(cutoff=3.0, backbone_options=NETWORK["backbone_options"]).double()
    earlier = {"recipe": {"model": {"reference_intercept": True, "long_range": "mcgm"}}}
    potential.save(tmp_path / "double.safetensors", extra=earlier)
    start = {"start": {"model": str(tmp_path / "double.safetensors")}}
    config = configured(recipe, start)
    assert config.training.precision == "float64"
    assert config.model.reference_intercept
    trained = train(configured(recipe, start, {"training": STILL}), tmp_path / "run")
    saved = weights(potential, "backbone")
    for name, value in weights(trained.potential, "backbone").items():
        torch.testing.assert_close(value, saved[name], rtol=0, atol=1e-29)  # float32 would have changed every weight
    assert trained.potential.elements is None
    assert configured(recipe, start, {"training": {"precision": "float32"}}).training.precision == "float32"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"backbone": "painn"}}, r"model\.backbone is 'painn', that of the saved model 'schnet'"),
        ({"model": {"cutoff": 4.0}}, r"model: cutoff is 4\.0, that of the saved model 3\.0"),
        ({"model": {"size": "paper"}}, r"model: channels is 512"),
        ({"model": {"long_range_options": {"levels": 2}}}, r"Give model\.long_range too"),
        ({"training": {"freeze": "heads"}}, r"training\.freeze"),
        ({"start": {"model": "local"}, "training": {"freeze": "backbone"}}, r"no long-range block .* left to train"),
        ({"start": {"model": "local"}, "training": {"freeze": "long_range"}}, r"no long-range block .* to freeze"),
        ({"model": {"long_range": "mcgm_paper"}, "training": {"freeze": "long_range"}}, "starts fresh. Leave model"),
        ({"start": {"model": None}, "training": {"freeze": "backbone"}}, "required: a saved model to start from"),
        ({"start": {"model": None}, "model": {"long_range": "saved"}}, "required: a saved model to start from"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_way_out(recipe, folder, tmp_path, changes, message):
    if changes.get("start", {}).get("model"):
        changes = merge(changes, {"start": {"model": str(folder / changes["start"]["model"])}})
    with pytest.raises(ConfigError, match=message):
        train(configured(recipe, changes), tmp_path / "run")


def test_the_same_network_may_be_named_again(recipe, folder):
    named = configured(recipe, {"model": NETWORK | {"long_range": "mcgm"}})
    assert named.model.long_range == "mcgm"
    assert named.model.backbone_options == configured(recipe).model.backbone_options


def test_settings_of_the_network_are_not_guessed_in_python(recipe, folder, tmp_path):
    """A recipe that was not completed has the default network, which is not the saved one."""
    with pytest.raises(ConfigError, match="that of the saved model"):
        train(to_config(recipe, TrainConfig), tmp_path / "run")


def test_smallest_change_of_references(folder, labelled):
    """One composition leaves a choice: the energies of the elements move as little as they can."""
    frames = [labelled(1, seed=3)[0]] * 3
    ase.io.write(folder / "one.extxyz", frames)
    dataset = Dataset.open(folder / "one.extxyz")
    before = ElementReferences(np.arange(119.0), 2.0)
    predicted = dataset.energies - 5.0
    after = refit_references(before, dataset, predicted)
    elements, counts = dataset.composition
    oracle = np.linalg.lstsq(counts.astype(float), np.full(3, 5.0), rcond=None)[0]
    np.testing.assert_allclose(after.energies[elements] - before.energies[elements], oracle)
    assert after.intercept == 2.0
    bounded = refit_references(before, dataset, dataset.energies + 1e4, sign="non_negative")
    assert (bounded.energies >= 0).all()
    assert bounded.energies[92] == 92.0
