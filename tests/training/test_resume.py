"""A training that is killed at any moment and resumed ends like one that was left alone, to the last bit."""

import csv
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import pytest
import torch
import yaml

from mcgm.errors import CheckpointError, ConfigError
from mcgm.training.config import TrainConfig
from mcgm.training.fit import train
from mcgm.training.recipe import merge, to_config
from mcgm.training.state import STATE, read_state, write_state

SMALL = {
    "backbone": "schnet",
    "cutoff": 3.0,
    "backbone_options": {"channels": 8, "filters": 8, "radial": 8, "layers": 2},
}
SCRIPT = Path(__file__).parent / "killed_training.py"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
KILLS = int(os.environ.get("MCGM_KILLS", "2"))
"""For each variant; MCGM_KILLS=20 for a longer look."""
SAME = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "schedule", "epoch", "global_step")


def start(*command):
    words = [sys.executable, "-W", "ignore", *map(str, command)]
    return subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    text, _ = process.communicate(timeout=240 + 60 * KILLS)
    assert process.returncode == 0, text
    return text.split()


def assert_equal(first, second, where="state"):
    """Bitwise, through nested containers."""
    assert type(first) is type(second), where
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype, where
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert list(first) == list(second), where
        for key in first:
            assert_equal(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for k, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_equal(one, other, f"{where}.{k}")
    else:
        assert first == second, where


def curves(folder):
    """Rows of metrics.csv but for the seconds."""
    with (folder / "run/metrics.csv").open() as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def steps(folder):
    """What every step saw; a step that was taken twice must have seen the same."""
    seen = {}
    for line in (folder / "order.txt").read_text().splitlines():
        words = line.split()
        assert seen.setdefault(int(words[2]), words) == words
    return [seen[step] for step in sorted(seen)]


def assert_same_training(whole, parts):
    first, second = (read_state(folder / "run/last.ckpt") for folder in (whole, parts))
    for key in SAME:
        assert_equal(first[key], second[key], key)
    assert curves(whole) == curves(parts)
    for name in ("model.safetensors", "metrics.json", "recipe.json"):
        assert (whole / "run" / name).read_bytes() == (parts / "run" / name).read_bytes(), name


VARIANTS = {
    "smooth": {"model": {"long_range": "mcgm"}},
    "paper": {"model": {"long_range": "mcgm_paper"}},
    "paper_by_epoch": {"model": {"long_range": "mcgm_paper", "long_range_options": {"recluster": "epoch"}}},
    "random_by_epoch": {"model": {"long_range": "mcgm_random", "long_range_options": {"recluster": "epoch"}}},
    "checkpoint_per_epoch": {"model": {"long_range": "mcgm_paper"}, "training": {"checkpoint_minutes": None}},
}


@pytest.fixture
def recipe(small_recipe):
    """14 steps in an epoch."""
    return merge(small_recipe, FOURTEEN_STEPS)


FOURTEEN_STEPS = {"training": {"batch_structures": 1, "schedule": {"kind": "plateau", "patience": 0}}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, labelled):
    """A folder with a recipe, a whole and a killed training of each variant."""
    folder = tmp_path_factory.mktemp("resume")
    ase.io.write(folder / "data.extxyz", labelled(24))
    base = merge(
        {
            "data": {"path": str(folder / "data.extxyz"), "split": {"train": 0.6, "val": 0.2}},
            "model": SMALL,
            "training": {"epochs": 2, "tensorboard": False, "ema": 0.9, "checkpoint_minutes": 0.0},
        },
        FOURTEEN_STEPS,
    )
    jobs = []
    for name, changes in VARIANTS.items():
        recipe = folder / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump(merge(base, changes)))
        draw = random.Random(name)
        moments = [draw.randint(1, 46) for _ in range(KILLS)]
        jobs += [[recipe, folder / f"{name}-whole", []], [recipe, folder / f"{name}-killed", moments]]
    (folder / "jobs.json").write_text(json.dumps(jobs, default=str))
    finish(start(SCRIPT, folder / "jobs.json"))
    return folder


@pytest.mark.parametrize("name", VARIANTS)
def test_a_training_killed_at_random_moments_ends_like_one_that_was_not(trained, name):
    whole, killed = (trained / f"{name}-{how}" for how in ("whole", "killed"))
    statuses = [int(word) for word in (killed / "statuses.txt").read_text().split()]
    kills = statuses.count(-signal.SIGKILL)
    assert kills >= min(KILLS, 2)  # a moment may lie beyond the end
    assert_same_training(whole, killed)
    assert steps(whole) == steps(killed)
    assert len(steps(whole)) == 28
    repeated = len((killed / "order.txt").read_text().splitlines()) - 28
    assert 0 <= repeated <= kills * (14 if name == "checkpoint_per_epoch" else 1)


def test_the_command_itself_can_be_killed_from_outside_and_given_again(trained, tmp_path):
    command = ["-m", "mcgm", "train", trained / "smooth.yaml", "-o", tmp_path / "run", "--resume"]
    process = start(*command)
    while not (tmp_path / "run/last.ckpt").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert read_state(tmp_path / "run/last.ckpt")["global_step"] < 28
    finish(start(*command))
    first, second = (read_state(folder / "run/last.ckpt") for folder in (trained / "smooth-whole", tmp_path))
    for key in SAME:
        assert_equal(first[key], second[key], key)
    assert curves(trained / "smooth-whole") == curves(tmp_path)


def interrupted(recipe, folder, monkeypatch, *, step, **training):
    """A training that ends by an error at a step; its recipe as a configuration."""
    from mcgm.training.module import PotentialModule

    class Interrupted(Exception):
        pass

    original = PotentialModule.training_step

    def stop(self, data, batch_idx):
        if self.global_step == step:
            raise Interrupted
        return original(self, data, batch_idx)

    config = to_config(merge(recipe, {"training": {"checkpoint_minutes": 0.0} | training}), TrainConfig)
    monkeypatch.setattr(PotentialModule, "training_step", stop)
    with pytest.raises(Interrupted):
        train(config, folder)
    monkeypatch.undo()
    return config


def test_checkpoints_within_an_epoch_come_only_when_it_is_time(recipe, tmp_path, monkeypatch):
    interrupted(recipe, tmp_path / "never", monkeypatch, step=10, checkpoint_minutes=None)
    assert not (tmp_path / "never/last.ckpt").exists()
    interrupted(recipe, tmp_path / "later", monkeypatch, step=20, checkpoint_minutes=60.0)
    assert read_state(tmp_path / "later/last.ckpt")["global_step"] == 14
    interrupted(recipe, tmp_path / "always", monkeypatch, step=20)
    assert read_state(tmp_path / "always/last.ckpt")["global_step"] == 20


def test_an_epoch_is_not_continued_with_other_batches(recipe, tmp_path, monkeypatch):
    interrupted(recipe, tmp_path, monkeypatch, step=20)
    other = to_config(merge(recipe, {"training": {"batch_structures": 2}}), TrainConfig)
    with pytest.raises(ConfigError, match=r"training\.batch_structures: 1 when .* now 2"):
        train(other, tmp_path, resume=True)


def test_batches_may_change_between_epochs(recipe, tmp_path):
    train(to_config(merge(recipe, {"training": {"epochs": 1}}), TrainConfig), tmp_path)
    other = to_config(merge(recipe, {"training": {"epochs": 2, "batch_structures": 2}}), TrainConfig)
    assert [row.step for row in train(other, tmp_path, resume=True).curves] == [14, 21]


@pytest.mark.parametrize(
    ("changes", "jumps"),
    [
        ({}, False),
        ({"epochs": 2}, True),
        ({"epochs": 2, "schedule": {"kind": "constant", "warmup": 0.0}}, True),
        ({"learning_rate": 1e-5}, True),
    ],
)
def test_a_learning_rate_that_jumps_where_a_training_goes_on_is_told(recipe, tmp_path, caplog, changes, jumps):
    cosine = merge(recipe, {"training": {"epochs": 1, "schedule": {"kind": "cosine"}}})
    train(to_config(cosine, TrainConfig), tmp_path)
    with caplog.at_level(logging.WARNING, logger="mcgm"):
        train(to_config(merge(cosine, {"training": changes}), TrainConfig), tmp_path, resume=True)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == jumps
    assert all("learning rate of step 14 is" in text and "was to be 1.5e-05" in text for text in said)


def test_a_constant_learning_rate_goes_on_with_more_epochs_without_a_word(recipe, tmp_path, caplog):
    constant = merge(recipe, {"training": {"epochs": 1, "schedule": {"kind": "constant", "warmup": 0.0}}})
    train(to_config(constant, TrainConfig), tmp_path)
    with caplog.at_level(logging.WARNING, logger="mcgm"):
        train(to_config(merge(constant, {"training": {"epochs": 2}}), TrainConfig), tmp_path, resume=True)
    assert not caplog.records


def test_weight_decay_is_that_of_the_recipe_that_goes_on(recipe, tmp_path):
    for epochs, decay in ((1, 0.01), (2, 0.5)):
        changes = {"training": {"epochs": epochs, "weight_decay": decay}}
        train(to_config(merge(recipe, changes), TrainConfig), tmp_path, resume=True)
        (optimiser,) = read_state(tmp_path / "last.ckpt")["optimizer_states"]
        assert [group["weight_decay"] for group in optimiser["param_groups"]] == [decay]


def test_a_training_that_stopped_early_stays_stopped(recipe, tmp_path):
    config = to_config(merge(recipe, {"training": {"learning_rate": 1e-30, "early_stopping": 1}}), TrainConfig)
    first = train(config, tmp_path)
    again = train(config, tmp_path, resume=True)
    assert len(first.curves) < 3
    assert first.curves == again.curves


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_a_payload_in_a_training_checkpoint_does_not_run(recipe, tmp_path, monkeypatch):
    config = interrupted(recipe, tmp_path / "run", monkeypatch, step=3)
    trap, path = tmp_path / "trap", tmp_path / "run/last.ckpt"
    state = read_state(path)
    torch.save(state | {"planted": Payload(trap)}, path)
    with pytest.raises(CheckpointError, match=r"last\.ckpt"):
        train(config, tmp_path / "run", resume=True)
    torch.save(state | {"hyper_parameters": {"class": Payload(trap)}}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"last\.ckpt"):
        train(config, tmp_path / "run", resume=True)
    assert not trap.exists()


def test_a_checkpoint_of_the_time_before_the_checksum_is_still_read(recipe, tmp_path, monkeypatch):
    config = interrupted(recipe, tmp_path / "run", monkeypatch, step=20, checkpoint_minutes=None)
    whole = train(config, tmp_path / "whole")
    state = read_state(tmp_path / "run/last.ckpt")
    for name in ("epoch_so_far", "StructureDataModule"):
        del state[name]
    torch.save(state, tmp_path / "run/last.ckpt")
    resumed = train(config, tmp_path / "run", resume=True)
    assert_equal(dict(whole.potential.state_dict()), dict(resumed.potential.state_dict()))


@pytest.fixture
def state():
    return {
        "a": [torch.arange(3), (1, 2.5, None)],
        3: {"b": torch.tensor(0.1, dtype=torch.float64), "inf": float("inf")},
    }


def test_a_state_comes_back_as_it_was(state, tmp_path):
    write_state(state, tmp_path / "last.ckpt")
    assert_equal(state, read_state(tmp_path / "last.ckpt"))


def test_a_state_with_an_object_is_refused_before_anything_is_written(state, tmp_path):
    with pytest.raises(CheckpointError, match=r"state\.a\.x: .* got Payload"):
        write_state({"a": {"x": Payload("")}}, tmp_path / "last.ckpt")
    assert not list(tmp_path.iterdir())


def test_a_damaged_training_checkpoint_is_one_error(state, tmp_path):
    path = tmp_path / "last.ckpt"
    write_state(state, path)
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        with pytest.raises(CheckpointError, match=r"last\.ckpt"):
            read_state(path)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"last\.ckpt"):
            read_state(path)
    STATE.write(path, {"state": 3}, {})
    with pytest.raises(CheckpointError, match=r"last\.ckpt"):
        read_state(path)
