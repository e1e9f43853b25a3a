"""Equal numbers of parameters are computed, not guessed."""

import pytest

from mcgm.errors import ConfigError
from mcgm.training.comparison import check
from mcgm.training.config import CompareConfig, ModelConfig, TrainingConfig, VariantConfig
from mcgm.training.widening import parameters, widened


def comparison(backbone, **wide):
    variants = {
        "local": VariantConfig(model={"long_range": "none"}),
        "mcgm": VariantConfig(model={"long_range": "mcgm"}),
        "wide": VariantConfig(model={"long_range": "none"} | wide, widened_to="mcgm"),
    }
    return CompareConfig(model=ModelConfig(backbone=backbone), variants=variants, training=TrainingConfig())


@pytest.mark.parametrize("backbone", ["schnet", "painn", "dimenet++", "visnet"])
def test_the_local_network_is_widened_to_as_many_parameters(backbone):
    config = widened(comparison(backbone))
    local, mcgm, wide = (parameters(config.cell(name, 0, "").model) for name in ("local", "mcgm", "wide"))
    assert local < mcgm
    assert wide == pytest.approx(mcgm, rel=0.06)
    assert config.variants["wide"].widened_to is None
    assert widened(config) == config


def test_proportions_of_the_widths_are_kept():
    config = widened(comparison("schnet", backbone_options={"channels": 32, "filters": 64, "radial": 10}))
    options = config.variants["wide"].model["backbone_options"]
    assert options["filters"] == pytest.approx(2 * options["channels"], abs=1)
    assert options["radial"] == 10


def test_what_cannot_be_widened_is_told():
    with pytest.raises(ConfigError, match=r"variants.wide.widened_to: the model has more than .* required: fewer"):
        widened(comparison("schnet", backbone_options={"channels": 512}))
    variants = {"wide": VariantConfig(widened_to="mcmg"), "mcgm": VariantConfig()}
    with pytest.raises(ConfigError, match=r"variants.wide.widened_to: .*Did you mean 'mcgm'"):
        check(CompareConfig(variants=variants))


def test_a_variant_may_train_differently():
    config = CompareConfig(variants={"slow": VariantConfig(training={"learning_rate": 1e-5, "loss": {"kind": "l2"}})})
    training = config.cell("slow", 3, "").training
    assert (training.learning_rate, training.loss.kind, training.seed) == (1e-5, "l2", 3)
    assert training.loss.force_weight == config.training.loss.force_weight
    wrong = CompareConfig(variants={"slow": VariantConfig(training={"learning_rat": 1e-5})})
    with pytest.raises(ConfigError, match=r"variants.slow.training.learning_rat.*Did you mean"):
        wrong.cell("slow", 0, "")
