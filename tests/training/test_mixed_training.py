"""`training.precision: bf16-mixed`: trained in bfloat16, kept and judged in float32."""

import pytest
import torch

from mcgm import load
from mcgm.errors import ConfigError
from mcgm.training.config import TrainConfig
from mcgm.training.evaluation import evaluate
from mcgm.training.fit import train
from mcgm.training.recipe import merge, to_config


def trained(recipe, folder, **training):
    config = to_config(merge(recipe, {"training": training}), TrainConfig)
    return train(config, folder)


@pytest.mark.parametrize("block", ["mcgm", "mcgm_paper"])
def test_learns_nearly_the_same_in_other_weights(small_recipe, tmp_path, block):
    recipe = merge(small_recipe, {"model": {"long_range": block}})
    single = trained(recipe, tmp_path / "single", epochs=2)
    mixed = trained(recipe, tmp_path / "mixed", epochs=2, precision="bf16-mixed")
    assert mixed.potential.dtype == torch.float32
    one, other = (torch.cat([p.flatten() for p in run.potential.parameters()]) for run in (single, mixed))
    assert 0 < (one - other).norm() / one.norm() < 0.05


def test_is_validated_as_what_is_saved(small_recipe, tmp_path):
    run = trained(small_recipe, tmp_path / "mixed", epochs=1, precision="bf16-mixed", ema=None)
    saved = evaluate(load(tmp_path / "mixed" / "model.safetensors"), run.parts.val)
    assert run.curves[-1].val_energy_mae_mev == pytest.approx(saved.plain["energy_mae_mev"], rel=1e-5)


def test_compiled_too_is_refused(small_recipe, tmp_path):
    with pytest.raises(ConfigError, match="precision: float32"):
        trained(small_recipe, tmp_path, precision="bf16-mixed", compile=True)
