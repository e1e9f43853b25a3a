"""Settings that no training can mean, refused before anything is read; imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from mcgm.errors import ConfigError
from mcgm.training.config import TrainConfig

Test = tuple[Callable[[Any], bool], str]

AT_LEAST_ONE: Test = (lambda value: value >= 1, "at least 1")
POSITIVE: Test = (lambda value: math.isfinite(value) and value > 0, "a finite number above zero")
NOT_NEGATIVE: Test = (lambda value: math.isfinite(value) and value >= 0, "a finite number, zero or more")
FRACTION: Test = (lambda value: 0 <= value <= 1, "a number from 0 to 1")
BELOW_ONE: Test = (lambda value: 0 <= value < 1, "zero or more, and below 1")

TESTS: dict[str, Test] = {
    "seeds": AT_LEAST_ONE,
    "data.split.seed": NOT_NEGATIVE,
    "training.seed": NOT_NEGATIVE,
    "data.limit": AT_LEAST_ONE,
    "model.cutoff": POSITIVE,
    "training.epochs": AT_LEAST_ONE,
    "training.steps": AT_LEAST_ONE,
    "training.batch_atoms": AT_LEAST_ONE,
    "training.batch_structures": AT_LEAST_ONE,
    "training.learning_rate": POSITIVE,
    "training.weight_decay": NOT_NEGATIVE,
    "training.ema": BELOW_ONE,
    "training.clip": POSITIVE,
    "training.early_stopping": AT_LEAST_ONE,
    "training.devices": AT_LEAST_ONE,
    "training.num_nodes": AT_LEAST_ONE,
    "training.workers": NOT_NEGATIVE,
    "training.checkpoint_minutes": NOT_NEGATIVE,
    "training.loss.energy_weight": NOT_NEGATIVE,
    "training.loss.force_weight": NOT_NEGATIVE,
    "training.loss.charge_weight": NOT_NEGATIVE,
    "training.loss.dipole_weight": NOT_NEGATIVE,
    "training.loss.total_charge_weight": NOT_NEGATIVE,
    "training.loss.stress_weight": NOT_NEGATIVE,
    "training.loss.huber_delta": POSITIVE,
    "training.schedule.warmup": FRACTION,
    "training.schedule.warmup_steps": NOT_NEGATIVE,
    "training.schedule.start": NOT_NEGATIVE,
    "training.schedule.final": NOT_NEGATIVE,
    "training.schedule.factor": FRACTION,
    "training.schedule.patience": NOT_NEGATIVE,
}
"""What numbers of a recipe have to be, where they are given."""


def require_sound(config: TrainConfig) -> None:
    """Look at all numbers.

    Raises:
        ConfigError: one that is impossible, or a loss without any term.
    """
    for key, (test, required) in TESTS.items():
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)
        if value is not None and not test(value):
            raise ConfigError(f"{key} is {value}; required: {required}.")
    loss = config.training.loss
    weights = (loss.energy_weight, loss.force_weight, loss.charge_weight, loss.dipole_weight, loss.stress_weight)
    if not any(weights):
        raise ConfigError("training.loss: all weights are zero; required: one above zero, or nothing is learnt.")
