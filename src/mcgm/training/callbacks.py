"""What happens around the steps: averaged weights, records, the best model, and the reporter."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from torch import Tensor

from mcgm.report.files import write_whole
from mcgm.report.result import CurvePoint
from mcgm.training.metrics import ErrorSums
from mcgm.training.module import PotentialModule
from mcgm.training.progress import Reporter, State
from mcgm.training.stability import COLUMN, ClusterStability

BAR_EVERY = 5
"""steps between two updates of the running errors."""


class WarmedAveraging(WeightAveraging):
    """Exponential moving average of the weights; early on the decay is min(decay, (1 + n) / (10 + n)) after n steps.

    Validation and the saved model use the average.
    """

    def __init__(self, decay: float) -> None:
        def average(averaged: Tensor, current: Tensor, number: Tensor | int) -> Tensor:
            n = float(number)
            return averaged.lerp(current.to(averaged.dtype), 1 - min(decay, (1 + n) / (10 + n)))

        super().__init__(use_buffers=False, avg_fn=average)


class Recorder(Callback):
    """After every validation: a row in `metrics.csv`, the best model to `model.safetensors`, early stopping.

    Best is the lowest validation loss. Must stand before the weight averaging among the callbacks: it sees the
    averaged weights then.
    """

    def __init__(
        self,
        folder: Path,
        reporter: Reporter | None,
        *,
        total_steps: int,
        early_stopping: int | None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.extra = extra
        self.reporter = reporter
        self.total_steps = total_steps
        self.early_stopping = early_stopping
        self.rows: list[dict[str, Any]] = []
        self.best = float("inf")
        self.waited = 0
        self.started = time.monotonic()
        self.spent = 0.0
        self.stability = ClusterStability()

    @property
    def seconds(self) -> float:
        """Wall time of training so far, also of the parts before a resume."""
        return self.spent + time.monotonic() - self.started

    @property
    def curves(self) -> tuple[CurvePoint, ...]:
        """The rows as the report wants them."""
        return tuple(_curve_point(row) for row in self.rows)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock; a training that had stopped early stays stopped."""
        self.started = time.monotonic()
        trainer.should_stop |= self._waited_long_enough()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the running errors."""
        reporter = self._reporter(trainer)
        if reporter is not None and reporter.wants_steps and trainer.global_step % BAR_EVERY == 0:
            reporter.step(self._state(trainer, pl_module.train_errors))

    def on_validation_epoch_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Start counting from zero."""
        pl_module.clear_validation()

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Record, keep the best, decide on going on."""
        loss = pl_module.validation_loss()
        errors = pl_module.validation_errors.reduced()
        pl_module.schedule.observe(loss)
        data = trainer.datamodule  # type: ignore[attr-defined]
        stability = self.stability.observe(pl_module.potential, data.val, data.collate)
        self.rows.append(self._row(trainer, pl_module, loss, errors) | stability)
        pl_module.clear_training()
        self.waited = 0 if loss < self.best else self.waited + 1
        if trainer.is_global_zero:
            self._write(trainer, pl_module, improved=loss < self.best)
        self.best = min(loss, self.best)
        if (reporter := self._reporter(trainer)) is not None:
            reporter.epoch(self._state(trainer, errors))
        trainer.should_stop |= self._waited_long_enough()

    def _reporter(self, trainer: lightning.Trainer) -> Reporter | None:
        """One rank speaks for all."""
        return self.reporter if trainer.is_global_zero else None

    def _waited_long_enough(self) -> bool:
        return self.early_stopping is not None and self.waited >= self.early_stopping

    def _row(
        self, trainer: lightning.Trainer, pl_module: PotentialModule, loss: float, errors: ErrorSums
    ) -> dict[str, Any]:
        validation = errors.metrics()
        train = pl_module.train_errors.reduced().metrics()
        losses = torch.stack(pl_module.train_loss).mean()
        if trainer.world_size > 1:
            torch.distributed.all_reduce(losses)
            losses = losses / trainer.world_size
        return {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "seconds": round(self.seconds, 3),
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "train_loss": float(losses),
            "val_loss": loss,
            "train_energy_mae_mev": train.energy_mae_mev,
            "train_force_mae_mev_per_A": train.force_mae_mev_per_A,
            "val_energy_mae_mev": validation.energy_mae_mev,
            "val_energy_mae_mev_per_atom": validation.energy_mae_mev_per_atom,
            "val_force_mae_mev_per_A": validation.force_mae_mev_per_A,
            "val_stress_mae_mev_per_A3": validation.stress_mae_mev_per_A3,
        }

    def _write(self, trainer: lightning.Trainer, pl_module: PotentialModule, *, improved: bool) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(self.rows[-1]))
        writer.writeheader()
        writer.writerows(self.rows)
        write_whole(self.folder / "metrics.csv", text.getvalue().encode())
        numbers = {key: value for key, value in self.rows[-1].items() if value is not None}
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=trainer.global_step)
        if improved:
            pl_module.potential.save(self.folder / "model.safetensors", extra=self.extra)

    def _state(self, trainer: lightning.Trainer, errors: ErrorSums) -> State:
        metrics = errors.metrics()
        return State(
            epoch=trainer.current_epoch + 1,
            step=trainer.global_step,
            total_steps=self.total_steps,
            energy_mae_mev=metrics.energy_mae_mev,
            force_mae_mev_per_A=metrics.force_mae_mev_per_A,
            seconds=self.seconds,
        )

    def state_dict(self) -> dict[str, Any]:
        """What must be restored to go on as before."""
        labels = self.stability.labels
        return {"rows": self.rows, "best": self.best, "waited": self.waited, "spent": self.seconds, "labels": labels}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.rows, self.best, self.waited = state_dict["rows"], state_dict["best"], state_dict["waited"]
        self.spent = state_dict["spent"]
        self.stability.labels = state_dict.get("labels")


def _curve_point(row: dict[str, Any]) -> CurvePoint:
    indices = {int(key.removeprefix(COLUMN)): row[key] for key in row if key.startswith(COLUMN)}
    known = {level: value for level, value in indices.items() if value is not None}
    plain = {key: row[key] for key in CurvePoint.__dataclass_fields__ if key in row}
    return CurvePoint(**plain, rand_index=tuple(known.values()), rand_index_levels=tuple(known))
