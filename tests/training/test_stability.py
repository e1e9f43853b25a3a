"""How much clusters change between validations: the index itself, and what a training writes."""

import csv

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from mcgm.errors import DataError
from mcgm.report.result import CurvePoint
from mcgm.training.config import TrainConfig
from mcgm.training.fit import train
from mcgm.training.recipe import merge, to_config
from mcgm.training.stability import ClusterStability, adjusted_rand_index
from mcgm.training.state import read_state


def test_index_is_that_of_scikit_learn_for_every_molecule():
    generator = np.random.default_rng(0)
    sizes = generator.integers(1, 13, size=200)
    molecule = np.repeat(np.arange(len(sizes)), sizes)
    first, second = (
        np.concatenate([generator.integers(0, generator.integers(1, 7), size=size) for size in sizes]) for _ in range(2)
    )
    found = adjusted_rand_index(*map(torch.from_numpy, (first, second, molecule)), len(sizes))
    wanted = [adjusted_rand_score(first[molecule == k], second[molecule == k]) for k in range(len(sizes))]
    assert len({round(value, 6) for value in wanted}) > 20
    assert found.tolist() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(
    ("first", "second", "index"),
    [
        ([0, 0, 1, 1], [7, 7, 3, 3], 1.0),
        ([0, 1, 2, 3], [3, 2, 1, 0], 1.0),
        ([0, 0, 0, 0], [0, 0, 0, 0], 1.0),
        ([0, 0, 0, 0], [0, 1, 2, 3], 0.0),
        ([0, 0, 1, 1], [0, 1, 0, 1], -0.5),
    ],
    ids=["renamed", "apart", "together", "opposite", "crossed"],
)
def test_index_of_four_atoms(first, second, index):
    found = adjusted_rand_index(torch.tensor(first), torch.tensor(second), torch.zeros(4, dtype=torch.long), 1)
    assert found.tolist() == pytest.approx([index])


def trained(recipe, folder, long_range, **training):
    changes = {"model": {"long_range": long_range}, "training": {"learning_rate": 0.02, "ema": None} | training}
    result = train(to_config(merge(recipe, changes), TrainConfig), folder)
    with (folder / "metrics.csv").open() as stream:
        return result, list(csv.DictReader(stream))


def test_a_training_logs_the_index_of_the_levels_that_can_change(small_recipe, tmp_path):
    result, rows = trained(small_recipe, tmp_path, "mcgm")
    names = [name for name in rows[0] if name.startswith("rand_index")]
    assert names == ["rand_index_level_2", "rand_index_level_3"]
    assert [rows[0][name] for name in names] == ["", ""]
    for row, point in zip(rows[1:], result.curves[1:], strict=True):
        assert point.rand_index_levels == (2, 3)
        assert [float(row[name]) for name in names] == list(point.rand_index)
        assert all(-1 <= value <= 1 for value in point.rand_index)
    assert min(result.curves[-1].rand_index + result.curves[1].rand_index) < 1
    labels = read_state(tmp_path / "last.ckpt")["callbacks"]["Recorder"]["labels"]
    sizes = [len(structure) for structure in result.parts.val]
    assert [len(label) for label in labels] == [sum(sizes)] * 2


def test_weights_that_stay_give_an_index_of_one(small_recipe, tmp_path):
    result, _ = trained(small_recipe, tmp_path, "mcgm_paper", learning_rate=1e-30, epochs=2)
    assert result.curves[0].rand_index == ()
    assert result.curves[1].rand_index == (1.0, 1.0)


def test_clusters_that_cannot_change_are_not_asked_for(small_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(ClusterStability, "_labels", lambda *_: pytest.fail("a pass for nothing"))
    for long_range in ("none", "element_mean", "global_mean"):
        _, rows = trained(small_recipe, tmp_path / long_range, long_range, epochs=1)
        assert not [name for name in rows[0] if name.startswith("rand_index")]


def test_a_curve_has_one_index_for_each_level():
    with pytest.raises(DataError, match="one for each"):
        CurvePoint(1, 10, 1.0, 1e-3, 0.1, 20.0, rand_index=(0.5,), rand_index_levels=(2, 3))


def test_a_resumed_training_compares_with_the_labels_of_before(small_recipe, tmp_path):
    steady = merge(small_recipe, {"training": {"schedule": {"kind": "constant"}, "batch_structures": 1}})
    whole, _ = trained(steady, tmp_path / "whole", "mcgm_paper", epochs=3)
    trained(steady, tmp_path / "parts", "mcgm_paper", epochs=2)
    changes = {"model": {"long_range": "mcgm_paper"}, "training": {"learning_rate": 0.02, "ema": None, "epochs": 3}}
    resumed = train(to_config(merge(steady, changes), TrainConfig), tmp_path / "parts", resume=True)
    indices = [[point.rand_index for point in result.curves] for result in (whole, resumed)]
    assert indices[0] == indices[1]
    assert all(len(index) == 2 for index in indices[1][1:])
