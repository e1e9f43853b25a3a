"""Comparisons and data sets by name: complete, consistent with the recipes, and run from start to end on tiny data."""

import importlib.util
import json
from ast import literal_eval
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from mcgm.backbones import BACKBONES
from mcgm.cli import main
from mcgm.data.labels import PRESETS
from mcgm.errors import ConfigError, DataError
from mcgm.long_range import BLOCKS
from mcgm.registry import build
from mcgm.report.result import RunResult
from mcgm.suites import DATA_SETS, SUITES, data_recipe, data_settings, suite_recipe
from mcgm.training.cell import cell_settings, run_cell
from mcgm.training.comparison import check
from mcgm.training.config import CompareConfig, DataConfig, TrainConfig
from mcgm.training.preparation import open_parts
from mcgm.training.recipe import merge, overrides, read_recipe, to_config

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = [
    "--model.size=small",
    "--model.cutoff=3.0",
    "--model.backbone_options={channels: 8, filters: 8, radial: 8, layers: 2}",
    "--training.steps=1",
    "--training.batch_structures=8",
    "--seeds=[0]",
    "--processes=1",
]


def recipe_of(name):
    return to_config(suite_recipe(name), CompareConfig, source=name)


@pytest.mark.parametrize("name", SUITES)
def test_every_variant_of_a_suite_names_blocks_and_options_that_exist(name):
    config = recipe_of(name)
    check(config)
    assert len(config.seeds) >= 3
    models = [config.cell(name, 0, "").model for name in config.variants]
    assert {model.backbone for model in models} <= set(BACKBONES)
    small = {"channels": 8, "filters": 8, "layers": 2}
    for long_range, options in {(model.long_range, str(model.long_range_options)): model for model in models}:
        build(long_range=long_range, long_range_options=literal_eval(options), backbone_options=small)
    labels = [variant.label for variant in config.variants.values()]
    assert len(set(labels)) == len(labels)


def test_the_rivals_are_all_blocks_there_are():
    config = recipe_of("rivals")
    compared = {config.cell(name, 0, "").model.long_range for name in config.variants}
    assert compared == set(BLOCKS) - {"mcgm_random", "mcgm_kmeans"}, "those two are in the suite controls"


def test_the_levels_are_those_of_the_question():
    config = recipe_of("levels")
    options = [config.cell(name, 0, "").model.long_range_options or {} for name in config.variants]
    assert {o["levels"] for o in options if o.get("reduction", 2) == 2 and "levels" in o} == {1, 2, 3, 4}
    assert {o["reduction"] for o in options if o.get("levels") == 3} == {2, 3, 4}
    assert any(o.get("recluster") == "epoch" for o in options)


def test_the_controls_are_those_of_the_question():
    config = recipe_of("controls")
    assert config.cell("local-12", 0, "").model.cutoff == 12.0
    assert config.variants["local-wide"].widened_to == "mcgm-paper"
    blocks = {config.cell(name, 0, "").model.long_range for name in config.variants}
    ours = {"mcgm_random", "mcgm_kmeans", "mcgm_paper", "mcgm", "mcgm_oriented"}
    assert {"none", "global_mean", "element_mean"} | ours == blocks


@pytest.mark.parametrize(
    ("suite", "variant", "recipe"),
    [
        ("oe62", "schnet-mcgm", "oe62/schnet"),
        ("oe62", "painn-mcgm", "oe62/painn"),
        ("oe62", "dimenet-mcgm", "oe62/dimenet++"),
        ("oe62", "gemnet-mcgm", "oe62/gemnet-t"),
        ("aqm", "schnet-mcgm", "aqm/schnet"),
        ("aqm", "painn-mcgm", "aqm/painn"),
        ("aqm", "visnet-mcgm", "aqm/visnet"),
    ],
)
def test_suites_of_the_literature_train_as_the_recipes_do(suite, variant, recipe):
    cell = recipe_of(suite).cell(variant, 0, "")
    alone = to_config(read_recipe(CONFIGS / f"{recipe}.yaml", TrainConfig), TrainConfig)
    assert cell.model == alone.model
    assert replace(cell.training, tensorboard=True) == alone.training
    assert (cell.data.labels, cell.data.split) == (alone.data.labels, alone.data.split)


@pytest.mark.parametrize("name", sorted(set(DATA_SETS) - {"oe62", "aqm", "qm9"}))
def test_data_sets_by_name_are_where_they_are_said_to_be(name, shared_data, monkeypatch):
    monkeypatch.setenv("MCGM_DATA", str(shared_data))
    recipe = data_recipe(name)
    config = to_config(recipe["data"], DataConfig, source=name)
    assert config.labels is None or config.labels in PRESETS
    interaction = config.labels is not None and PRESETS[config.labels].energy_kind == "interaction"
    assert (recipe.get("model") == {"reference_fit": "none"}) == interaction
    assert config.title == ("sample" if name == "sample" else name)


@pytest.mark.parametrize("name", ["carbon_chain_4g", "gnl_cumulene", "lode_charged_dimers", "water_rpbe_d3"])
def test_data_sets_by_name_have_three_parts_with_energies(name, shared_data, monkeypatch, tmp_path):
    monkeypatch.setenv("MCGM_DATA", str(shared_data))
    monkeypatch.setenv("MCGM_CACHE", str(tmp_path))
    parts = open_parts(to_config(data_settings(name), DataConfig, source=name))
    assert parts.forces
    assert len(parts.train) > len(parts.val) > 0
    assert len(parts.test) > 0
    assert not parts.test.lacks("energy").any()


def test_qm9_is_looked_for_in_its_package(tmp_path, monkeypatch):
    package = tmp_path / "qm9pack"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "data" / "qm9_part1.csv").touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'mcgm\[qm9\]'"):
        data_settings("qm9")
    found = SimpleNamespace(origin=str(package / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    assert data_settings("qm9")["path"] == str(package / "data" / "qm9_part*.csv")


def test_names_that_are_in_no_table_are_told(tmp_path, monkeypatch):
    monkeypatch.setenv("MCGM_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match=r"unknown suite 'rivls'. Did you mean 'rivals'"):
        suite_recipe("rivls")
    with pytest.raises(ConfigError, match=r"unknown data set 'pubchem'. Did you mean 'pubchem_xtb'.*Or give a file"):
        data_settings("pubchem")
    with pytest.raises(DataError, match=r"train.npz: not there.*set\s+MCGM_DATA"):
        data_settings("pubchem_xtb")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: a recipe or a data file, or --suite"),
        (["a.xyz", "--suite", "rivals"], "required: a recipe or a data file, or --suite"),
        (["--suite", "rivals"], "--suite rivals needs --data"),
        (["--suite", "rivals", "--data", "sample", "--only", "locl"], "Did you mean 'local'"),
        (["--suite", "rivals", "--data", "sample", "--training.step", "5"], "Did you mean 'training.steps'"),
    ],
)
def test_a_wrong_command_is_one_message(arguments, message, capsys):
    assert main(["compare", *arguments]) == 2
    assert message in capsys.readouterr().err


SMOKE = {
    "rivals": "range-slim",
    "controls": "kmeans-half",
    "levels": "L3-r2-epoch",
}


@pytest.mark.parametrize(("suite", "variant"), SMOKE.items())
def test_a_cell_of_a_suite_leaves_one_file_that_says_everything(suite, variant, data_file, tmp_path):
    content = merge(suite_recipe(suite), {"data": data_settings(str(data_file))})
    config = to_config(merge(content, overrides(TINY, CompareConfig)), CompareConfig)
    run_cell(config, variant, 0, tmp_path)
    result = RunResult.load(tmp_path / "cells" / f"{variant}-seed0.json")
    assert result.metrics.energy_mae_mev > 0
    assert result.parameters > 0
    assert result.curves
    assert result.peak_memory_mb is not None
    assert result.machine["cpu"]
    assert result.part == "test"
    assert result.config == json.loads(json.dumps(cell_settings(config, variant, 0)))


def test_a_cell_without_a_test_part_says_on_what_it_was_tested(data_file, tmp_path):
    data = {"path": str(data_file), "split": {"train": 0.75, "val": 0.25, "test": 0.0}}
    content = merge(suite_recipe("rivals"), {"data": data})
    run_cell(to_config(merge(content, overrides(TINY, CompareConfig)), CompareConfig), "local", 0, tmp_path)
    result = RunResult.load(tmp_path / "cells" / "local-seed0.json")
    assert (result.part, result.metrics.n_structures) == ("validation", 6)


@pytest.fixture
def asked_for(monkeypatch):
    """What `mcgm compare` would run."""
    found = []

    def note(config):
        found.append(config)
        return 0

    monkeypatch.setattr("mcgm.commands.compare._compare", note)
    return found


def test_some_variants_are_run_with_those_that_they_are_compared_with(asked_for):
    command = ["compare", "--suite", "controls", "--data", "sample", "--model.size", "small", "--only"]
    assert main([*command, "local-wide, local-12"]) == 0
    (config,) = asked_for
    assert list(config.variants) == ["local", "local-wide", "local-12"]
    assert config.variants["local-wide"].model["backbone_options"]["channels"] > 64
    assert (config.data.path, config.output) == ("sample", "runs/controls-sample")


def test_a_recipe_takes_a_data_set_by_name_and_a_value_is_not_taken_for_a_file(asked_for, shared_data, monkeypatch):
    monkeypatch.setenv("MCGM_DATA", str(shared_data))
    recipe = str(CONFIGS / "sample.yaml")
    assert main(["compare", "--training.epochs", "3", recipe, "--data", "water_rpbe_d3", "-o", "there"]) == 0
    (config,) = asked_for
    assert config.data.title == "water_rpbe_d3"
    assert (config.training.epochs, config.output) == (3, "there")
