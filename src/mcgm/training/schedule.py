"""Learning rate as a factor of the peak rate: functions of the step, and of the validation loss for the plateau."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from mcgm.training.config import ScheduleConfig


def warm_up(step: int, steps: int) -> float:
    """Linear from 1/steps to 1; 1 where there is no warm-up."""
    return min(1.0, (step + 1) / steps) if steps > 0 else 1.0


class Schedule(ABC):
    """Factor of the peak learning rate at every step. Subclasses are final."""

    @abstractmethod
    def factor(self, step: int) -> float:
        """Factor for the step (from 0) that is about to be taken."""

    def observe(self, loss: float) -> None:
        """Told the validation loss after every validation; most schedules do not listen."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What must be restored to go on as before."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        return None


@dataclass
class Cosine(Schedule):
    """Warm-up, then half a cosine from 1 down to `final` at the last step."""

    total: int
    warmup: int
    final: float

    def factor(self, step: int) -> float:
        """See the base class."""
        if step < self.warmup:
            return warm_up(step, self.warmup)
        progress = min(1.0, (step - self.warmup) / max(1, self.total - self.warmup))
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass
class Plateau(Schedule):
    """Warm-up, then smaller by `factor_` whenever the loss has not improved for more than `patience` validations."""

    warmup: int
    factor_: float
    patience: int
    scale: float = 1.0
    best: float = math.inf
    waited: int = 0

    def factor(self, step: int) -> float:
        """See the base class."""
        return warm_up(step, self.warmup) * self.scale

    def observe(self, loss: float) -> None:
        """Count validations since the best loss, and lower the rate when they are too many."""
        self.waited = 0 if loss < self.best else self.waited + 1
        self.best = min(loss, self.best)
        if self.waited > self.patience:
            self.scale, self.waited = self.scale * self.factor_, 0

    def state_dict(self) -> dict[str, Any]:
        """See the base class."""
        return {"scale": self.scale, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See the base class."""
        self.scale, self.best, self.waited = state["scale"], state["best"], state["waited"]


@dataclass
class Constant(Schedule):
    """Warm-up, then the peak rate."""

    warmup: int

    def factor(self, step: int) -> float:
        """See the base class."""
        return warm_up(step, self.warmup)


def make_schedule(config: ScheduleConfig, total_steps: int) -> Schedule:
    """The schedule of a recipe for a training of so many steps."""
    warmup = config.warmup_steps if config.warmup_steps is not None else round(config.warmup * total_steps)
    if config.kind == "cosine":
        return Cosine(total_steps, warmup, config.final)
    if config.kind == "plateau":
        return Plateau(warmup, config.factor, config.patience)
    return Constant(warmup)
