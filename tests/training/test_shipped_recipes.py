"""The recipes for OE62 and AQM, from start to end on small files of the layout of those data sets."""

import dataclasses
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase.data import chemical_symbols

from mcgm import load
from mcgm.backbones import BACKBONES
from mcgm.cli import main
from mcgm.data import splits
from mcgm.report.result import RunResult
from mcgm.suites import data_settings, suite_recipe
from mcgm.training.cell import run_cell
from mcgm.training.config import CompareConfig, TrainConfig
from mcgm.training.recipe import merge, read_recipe, to_config

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = sorted([*(CONFIGS / "oe62").glob("*.yaml"), *(CONFIGS / "aqm").glob("*.yaml")])
FEW = 12
SETTINGS = {"training.epochs": 1, "training.workers": 0, "training.accelerator": "cpu", "training.tensorboard": "false"}


def write_oe62(path, frames):
    """pandas' `orient="split"` with one xyz text per row."""
    rows = []
    for k, atoms in enumerate(frames):
        lines = [
            f"{chemical_symbols[z]} {x:.8f} {y:.8f} {w:.8f}"
            for z, (x, y, w) in zip(atoms.numbers, atoms.positions, strict=True)
        ]
        text = "\n".join([str(len(atoms)), "", *lines]) + "\n"
        rows.append([f"ABC{k:03d}", len(atoms), text, atoms.get_potential_energy()])
    columns = ["refcode_csd", "number_of_atoms", "xyz_pbe_relaxed", "total_energy_pbe0_vac_tier2"]
    path.write_text(json.dumps({"columns": columns, "index": list(range(len(rows))), "data": rows}))


def write_aqm(path, frames):
    """`/<molecule>/<conformer>/<property>`."""
    with h5py.File(path, "w") as file:
        for k, atoms in enumerate(frames):
            group = file.create_group(f"Geom-m{k // 2 + 1}/Geom-m{k // 2 + 1}-c{k % 2 + 1}")
            group["atNUM"] = atoms.numbers
            group["atXYZ"] = atoms.positions
            group["totFOR"] = atoms.get_forces()
            group["eAT"] = np.array([atoms.get_potential_energy()])
            group["ePBE0+MBD"] = np.array([atoms.get_potential_energy() - 100.0])


@pytest.fixture
def data_files(tmp_path, labelled, monkeypatch):
    """A few molecules in both layouts; the split of OE62's literature cut down with them."""
    paths = {"oe62": tmp_path / "df_62k.json", "aqm": tmp_path / "AQM-gas.hdf5"}
    write_oe62(paths["oe62"], labelled(FEW, forces=False))
    write_aqm(paths["aqm"], labelled(FEW))
    few = {"oe62": splits.OE62Split(train=8, val=2, rows=FEW)}
    monkeypatch.setattr(splits, "NAMED", dict(splits.NAMED) | few)
    monkeypatch.setenv("MCGM_CACHE", str(tmp_path / "cache"))
    return paths


def test_every_backbone_of_the_paper_has_a_recipe():
    backbones = {read_recipe(path, TrainConfig)["model"]["backbone"] for path in RECIPES}
    assert backbones == set(BACKBONES)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_recipe_trains_a_model_that_can_be_loaded_and_evaluated(path, data_files, tmp_path, capsys):
    data, run = data_files[path.parent.name], tmp_path / "run"
    settings = [word for key, value in SETTINGS.items() for word in (f"--{key}", str(value))]
    assert main(["train", str(path), "-o", str(run), "--data.path", str(data), *settings]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), "--part", "test", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert np.isfinite(found["energy_mae_mev"])
    assert ("force_mae_mev_per_A" in found and found["force_mae_mev_per_A"] is not None) == (path.parent.name == "aqm")
    model = to_config(read_recipe(path, TrainConfig), TrainConfig).model
    assert load(run / "model.safetensors").cutoff == model.cutoff


@pytest.mark.parametrize(("suite", "variant"), [("oe62", "schnet-mcgm-paper"), ("aqm", "schnet-range")])
def test_a_suite_of_the_literature_runs_on_a_file_of_its_layout(suite, variant, data_files, tmp_path):
    content = merge(suite_recipe(suite), {"data": data_settings(str(data_files[suite]))})
    small = {"size": "small", "backbone_options": {"channels": 8, "filters": 8, "layers": 2}}
    config = to_config(
        merge(content, {"model": small, "training": {"accelerator": "cpu", "workers": 0}}), CompareConfig
    )
    few = dataclasses.replace(config.variants[variant], training={"epochs": 1, "batch_structures": 4})
    config = dataclasses.replace(config, variants=config.variants | {variant: few})
    run_cell(config, variant, 0, tmp_path)
    result = RunResult.load(tmp_path / "cells" / f"{variant}-seed0.json")
    assert result.dataset == data_files[suite].name
    assert result.metrics.n_structures == {"oe62": 2, "aqm": 1}[suite]
    assert (result.metrics.force_mae_mev_per_A is None) == (suite == "oe62")
