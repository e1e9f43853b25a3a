"""Speed of the variants side by side: in one process, taking turns, so that a busy machine hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mcgm.checkpoint import load
from mcgm.memory import keep_freed_memory
from mcgm.potential import Potential
from mcgm.training.batches import Collate, LabelledBatch
from mcgm.training.config import CompareConfig, TrainingConfig
from mcgm.training.datamodule import StructureDataModule
from mcgm.training.loss import loss_terms
from mcgm.training.parts import predicted
from mcgm.training.preparation import Parts, open_parts

ROUNDS = 15
LONGEST = 8.0
"""seconds per variant; at least three rounds are measured."""

TIMED = 32
"""test structures in the batch that inference is timed on."""


@dataclass(frozen=True)
class Speed:
    """Medians: one epoch of training steps (without validation), and a prediction with index and neighbours."""

    seconds_per_epoch: float
    inference_ms_per_molecule: float


def measure(config: CompareConfig, models: Mapping[str, Path]) -> dict[str, Speed]:
    """Speed of each variant's trained model with `config.threads` threads; round after round over all variants."""
    keep_freed_memory()
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        parts = open_parts(config.data)
        runs = {
            name: _Run(load(path), parts, config.cell(name, config.seeds[0], "").training)
            for name, path in models.items()
        }
        started = time.perf_counter()
        for done in range(ROUNDS + 1):
            if done > 3 and time.perf_counter() - started > LONGEST * len(runs):
                break
            for run in runs.values():
                run.once(warm=done == 0)
        return {name: run.speed for name, run in runs.items()}
    finally:
        torch.set_num_threads(before)


class _Run:
    """A model with the batches it is timed on."""

    def __init__(self, potential: Potential, parts: Parts, training: TrainingConfig) -> None:
        self.potential = potential
        self.loss = training.loss
        self.forces = parts.forces and self.loss.force_weight > 0
        self.stress = self.loss.stress_weight > 0
        collate = Collate(potential, potential.dtype)
        sampler = StructureDataModule(parts.train, parts.val, collate, training).sampler(0)
        self.steps_per_epoch = len(sampler)
        # a full batch near the middle: the last one of an epoch is often small
        self.chosen = [parts.train[k] for k in sampler.batches[len(sampler) // 2]]
        test = parts.test if len(parts.test) else parts.val
        self.tested = [test[k] for k in range(min(len(test), TIMED))]
        self.collate = collate
        self.optimizer = torch.optim.AdamW(potential.parameters(), lr=0.0)
        self.step_seconds: list[float] = []
        self.inference_seconds: list[float] = []

    def once(self, *, warm: bool) -> None:
        """One training step and one prediction; a warm-up is not counted."""
        step, inference = _timed(self._step), _timed(self._predict)
        if not warm:
            self.step_seconds.append(step)
            self.inference_seconds.append(inference)

    def _step(self) -> None:
        self.potential.train()
        data: LabelledBatch = self.collate(self.chosen)
        wanted = {"forces": self.forces, "stress": self.stress}
        prediction = predicted(self.potential, data.batch, **wanted, generator=torch.Generator().manual_seed(0))
        more = {"stress": prediction.stress, "missing_charge": prediction.missing_charge}
        terms = loss_terms(prediction.energy, prediction.forces, data, self.loss, **more)
        terms.mean(self.loss).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _predict(self) -> None:
        self.potential.eval()
        data = self.collate(self.tested)
        with torch.no_grad():
            predicted(self.potential, data.batch, forces=self.forces, stress=self.stress)

    @property
    def speed(self) -> Speed:
        """Medians over the rounds."""
        return Speed(
            seconds_per_epoch=float(np.median(self.step_seconds)) * self.steps_per_epoch,
            inference_ms_per_molecule=1000 * float(np.median(self.inference_seconds)) / len(self.tested),
        )


def _timed(action: Callable[[], None]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
