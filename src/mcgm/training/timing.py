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
from mcgm.potential import NetworkPotential
from mcgm.training.batches import Collate
from mcgm.training.config import MIXED, CompareConfig, TrainingConfig
from mcgm.training.datamodule import StructureDataModule
from mcgm.training.gradients import Differentiator
from mcgm.training.loss import label_counts
from mcgm.training.module import PotentialModule, has_gpu
from mcgm.training.parts import Portion, predicted
from mcgm.training.preparation import Parts, open_parts
from mcgm.training.schedule import make_schedule

ROUNDS = 15
FEWEST = 3
LONGEST = 8.0
"""seconds per variant, after the fewest rounds."""

TIMED = 32
"""test structures in the batch that inference is timed on."""


@dataclass(frozen=True)
class Speed:
    """Medians: one epoch of training steps (without validation), and a prediction with index and neighbours."""

    seconds_per_epoch: float
    inference_ms_per_molecule: float


def measure(config: CompareConfig, models: Mapping[str, Path]) -> dict[str, Speed]:
    """Speed of each variant's trained model with `config.threads` threads; round after round over all variants.

    Steps are those of its training: in its precision, compiled where that is, with clusters once per epoch where they
    are found so, on its device. Predictions are those of the saved network.
    """
    keep_freed_memory()
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        parts = open_parts(config.data)
        runs = {
            name: _Run(path, parts, config.cell(name, config.seeds[0], "").training) for name, path in models.items()
        }
        for run in runs.values():
            run.warm_up()
        started = time.perf_counter()
        for done in range(ROUNDS):
            if done >= FEWEST and time.perf_counter() - started > LONGEST * len(runs):
                break
            for run in runs.values():
                run.once()
        return {name: run.speed for name, run in runs.items()}
    finally:
        torch.set_num_threads(before)


class _Run:
    """A model with the batches it is timed on, trained as its recipe says: precision, compilation, clusters, device."""

    def __init__(self, path: Path, parts: Parts, training: TrainingConfig) -> None:
        potential = load(path, device=_device(training))
        assert isinstance(potential, NetworkPotential)
        self.training = training
        forces = parts.forces and training.loss.force_weight > 0
        collate = Collate(potential, potential.dtype)
        data = StructureDataModule(parts.train, parts.val, collate, training)
        sampler = data.sampler(0)
        self.steps_per_epoch = len(sampler)
        schedule = make_schedule(training.schedule, self.steps_per_epoch)
        self.module = PotentialModule(potential, training, schedule, forces=forces).to(potential.device)
        # a full batch near the middle: the last one of an epoch is often small
        self.chosen = [parts.train[k] for k in sampler.batches[len(sampler) // 2]]
        test = parts.test if len(parts.test) else parts.val
        self.tested = [test[k] for k in range(min(len(test), TIMED))]
        self.collate, self.training_collate = collate, data.training_collate
        self.parameters = [parameter for parameter in potential.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=0.0)
        self.step_seconds: list[float] = []
        self.inference_seconds: list[float] = []

    def warm_up(self) -> None:
        """What is not counted: first calls, and compiling, which the second one does."""
        for _ in range(2 if self.training.compile else 1):
            self._step()
        self._predict()

    def once(self) -> None:
        """One training step and one prediction."""
        self.step_seconds.append(self._seconds(self._step))
        self.inference_seconds.append(self._seconds(self._predict))

    def _step(self) -> None:
        module, loss = self.module, self.training.loss
        module.train()
        data = self.training_collate(self.chosen).to(module.device)
        clusters = module.cluster(Portion(data)) if module.clusters_by_epoch else ()
        counts = label_counts(data, loss, forces=module.forces, charges=module.potential.has_charges)
        differentiate = Differentiator(module.predict_portion, self.parameters, loss, counts)
        with torch.autocast(module.device.type, torch.bfloat16, enabled=self.training.precision == MIXED):
            share = differentiate(Portion(data, clusters))
        for parameter, gradient in zip(self.parameters, share.gradients, strict=True):
            parameter.grad = gradient
        if self.training.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.training.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _predict(self) -> None:
        module = self.module
        module.eval()
        data = self.collate(self.tested).to(module.device)
        stress = self.training.loss.stress_weight > 0 and data.batch.periodic
        with torch.no_grad():
            predicted(module.potential, data.batch, forces=module.forces, stress=stress)

    def _seconds(self, action: Callable[[], None]) -> float:
        started = time.perf_counter()
        action()
        if self.module.device.type == "cuda":
            torch.cuda.synchronize(self.module.device)
        return time.perf_counter() - started

    @property
    def speed(self) -> Speed:
        """Medians over the rounds."""
        return Speed(
            seconds_per_epoch=float(np.median(self.step_seconds)) * self.steps_per_epoch,
            inference_ms_per_molecule=1000 * float(np.median(self.inference_seconds)) / len(self.tested),
        )


def _device(training: TrainingConfig) -> str:
    """Where these settings train."""
    return "cuda" if has_gpu(training) else "cpu"
