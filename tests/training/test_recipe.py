"""Recipes: what is wrong in one is said before anything else happens."""

from pathlib import Path

import ase.io
import pytest
import torch

from mcgm import Batch, build
from mcgm.errors import ConfigError, DataError, StructureError
from mcgm.training.config import CompareConfig, DataConfig, ScheduleConfig, TrainConfig
from mcgm.training.preparation import make_potential, open_parts
from mcgm.training.recipe import merge, overrides, read_recipe, to_config

RECIPES = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"training": {"epoch": 5}}, "Did you mean 'training.epochs'"),
        ({"trainin": {}}, "Did you mean 'training'"),
        ({"training": {"epochs": "many"}}, "training.epochs: required: int; got 'many'"),
        ({"training": {"loss": {"kind": "l3"}}}, "training.loss.kind"),
        ({"training": 3}, "training: required: a section of settings"),
        ({"model": {"cutoff": None}}, "model.cutoff: required: float; got None"),
        ({"data": {"split": {"train": "x"}}}, "data.split.train"),
        ({"variants": {"a": {"lable": "A"}}}, "Did you mean 'variants.a.label'"),
    ],
)
def test_wrong_setting_is_an_error_that_names_the_key(content, message):
    with pytest.raises(ConfigError) as caught:
        to_config(content, CompareConfig)
    assert message in str(caught.value)


def test_values_reach_the_dataclasses_with_their_types():
    config = to_config({"training": {"learning_rate": "1e-3", "schedule": {"kind": "plateau"}}}, TrainConfig)
    assert config.training.learning_rate == 1e-3
    assert config.training.schedule == ScheduleConfig(kind="plateau")


def test_command_line_settings_nest_and_later_ones_win():
    found = overrides(["--training.epochs", "5", "--data.path=x.xyz", "--training.epochs=7"], TrainConfig)
    assert found == {"training": {"epochs": 7}, "data": {"path": "x.xyz"}}
    assert merge({"training": {"epochs": 1, "seed": 2}}, found)["training"] == {"epochs": 7, "seed": 2}


def test_setting_without_value_is_an_error():
    with pytest.raises(ConfigError, match=r"--training\.epochs: required: a value"):
        overrides(["--training.epochs"], TrainConfig)


def test_variant_changes_the_model_only():
    config = CompareConfig()
    cell = config.cell("local", 5, "out")
    assert cell.model.long_range == "none"
    assert cell.training.seed == 5
    assert cell.data == config.data


def test_variant_with_an_unknown_model_setting_is_an_error():
    config = to_config({"variants": {"a": {"model": {"long_rnge": "none"}}}}, CompareConfig)
    with pytest.raises(ConfigError, match=r"variants\.a\.model\.long_range"):
        config.cell("a", 0, "out")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_shipped_recipe_is_valid(path):
    kind = CompareConfig if "\nvariants:" in path.read_text() else TrainConfig
    to_config(read_recipe(path, kind), kind, source=str(path))


@pytest.mark.parametrize(("text", "message"), [("a: [", "is not YAML"), ("- 1", "a mapping of settings")])
def test_broken_recipe_is_an_error_that_names_the_file(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_recipe(path, TrainConfig)
    assert str(path) in str(caught.value)


def test_scale_factors_are_fitted_where_a_network_has_them(small_recipe):
    small_recipe["model"] = {"backbone": "gemnet-t", "long_range": "mcgm", "cutoff": 4.0}
    config = to_config(small_recipe, TrainConfig)
    potential = make_potential(config, open_parts(config.data))
    fresh = build(backbone="gemnet-t", long_range="mcgm", cutoff=4.0)
    factors = {name: value for name, value in potential.named_buffers() if name.endswith("factor")}
    assert factors
    initial = dict(fresh.named_buffers())
    assert all(not torch.allclose(value, initial[name]) for name, value in factors.items())


def test_parts_may_be_files_of_their_own(tmp_path, labelled):
    frames = labelled(20)
    for name, part in {"a-1": frames[:6], "a-2": frames[6:12], "val": frames[12:15], "test": frames[15:]}.items():
        ase.io.write(tmp_path / f"{name}.extxyz", part)

    def names(**data):
        parts = open_parts(to_config({"data": {"path": str(tmp_path / "a-*.extxyz"), **data}}, TrainConfig).data)
        assert parts.everything.elements == (1, 6, 8)
        return [set(part.names) for part in (parts.train, parts.val, parts.test, parts.everything)]

    own = [{f"m{k}" for k in range(*limits)} for limits in ((0, 12), (12, 15), (15, 20))]
    files = {name: str(tmp_path / f"{name}.extxyz") for name in ("val", "test")}
    assert names(**files) == [*own, set.union(*own)]
    train, val, test, everything = names(test=files["test"], split={"val": 3})
    assert (len(train), len(val), test, train | val) == (9, 3, own[2], own[0])
    assert everything == own[0] | own[2]


def test_structures_without_energy_are_refused_or_left_out(tmp_path, labelled):
    frames = labelled(12)
    for atoms in frames[::4]:
        atoms.calc = None
    path = tmp_path / "some.extxyz"
    ase.io.write(path, frames)
    content = {"path": str(path), "split": {"train": 0.5, "val": 0.2}}
    with pytest.raises(DataError, match="energy required for every structure"):
        open_parts(to_config(content, DataConfig))
    parts = open_parts(to_config(content | {"unlabelled": "drop"}, DataConfig))
    assert len(parts.everything) == 9
    assert len(parts.train) + len(parts.val) + len(parts.test) == 9


def test_elements_that_no_structure_to_train_on_has_are_left_out_of_the_errors(tmp_path, labelled, caplog):
    """A missing reference energy alone would be an error of tens of eV."""
    frames = labelled(12)
    for atoms in frames[9:11]:
        atoms.numbers[0] = 33
    for name, part in {"train": frames[:6], "val": frames[6:8], "test": frames[8:]}.items():
        ase.io.write(tmp_path / f"{name}.extxyz", part)
    files = {name: str(tmp_path / f"{name}.extxyz") for name in ("val", "test")}
    split = {"train": 1.0, "val": 0.0, "test": 0.0}
    config = to_config({"data": {"path": str(tmp_path / "train.extxyz"), "split": split, **files}}, TrainConfig)
    parts = open_parts(config.data)
    assert list(parts.test.names) == ["m8", "m11"]
    assert "2 of 4 test structures are left out: they have As" in caplog.text
    potential = make_potential(config, parts)
    assert potential.elements == parts.train.elements
    with pytest.raises(StructureError, match="As, an element"):
        potential(Batch.from_atoms([frames[9]], cutoff=potential.cutoff))


@pytest.mark.parametrize(
    ("block", "told"),
    [
        ("none", False),
        ("range", False),
        ("mcgm_paper", False),
        ("mcgm", True),
        ("mcgm_mixing", True),
        ("charges", True),
        ("mcgm_charges", True),
        ({"long_range": "mcgm", "long_range_options": {"scope": "molecule"}}, False),
        ({"long_range": "charges", "long_range_options": {"constraint": "none"}}, False),
    ],
    ids=str,
)
def test_a_network_that_is_not_told_the_charge_of_ions_says_so(tmp_path, labelled, caplog, block, told):
    """To it a cation and the neutral molecule of the same atoms are one, with errors of electronvolts."""
    frames = labelled(12)
    for atoms in frames[::3]:
        atoms.info["charge"] = 1.0
    ase.io.write(tmp_path / "ions.extxyz", frames)
    model = {"cutoff": 3.0} | (block if isinstance(block, dict) else {"long_range": block})
    config = to_config({"data": {"path": str(tmp_path / "ions.extxyz")}, "model": model}, TrainConfig)
    potential = make_potential(config, open_parts(config.data))
    assert ("total charges of 0, +1 e" in caplog.text) is not told

    ion, neutral = frames[0].copy(), frames[0].copy()
    neutral.info["charge"] = 0.0
    energies = potential(Batch.from_atoms([ion, neutral], cutoff=potential.cutoff)).energy.detach()
    assert (abs(float(energies[0] - energies[1])) > 1e-6) is told


def test_nothing_is_said_of_charges_where_all_are_alike(tmp_path, labelled, caplog):
    frames = labelled(12)
    for atoms in frames:
        atoms.info["charge"] = -1.0
    ase.io.write(tmp_path / "anions.extxyz", frames)
    config = to_config(
        {"data": {"path": str(tmp_path / "anions.extxyz")}, "model": {"long_range": "none"}}, TrainConfig
    )
    make_potential(config, open_parts(config.data))
    assert "total charges" not in caplog.text
