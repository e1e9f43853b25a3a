"""Training as a whole: resuming, averaging, stopping, labels that are missing or wrong."""

import json

import ase.io
import numpy as np
import pytest
import torch

from mcgm import load
from mcgm.errors import ConfigError, DataError, TrainingError
from mcgm.training.config import TrainConfig
from mcgm.training.fit import final_metrics, train
from mcgm.training.module import PotentialModule
from mcgm.training.recipe import merge, to_config
from mcgm.training.resuming import LastCheckpoint
from mcgm.training.state import read_state


def configured(recipe, **training):
    return to_config(merge(recipe, {"training": training}), TrainConfig)


def state_of(folder):
    return read_state(folder / "last.ckpt")


def assert_equal(first, second):
    """Bitwise, through nested containers."""
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal(first[key], second[key])
    elif isinstance(first, list | tuple):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_equal(one, other)
    else:
        assert first == second


class Interrupted(Exception):
    pass


@pytest.mark.parametrize(
    "model",
    [
        {"long_range": "mcgm"},
        {"long_range": "mcgm_paper"},
        {"long_range": "mcgm_random", "long_range_options": {"recluster": "epoch"}},
    ],
    ids=["smooth", "paper", "epoch"],
)
def test_resumed_training_equals_one_that_never_stopped(small_recipe, tmp_path, monkeypatch, model):
    recipe = merge(small_recipe, {"model": model, "training": {"schedule": {"kind": "plateau"}}})
    config = configured(recipe, epochs=4)
    train(config, tmp_path / "whole")
    save = LastCheckpoint.on_train_epoch_end

    def stop(self, trainer, module):
        save(self, trainer, module)
        if trainer.current_epoch == 1:
            raise Interrupted

    monkeypatch.setattr(LastCheckpoint, "on_train_epoch_end", stop)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "parts")
    monkeypatch.undo()
    resumed = train(config, tmp_path / "parts", resume=True)
    whole, parts = state_of(tmp_path / "whole"), state_of(tmp_path / "parts")
    for key in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "schedule", "global_step"):
        assert_equal(whole[key], parts[key])
    assert [point.epoch for point in resumed.curves] == [1, 2, 3, 4]
    models = [load(tmp_path / name / "model.safetensors").state_dict() for name in ("whole", "parts")]
    assert_equal(dict(models[0]), dict(models[1]))


def test_labels_hold_for_an_epoch_when_asked_to(small_recipe, tmp_path, monkeypatch):
    """In training every batch of an epoch is given the labels that were found before its first step."""
    recipe = merge(small_recipe, {"model": {"long_range": "mcgm_paper", "long_range_options": {"recluster": "epoch"}}})
    steps = []
    original = PotentialModule.training_step

    def watched(self, data, batch_idx):
        steps.append((self.current_epoch, batch_idx, len(self.epoch_clusters)))
        members = sum(layers[0][0].members for layers in self.epoch_clusters[batch_idx])
        assert members == data.batch.n_atoms
        return original(self, data, batch_idx)

    monkeypatch.setattr(PotentialModule, "training_step", watched)
    train(configured(recipe, epochs=2), tmp_path)
    for epoch in (0, 1):
        batches = [(batch, known) for number, batch, known in steps if number == epoch]
        assert batches == [(k, len(batches)) for k in range(len(batches))]


def test_training_lowers_the_errors(small_recipe, tmp_path):
    curves = train(configured(small_recipe, epochs=15, learning_rate=5e-3), tmp_path).curves
    assert curves[-1].val_force_mae_mev_per_A < 0.7 * curves[0].val_force_mae_mev_per_A


def test_finished_training_is_not_overwritten(small_recipe, tmp_path):
    config = configured(small_recipe, epochs=1)
    train(config, tmp_path)
    with pytest.raises(ConfigError, match="already holds a training"):
        train(config, tmp_path)
    other = configured(merge(small_recipe, {"model": {"cutoff": 2.5}}), epochs=1)
    with pytest.raises(ConfigError, match="other settings in 'model'"):
        train(other, tmp_path, resume=True)


def test_damaged_checkpoint_is_an_error_that_names_it(small_recipe, tmp_path):
    config = configured(small_recipe, epochs=2)
    train(config, tmp_path)
    path = tmp_path / "last.ckpt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(Exception, match=r"last\.ckpt"):
        train(config, tmp_path, resume=True)


def test_saved_model_has_the_averaged_weights(small_recipe, tmp_path):
    train(configured(small_recipe, epochs=1, ema=0.9), tmp_path)
    saved, state = load(tmp_path / "model.safetensors").state_dict(), state_of(tmp_path)
    differs = False
    for name, value in saved.items():
        assert torch.equal(value, state["state_dict"][f"potential.{name}"])
        differs |= not torch.equal(value, state["current_model_state"][f"potential.{name}"])
    assert differs


def test_energies_alone_train_without_forces(small_recipe, tmp_path, labelled):
    path = tmp_path / "energies.extxyz"
    ase.io.write(path, labelled(24, forces=False))
    trained = train(configured(merge(small_recipe, {"data": {"path": str(path)}}), epochs=1), tmp_path / "run")
    assert trained.curves[-1].val_force_mae_mev_per_A is None
    assert final_metrics(trained, tmp_path / "run")["test"].metrics.force_mae_mev_per_A is None


def test_structure_without_energy_is_an_error_before_training(small_recipe, tmp_path, labelled):
    frames = labelled(24)
    frames[3].calc = None
    path = tmp_path / "lacking.extxyz"
    ase.io.write(path, frames)
    with pytest.raises(DataError, match="energy"):
        train(configured(merge(small_recipe, {"data": {"path": str(path)}})), tmp_path / "run")


def test_loss_that_is_not_finite_stops_and_names_structures(small_recipe, tmp_path):
    config = configured(small_recipe, epochs=20, learning_rate=1e30, clip=None, schedule={"warmup": 0.0})
    with pytest.raises(TrainingError, match=r"step \d+: .*'.*' not finite"):
        train(config, tmp_path)


def test_early_stopping_ends_training(small_recipe, tmp_path):
    config = configured(small_recipe, epochs=50, learning_rate=1e-30, early_stopping=2)
    assert len(train(config, tmp_path).curves) <= 4


def test_scale_and_references_come_from_the_training_part(small_recipe, tmp_path, data_file):
    trained = train(configured(small_recipe, epochs=1), tmp_path)
    frames = list(trained.parts.train)
    force = np.sqrt(np.concatenate([s.forces for s in frames]).__pow__(2).mean())
    assert float(trained.potential.scale) == pytest.approx(force, rel=1e-6)
    elements, counts = trained.parts.train.composition
    expected = np.linalg.lstsq(counts.astype(float), trained.parts.train.energies, rcond=None)[0]
    assert trained.potential.references.energies.numpy()[elements] == pytest.approx(expected)


def test_double_precision_trains_in_double(small_recipe, tmp_path):
    assert train(configured(small_recipe, epochs=1, precision="float64"), tmp_path).potential.dtype == torch.float64


def test_records_agree(small_recipe, tmp_path):
    trained = train(configured(small_recipe, tensorboard=True), tmp_path)
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + len(trained.curves)
    assert list((tmp_path / "tensorboard").iterdir())
    assert json.loads((tmp_path / "recipe.json").read_text())["model"]["long_range"] == "mcgm"
