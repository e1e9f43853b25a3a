"""Two processes on one machine (gloo) against one, for every block, with sizes that do not divide."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator

from mcgm import load
from mcgm.long_range import BLOCKS
from mcgm.training.config import TrainConfig
from mcgm.training.evaluation import evaluate
from mcgm.training.preparation import open_parts
from mcgm.training.recipe import merge, to_config
from mcgm.training.state import read_state

SCHNET = {"backbone": "schnet", "backbone_options": {"channels": 8, "filters": 8, "radial": 8, "layers": 2}}
EDGES = {"channels": 8, "message_channels": 8, "triplet_channels": 4, "basis_channels": 4, "radial": 4, "degrees": 3}
PARTS = ("mcgm_alone", "mcgm_charges", "orientations", "mcgm_oriented", "charges", "global_mean", "element_mean")
"""Blocks that are parts of others, or their like, and learn nothing of their own about ranks."""

MODELS = {name: SCHNET | {"long_range": name} for name in BLOCKS if name not in PARTS} | {
    "painn": {"backbone": "painn", "backbone_options": {"channels": 8, "radial": 8, "layers": 2}},
    "visnet": {"backbone": "visnet", "backbone_options": {"channels": 8, "heads": 2, "radial": 8, "layers": 2}},
    "dimenet-edges": {"backbone": "dimenet++", "backbone_options": EDGES | {"update": "edges"}},
    "dimenet-stream": {"backbone": "dimenet++", "backbone_options": EDGES | {"update": "atom_stream"}},
    # maps for updates that never come: parameters without a gradient
    "dimenet-unused": {"backbone": "dimenet++", "long_range": "none", "backbone_options": EDGES | {"update": "edges"}},
    "gemnet-edges": {"backbone": "gemnet-t", "backbone_options": EDGES | {"bilinear_channels": 4, "update": "edges"}},
    "gemnet-stream": {
        "backbone": "gemnet-t",
        "backbone_options": EDGES | {"bilinear_channels": 4, "update": "atom_stream"},
    },
}
"""Other blocks on one backbone, every backbone under MCGM."""

STRUCTURES = {"train": 13, "val": 5, "test": 0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, labelled):
    """Folder with the cases trained by one process on batches of 6, and by two on batches of 3: 13 = 6 + 6 + 1."""
    folder = tmp_path_factory.mktemp("ranks")
    frames = labelled(18)
    for k, frame in enumerate(frames):
        # errors of very different size: a structure that counts twice, or not at all, shows in every mean
        results = frame.calc.results | {"energy": frame.calc.results["energy"] + 1.7**k}
        # more elements than clusters above them, so that rules that draw have something to draw
        frame.numbers = np.array([1, 6, 7, 8, 9, 16])[np.arange(len(frame)) % 6]
        frame.calc = SinglePointCalculator(frame, **results)
    ase.io.write(folder / "data.extxyz", frames)
    training = {
        "epochs": 2,
        "precision": "float64",
        "ema": 0.9,
        "tensorboard": False,
        "accelerator": "cpu",
        "learning_rate": 1e-3,
    }
    recipes = {
        name: {
            "data": {"path": str(folder / "data.extxyz"), "split": STRUCTURES},
            "model": {"long_range": "mcgm", "cutoff": 3.0} | model,
            "training": training,
        }
        for name, model in MODELS.items()
    }
    runs = [*_start(folder, "one", recipes, ranks=1, batch=6), *_start(folder, "two", recipes, ranks=2, batch=3)]
    try:
        for run in runs:
            said, _ = run.communicate(timeout=600)
            assert run.returncode == 0, said
    finally:
        for run in runs:
            run.kill()
    return folder


def _start(folder, name, recipes, *, ranks, batch):
    settings = {"training": {"devices": ranks, "batch_structures": batch}}
    cases = {case: merge(recipe, settings) for case, recipe in recipes.items()}
    (folder / f"{name}.json").write_text(json.dumps(cases))
    script = Path(__file__).with_name("rank.py")
    return _processes(ranks, script, folder / f"{name}.json", folder / name)


def _processes(ranks, *command):
    """The same command on every rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, command)],
            env=os.environ | place | {"LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]


def test_one_rank_reports_for_all(tmp_path, labelled):
    ase.io.write(tmp_path / "data.extxyz", labelled(8))
    recipe = {
        "data": {"path": str(tmp_path / "data.extxyz"), "split": {"train": 5, "val": 2, "test": 1}},
        "model": SCHNET | {"cutoff": 3.0},
        "training": {"epochs": 1, "devices": 2, "batch_structures": 2, "tensorboard": False, "accelerator": "cpu"},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    ranks = _processes(2, "-W", "ignore", "-m", "mcgm", "train", tmp_path / "recipe.yaml", "-o", tmp_path / "run")
    try:
        said = [run.communicate(timeout=300)[0] for run in ranks]
    finally:
        for run in ranks:
            run.kill()
    assert [run.returncode for run in ranks] == [0, 0], said
    assert "meV" in said[0]
    assert said[1] == ""


def gradients(folder, case):
    return (torch.load(folder / name / case / "gradient.pt", weights_only=True) for name in ("one", "two"))


def states(folder, case):
    return (read_state(folder / name / case / "last.ckpt") for name in ("one", "two"))


def assert_same(found, expected, tolerance):
    """To the tolerance of each tensor's largest entry, and to rounding of the largest of all."""
    rounding = 1e-15 * max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        difference = float((found[name] - value).abs().max())
        assert difference <= tolerance * float(value.abs().max()) + rounding, name


@pytest.mark.parametrize("case", MODELS)
def test_gradient_of_two_ranks_is_that_of_one(trained, case):
    one, two = gradients(trained, case)
    assert one.keys() == two.keys()
    assert_same(two, one, 1e-12)


@pytest.mark.parametrize("case", MODELS)
def test_weights_average_and_optimiser_of_two_ranks_are_those_of_one_after_several_steps(trained, case):
    one, two = states(trained, case)
    assert one["global_step"] == two["global_step"] == 6
    for key in ("state_dict", "current_model_state"):
        for name, expected in one[key].items():
            torch.testing.assert_close(two[key][name], expected, rtol=1e-9, atol=1e-11, msg=f"{key}: {name}")
    moments, others = (state["optimizer_states"][0]["state"] for state in (one, two))
    assert moments.keys() == others.keys()
    for moment in ("exp_avg", "exp_avg_sq"):
        named = [{key: state[moment] for key, state in part.items()} for part in (others, moments)]
        assert_same(*named, 1e-8)


def number(text):
    """NaN where there is none: clusters have nothing to be compared with at the first validation."""
    return float(text or "nan")


@pytest.mark.parametrize("case", MODELS)
def test_logged_metrics_of_two_ranks_are_those_of_one(trained, case):
    rows = [(trained / name / case / "metrics.csv").read_text().splitlines()[1:] for name in ("one", "two")]
    for first, second in zip(*rows, strict=True):
        one, two = ([number(value) for value in row.split(",")[3:]] for row in (first, second))
        assert two == pytest.approx(one, rel=1e-9, nan_ok=True)


def test_parameters_without_a_gradient_stay_without_one(trained):
    for gradient, state in zip(gradients(trained, "dimenet-unused"), states(trained, "dimenet-unused"), strict=True):
        unused = [name for name in state["current_model_state"] if "maps" in name]
        assert unused
        assert not set(unused) & set(gradient)
        assert len(state["optimizer_states"][0]["state"]) == len(gradient)


def test_evaluation_of_two_ranks_counts_every_structure_once(trained):
    """Against the errors of the saved model, computed here one structure at a time."""
    recipe = to_config(json.loads((trained / "two.json").read_text())["mcgm"], TrainConfig)
    part = open_parts(recipe.data).val
    potential = load(trained / "two/mcgm/model.safetensors")
    errors = [evaluate(potential, part[k : k + 1]).metrics.energy_mae_mev for k in range(len(part))]
    assert len(errors) == STRUCTURES["val"]
    assert min(abs(a - b) for k, a in enumerate(errors) for b in errors[:k]) > 1
    header, *rows = (trained / "two/mcgm/metrics.csv").read_text().splitlines()
    logged = [dict(zip(header.split(","), map(number, row.split(",")), strict=True)) for row in rows]
    best = min(logged, key=lambda row: row["val_loss"])
    assert best["val_energy_mae_mev"] == pytest.approx(np.mean(errors), rel=1e-9)
