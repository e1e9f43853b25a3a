"""Numbers that are not finite stop a training, name the structures, and leave the last good files."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator

from mcgm import load
from mcgm.errors import DataError, MCGMError, TrainingError
from mcgm.potential import NetworkPotential
from mcgm.training.config import TrainConfig
from mcgm.training.evaluation import evaluate
from mcgm.training.fit import train
from mcgm.training.module import PotentialModule
from mcgm.training.preparation import open_parts
from mcgm.training.recipe import merge, to_config

FILES = ("model.safetensors", "last.ckpt", "metrics.csv")


def configured(recipe, **training):
    return to_config(merge(recipe, {"training": training}), TrainConfig)


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


def after_epochs(monkeypatch, number, happens):
    """Let something happen to the potential before the first step after so many epochs; the files as they are then."""
    kept = {}
    step = PotentialModule.training_step

    def disturbed(self, data, batch_idx):
        if self.current_epoch == number and batch_idx == 0:
            kept.update(contents(Path(self.trainer.default_root_dir)))
            happens(self.potential)
        return step(self, data, batch_idx)

    monkeypatch.setattr(PotentialModule, "training_step", disturbed)
    return kept


def assert_last_good_files(kept, folder):
    assert kept == contents(folder)
    assert all(bool(torch.isfinite(p).all()) for p in load(folder / "model.safetensors").parameters())


def names_in(message, recipe):
    parts = open_parts(configured(recipe).data)
    return {name for part in (parts.train, parts.val) for name in part.names if f"'{name}'" in message}


def set_weights(value):
    def happens(potential):
        with torch.no_grad():
            next(p for name, p in potential.named_parameters() if "head" in name and p.ndim == 2).fill_(value)

    return happens


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e38])
def test_loss_that_becomes_infinite_keeps_the_last_good_model(small_recipe, tmp_path, monkeypatch, value):
    kept = after_epochs(monkeypatch, 1, set_weights(value))
    with pytest.raises(TrainingError, match=r"step \d+: energy of '.*' not finite; training stopped") as raised:
        train(configured(small_recipe), tmp_path)
    assert_last_good_files(kept, tmp_path)
    assert "model.safetensors and last.ckpt" in str(raised.value)
    assert ("weights are not finite" in str(raised.value)) == (not np.isfinite(value))
    monkeypatch.undo()
    assert len(train(configured(small_recipe), tmp_path, resume=True).curves) == 3


@pytest.mark.parametrize("label", ["forces", "energy"])
def test_structure_whose_loss_overflows_is_named_alone(small_recipe, tmp_path, monkeypatch, label):
    """Squares of such labels are infinite; scale and references are those of the other structures."""
    clean = {"split": {"train": 14, "val": 4}}
    recipe = merge(small_recipe, {"data": clean, "training": {"loss": {"kind": "l2"}, "batch_structures": 14}})
    step = PotentialModule.training_step
    seen = []

    def spoiled(self, data, batch_idx):
        chosen = data.names.index(min(data.names))
        seen.append(data.names[chosen])
        if label == "energy":
            data.energy[chosen] = 1e200
        else:
            data.forces[int(data.sizes[:chosen].sum())] = 1e200
        return step(self, data, batch_idx)

    monkeypatch.setattr(PotentialModule, "training_step", spoiled)
    with pytest.raises(TrainingError, match="step 0: loss of") as raised:
        train(configured(recipe), tmp_path / "run")
    assert names_in(str(raised.value), recipe) == set(seen)


def test_gradient_that_is_not_finite_stops_with_a_finite_loss(small_recipe, tmp_path, monkeypatch):
    """A square root of zero: its value is fine, its derivative is not."""
    original = NetworkPotential.energies

    def rooted(self, batch, **options):
        found = original(self, batch, **options)
        parameter = next(self.parameters())
        zero = torch.sqrt((parameter * 0).sum())
        which = (batch.numbers == 8).any().to(zero.dtype)
        object.__setattr__(found, "energy", found.energy + zero * which)
        return found

    monkeypatch.setattr(NetworkPotential, "energies", rooted)
    with pytest.raises(TrainingError, match="step 0: gradient of"):
        train(configured(small_recipe), tmp_path)


def test_validation_that_is_not_finite_stops_before_anything_is_overwritten(small_recipe, tmp_path, monkeypatch):
    kept = {}
    start = PotentialModule.on_validation_epoch_start

    def disturbed(self):
        if self.current_epoch == 2:
            kept.update(contents(Path(self.trainer.default_root_dir)))
            set_weights(float("nan"))(self.potential)
        return start(self)

    monkeypatch.setattr(PotentialModule, "on_validation_epoch_start", disturbed)
    with pytest.raises(TrainingError, match=r"predictions for '.*' \(validation\) not finite"):
        train(configured(small_recipe, epochs=4), tmp_path)
    assert_last_good_files(kept, tmp_path)


def test_energy_that_is_not_a_number_is_refused_before_training(small_recipe, tmp_path, labelled):
    name = str(open_parts(configured(small_recipe).data).train.names[2])
    frames = labelled(24)
    spoiled = next(frame for frame in frames if frame.info["name"] == name)
    results = spoiled.calc.results | {"energy": np.nan}
    spoiled.calc = SinglePointCalculator(spoiled, **results)
    path = tmp_path / "nan.extxyz"
    ase.io.write(path, frames)
    with pytest.raises(MCGMError, match=name):
        train(configured(merge(small_recipe, {"data": {"path": str(path)}})), tmp_path / "run")


def test_evaluation_names_structures_with_predictions_that_are_not_finite(small_recipe, tmp_path):
    trained = train(configured(small_recipe, epochs=1), tmp_path)
    set_weights(float("inf"))(trained.potential)
    with pytest.raises(DataError, match=r"predictions for '.*' are not finite"):
        evaluate(trained.potential, trained.parts.val)
