"""The recipes for periodic systems fit their data, and the data of crystals can be made again."""

import os
import runpy
from pathlib import Path

import numpy as np
import pytest

from mcgm.data import Dataset
from mcgm.data.writers import write_structures
from mcgm.training.config import CompareConfig
from mcgm.training.preparation import open_parts
from mcgm.training.recipe import read_recipe, to_config

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("MCGM_DATA", ROOT / "../shared/data"))


def recipe(name):
    return to_config(read_recipe(ROOT / "configs" / f"{name}.yaml", CompareConfig), CompareConfig)


@pytest.mark.parametrize("name", ["water_rpbe_d3", "crystals"])
def test_a_recipe_compares_blocks_on_one_local_network(name):
    config = recipe(name)
    models = [config.cell(variant, 0, "").model for variant in config.variants]
    assert [model.long_range for model in models] == ["none", "mcgm", "mcgm_charges"]
    assert len({(model.backbone, model.cutoff) for model in models}) == 1
    assert (config.training.loss.stress_weight > 0) == (name == "crystals")


def test_water_has_what_its_recipe_needs(tmp_path, monkeypatch):
    config = recipe("water_rpbe_d3")
    path = DATA / Path(config.data.path).relative_to("../shared/data")
    if not path.exists():
        pytest.skip(f"needs {path}; set MCGM_DATA to the folder of data sets")
    monkeypatch.setenv("MCGM_CACHE", str(tmp_path))
    parts = open_parts(to_config({"path": str(path), "split": vars(config.data.split)}, type(config.data)))
    assert [len(part) for part in (parts.train, parts.val, parts.test)] == [38, 4, 8]
    assert parts.forces
    assert all(structure.pbc.all() and structure.volume > 1000 for structure in parts.val)


def test_crystals_are_made_again_from_their_seed_with_the_labels_that_the_recipe_needs(tmp_path, monkeypatch):
    pytest.importorskip("tblite")
    tool = runpy.run_path(str(ROOT / "tools" / "make_crystals.py"))
    monkeypatch.setenv("MCGM_CACHE", str(tmp_path))
    first, second = (tool["series"]("C", 1, 3)[0] for _ in range(2))
    assert np.array_equal(first.positions, second.positions)
    assert first.energy == pytest.approx(second.energy, abs=1e-8)
    write_structures([first], tmp_path / "crystals.extxyz")
    dataset = Dataset.open(tmp_path / "crystals.extxyz")
    dataset.require("energy", "forces", "stress")
    np.testing.assert_allclose(dataset[0].stress, first.stress, atol=1e-6)
    assert dataset.groups.tolist() == ["C"]


def test_ideal_crystals_have_the_distances_of_their_bonds():
    pytest.importorskip("tblite")
    cells = runpy.run_path(str(ROOT / "tools" / "make_crystals.py"))["ideal"]()
    nearest = {}
    for name, atoms in cells.items():
        distance = atoms.get_all_distances(mic=True)
        nearest[name] = distance[~np.eye(len(atoms), dtype=bool)].min()
    expected = {
        "MgO": 2.105,
        "NaCl": 2.82,
        "LiF": 2.015,
        "C": 1.545,
        "Si": 2.352,
        "SiC": 1.888,
        "CO2": 1.158,
        "urea": 1.01,
    }
    assert nearest == pytest.approx(expected, abs=0.01)
