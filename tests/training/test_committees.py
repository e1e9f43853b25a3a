"""`mcgm train --seeds N`: members one after another, resumed, in one file."""

import dataclasses
import json

import ase.io
import numpy as np
import pytest
import torch
import yaml

from mcgm import Batch, Committee, load
from mcgm.checkpoint import read_header
from mcgm.cli import main
from mcgm.errors import ConfigError
from mcgm.training.config import TrainConfig
from mcgm.training.evaluation import evaluate
from mcgm.training.fit import train
from mcgm.training.module import PotentialModule
from mcgm.training.recipe import merge, to_config
from mcgm.training.start import completed


class Interrupted(Exception):
    pass


def configured(recipe, **changes):
    return to_config(merge(recipe, changes), TrainConfig)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, labelled):
    """A committee of two, the recipe and its folder."""
    folder = tmp_path_factory.mktemp("committees")
    ase.io.write(folder / "data.extxyz", labelled(16))
    recipe = {
        "data": {"path": str(folder / "data.extxyz"), "split": {"train": 0.6, "val": 0.2}},
        "model": {
            "backbone": "schnet",
            "cutoff": 3.0,
            "backbone_options": {"channels": 8, "filters": 8, "radial": 8, "layers": 2},
        },
        "training": {"epochs": 2, "batch_atoms": 30, "tensorboard": False, "ema": 0.9, "accelerator": "cpu"},
        "seeds": 2,
    }
    return train(to_config(recipe, TrainConfig), folder / "run"), recipe, folder


def test_members_differ_and_share_the_split(trained):
    _, _, folder = trained
    members = [load(folder / f"run/members/seed-{k}/model.safetensors") for k in range(2)]
    whole = load(folder / "run/model.safetensors")
    assert isinstance(whole, Committee)
    for one, own in zip(members, whole.members, strict=True):
        state = own.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in one.state_dict().items())
    weights = [one.backbone.head.energy.weight for one in members]
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(members[0].scale, members[1].scale)
    assert torch.equal(members[0].references.energies, members[1].references.energies)
    recipes = [json.loads((folder / f"run/members/seed-{k}/recipe.json").read_text()) for k in range(2)]
    assert [item["training"].pop("seed") for item in recipes] == [0, 1]
    assert recipes[0]["data"] == recipes[1]["data"]
    assert read_header(folder / "run/model.safetensors")["extra"]["seeds"] == [0, 1]


def test_the_domain_is_that_of_the_validation_part(trained):
    found, _, folder = trained
    whole = load(folder / "run/model.safetensors")
    frames = [structure.to_atoms() for structure in found.parts.val]
    predictions = [whole(Batch.from_atoms([atoms], cutoff=whole.cutoff)) for atoms in frames]
    energy = [float(item.energy_spread[0]) / len(atoms) for item, atoms in zip(predictions, frames, strict=True)]
    forces = [float(item.forces_spread.norm(dim=1).max()) for item in predictions]
    assert whole.domain.structures == len(frames)
    assert whole.domain.energy == pytest.approx(np.percentile(energy, 99), rel=1e-3)
    assert whole.domain.forces == pytest.approx(np.percentile(forces, 99), rel=1e-3)


def test_the_mean_is_no_worse_than_its_members_on_average(trained):
    found, _, folder = trained
    members = [load(folder / f"run/members/seed-{k}/model.safetensors") for k in range(2)]
    alone = [evaluate(one, found.parts.val).metrics.force_rmse_mev_per_A for one in members]
    evaluation = evaluate(found.potential, found.parts.val)
    assert evaluation.metrics.force_rmse_mev_per_A < np.sqrt(np.mean(np.square(alone)))
    assert evaluation.quality.force_correlation is not None


def test_a_committee_that_was_interrupted_goes_on_to_the_same_bytes(trained, monkeypatch):
    _, recipe, folder = trained
    config = to_config(merge(recipe, {"training": {"checkpoint_minutes": 0.0}}), TrainConfig)
    original, calls = PotentialModule.training_step, 0

    def stop(self, data, batch_idx):
        nonlocal calls
        calls += 1
        if calls == 6:
            raise Interrupted
        return original(self, data, batch_idx)

    monkeypatch.setattr(PotentialModule, "training_step", stop)
    with pytest.raises(Interrupted):
        train(config, folder / "parts")
    monkeypatch.undo()
    assert sorted(item.name for item in (folder / "parts/members").iterdir()) == ["seed-0", "seed-1"]
    assert not (folder / "parts/model.safetensors").exists()
    with pytest.raises(ConfigError, match="already holds a training"):
        train(config, folder / "parts")
    train(config, folder / "parts", resume=True)
    first, second = (load(folder / name / "model.safetensors") for name in ("run", "parts"))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert first.domain == second.domain


def test_members_are_added_by_resuming_with_more(trained):
    _, recipe, folder = trained
    before = (folder / "run/members/seed-1/model.safetensors").stat().st_mtime_ns
    more = train(configured(recipe, seeds=3, training={"epochs": 2}), folder / "run", resume=True)
    assert len(more.potential.members) == 3
    assert (folder / "run/members/seed-1/model.safetensors").stat().st_mtime_ns == before


def test_a_committee_is_fine_tuned_member_by_member(trained, tmp_path):
    _, recipe, folder = trained
    names = [f"seed-{k}" for k in range(2)]
    two = Committee([load(folder / "run/members" / name / "model.safetensors") for name in names])
    two.save(tmp_path / "two.safetensors")
    still = {"learning_rate": 1e-30, "weight_decay": 0.0, "ema": None, "epochs": 1}
    base = {key: value for key, value in recipe.items() if key not in ("model", "seeds")}
    start = merge(base, {"start": {"model": str(tmp_path / "two.safetensors")}, "training": still})
    tuned = train(to_config(completed(start), TrainConfig), tmp_path / "tuned").potential
    for one, own in zip(two.members, tuned.members, strict=True):
        assert torch.equal(one.backbone.head.energy.weight, own.backbone.head.energy.weight)
    with pytest.raises(ConfigError, match=r"is a committee of 2; required: --seeds 2"):
        train(to_config(completed(start | {"seeds": 1}), TrainConfig), tmp_path / "single")
    with pytest.raises(ConfigError, match="has 2 members, seeds is 3"):
        train(to_config(completed(start | {"seeds": 3}), TrainConfig), tmp_path / "three")


def test_a_training_starts_with_the_member_that_is_asked_for(trained, tmp_path):
    committee, recipe, folder = trained
    still = {"learning_rate": 1e-30, "weight_decay": 0.0, "ema": None, "epochs": 1}
    base = {key: value for key, value in recipe.items() if key not in ("model", "seeds")} | {
        "start": {"model": str(folder / "run"), "member": 1}
    }
    base = merge(base, {"training": still})
    alone = train(to_config(completed(base), TrainConfig), tmp_path / "alone").potential
    second = committee.potential.members[1].backbone.state_dict()
    assert all(torch.equal(value, second[name]) for name, value in alone.backbone.state_dict().items())
    both = train(to_config(completed(base | {"seeds": 2}), TrainConfig), tmp_path / "both").potential
    for member in both.members:
        assert all(torch.equal(value, second[name]) for name, value in member.backbone.state_dict().items())


@pytest.mark.parametrize(
    ("model", "member", "message"),
    [
        ("run", 7, r"start\.member is 7; required: 0 to [12]"),
        ("run", -1, r"start\.member is -1; required: 0 to [12]"),
        ("run/members/seed-0", 0, "is a single model. Leave start.member out"),
    ],
)
def test_a_member_that_is_not_there_is_refused(trained, tmp_path, model, member, message):
    _, recipe, folder = trained
    base = {key: value for key, value in recipe.items() if key not in ("model", "seeds")}
    start = {"start": {"model": str(folder / model), "member": member}}
    with pytest.raises(ConfigError, match=message):
        train(to_config(completed(base | start), TrainConfig), tmp_path)


def test_the_command_trains_a_committee_and_shows_its_spread(small_recipe, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(small_recipe))
    words = ["train", str(tmp_path / "recipe.yaml"), "-o", str(tmp_path / "run"), "--training.epochs", "1"]
    assert main([*words, "--seeds", "2"]) == 0
    shown = capsys.readouterr()
    assert "a committee of 2" in shown.out
    assert "rank correlation" in shown.out
    assert "member 2 of 2 · epoch 1" in shown.err
    assert "spread" in json.loads((tmp_path / "run/metrics.json").read_text())["val"]
    assert main(words) == 2
    assert "holds the training of a committee" in capsys.readouterr().err
    assert main([*words[:3], str(tmp_path / "none"), "--seeds", "0"]) == 2
    assert "seeds is 0" in capsys.readouterr().err


def test_a_single_training_is_not_mixed_with_a_committee(small_recipe, tmp_path):
    config = configured(small_recipe, training={"epochs": 1})
    train(config, tmp_path)
    with pytest.raises(ConfigError, match="training of a single model"):
        train(dataclasses.replace(config, seeds=2), tmp_path, resume=True)
