"""Learning rate as a factor of the peak rate: functions of the step, and of the validation loss for the plateau."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from mcgm.training.config import ScheduleConfig


@dataclass(frozen=True)
class WarmUp:
    """A line from `start` to 1 that ends after so many steps."""

    steps: int
    start: float = 0.0

    def factor(self, step: int) -> float:
        """Factor for the step (from 0) that is about to be taken; never zero."""
        return min(1.0, self.start + (1 - self.start) * (step + 1) / self.steps) if self.steps > 0 else 1.0


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

    warmup: WarmUp
    total: int
    final: float

    def factor(self, step: int) -> float:
        """See the base class."""
        begin = self.warmup.steps
        if step < begin:
            return self.warmup.factor(step)
        progress = min(1.0, (step - begin) / max(1, self.total - 1 - begin))
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass
class Plateau(Schedule):
    """Warm-up; times `decay` whenever the loss has not improved for more than `patience` validations."""

    warmup: WarmUp
    decay: float
    patience: int
    scale: float = 1.0
    best: float = math.inf
    waited: int = 0

    def factor(self, step: int) -> float:
        """See the base class."""
        return self.warmup.factor(step) * self.scale

    def observe(self, loss: float) -> None:
        """Count validations since the best loss, and lower the rate when they are too many."""
        self.waited = 0 if loss < self.best else self.waited + 1
        self.best = min(loss, self.best)
        if self.waited > self.patience:
            self.scale, self.waited = self.scale * self.decay, 0

    def state_dict(self) -> dict[str, Any]:
        """See the base class."""
        return {"scale": self.scale, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See the base class."""
        self.scale, self.best, self.waited = state["scale"], state["best"], state["waited"]


@dataclass
class Steps(Schedule):
    """Warm-up; times `decay` from each milestone (in steps) on. Without milestones: constant."""

    warmup: WarmUp
    milestones: tuple[int, ...] = ()
    decay: float = 0.1

    def factor(self, step: int) -> float:
        """See the base class."""
        return self.warmup.factor(step) * self.decay ** sum(step >= milestone for milestone in self.milestones)


def make_schedule(config: ScheduleConfig, total_steps: int) -> Schedule:
    """The schedule of a recipe for a training of so many steps."""
    length = config.warmup_steps if config.warmup_steps is not None else round(config.warmup * total_steps)
    warmup = WarmUp(length, config.start)
    if config.kind == "cosine":
        return Cosine(warmup, total_steps, config.final)
    if config.kind == "plateau":
        return Plateau(warmup, config.factor, config.patience)
    return Steps(warmup, tuple(config.milestones) if config.kind == "steps" else (), config.factor)
