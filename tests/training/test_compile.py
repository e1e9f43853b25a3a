"""Training with compiled steps is training; kernels are not generated here, `tests/test_compiled.py` does that."""

import shutil

import pytest
import torch

from mcgm import load
from mcgm.errors import ConfigError
from mcgm.training.config import TrainConfig
from mcgm.training.fit import train
from mcgm.training.recipe import merge, to_config

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


@pytest.mark.parametrize(
    "model",
    [
        {"long_range": "mcgm"},
        {"long_range": "mcgm_paper", "long_range_options": {"recluster": "epoch"}},
    ],
    ids=["smooth", "epoch"],
)
def test_compiled_training_ends_where_the_other_does(small_recipe, tmp_path, traced_graphs, model):
    weights = {}
    for compile in (False, True):
        settings = {"training": {"compile": compile, "precision": "float64", "epochs": 2}}
        config = to_config(merge(small_recipe, {"model": model} | settings), TrainConfig)
        train(config, tmp_path / str(compile))
        weights[compile] = load(tmp_path / str(compile) / "model.safetensors").state_dict()
    assert traced_graphs
    assert weights[True].keys() == weights[False].keys()
    for name, value in weights[False].items():
        assert torch.allclose(weights[True][name], value, rtol=1e-7, atol=1e-9), name


def test_labels_that_are_looked_for_in_every_step_are_refused(small_recipe, tmp_path):
    content = merge(small_recipe, {"model": {"long_range": "mcgm_paper"}, "training": {"compile": True}})
    with pytest.raises(ConfigError, match="recluster: epoch"):
        train(to_config(content, TrainConfig), tmp_path / "out")
