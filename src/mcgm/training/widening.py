"""Backbones widened until they have as many parameters as another variant: the control for "more parameters"."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from mcgm.backbones import backbone_sizes
from mcgm.errors import ConfigError
from mcgm.registry import build
from mcgm.training.config import CompareConfig, ModelConfig
from mcgm.training.fit import count_parameters

WIDTHS = ("channels", "filters", "message_channels")
"""Options of backbones that are widths; `channels` is that of the scalars."""


def widened(config: CompareConfig) -> CompareConfig:
    """The comparison with the widths of every variant that is to be as large as another, found by bisection.

    Widths of one backbone keep their proportions; the count that is nearest to the wanted one is taken.

    Raises:
        ConfigError: a backbone without a width, or a variant that is larger already.
    """
    variants = dict(config.variants)
    for name, variant in variants.items():
        if variant.widened_to is None:
            continue
        wanted = parameters(config.cell(variant.widened_to, config.seeds[0], "").model)
        model = config.cell(name, config.seeds[0], "").model
        options = (model.backbone_options or {}) | width_for(model, wanted, f"variants.{name}.widened_to")
        changes = variant.model | {"backbone_options": options}
        variants[name] = dataclasses.replace(variant, model=changes, widened_to=None)
    return dataclasses.replace(config, variants=variants)


def parameters(model: ModelConfig, **widths: int) -> int:
    """Number of trained parameters of a model of the recipe, with other widths where given."""
    options = (model.backbone_options or {}) | widths
    with torch.random.fork_rng(devices=[]):
        potential = build(
            backbone=model.backbone,
            long_range=model.long_range,
            size=model.size,
            cutoff=model.cutoff,
            backbone_options=options,
            long_range_options=model.long_range_options,
        )
    return count_parameters(potential)


def width_for(model: ModelConfig, wanted: int, key: str) -> dict[str, int]:
    """The widths with which the model has about so many parameters.

    Raises:
        ConfigError: the backbone has no width, or the model has more parameters already; names `key`.
    """
    sizes: dict[str, dict[str, Any]] = backbone_sizes(model.backbone)
    before = sizes.get(model.size, {}) | (model.backbone_options or {})
    start = {name: int(before[name]) for name in WIDTHS if name in before}
    if "channels" not in start:
        raise ConfigError(f"{key}: backbone {model.backbone!r} has no option 'channels' that could be widened.")
    step = int(before.get("heads", 1))

    def widths(steps: int) -> dict[str, int]:
        return {name: round(steps * step * width / start["channels"]) for name, width in start.items()}

    low = start["channels"] // step
    high = low + 1
    if parameters(model, **widths(low)) > wanted:
        raise ConfigError(f"{key}: the model has more than {wanted:,} parameters already; required: fewer.")
    while parameters(model, **widths(high)) <= wanted:
        low, high = high, high + 2 * (high - low)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if parameters(model, **widths(middle)) <= wanted else (low, middle)
    nearest = min((low, high), key=lambda steps: abs(parameters(model, **widths(steps)) - wanted))
    return widths(nearest)
