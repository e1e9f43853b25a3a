"""`last.ckpt` after every epoch and every few minutes: what `--resume` goes on from, with the same result."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor


class LastCheckpoint(Checkpoint):
    """Writes `last.ckpt`, whole or not at all, and restores what an epoch has gathered when it is resumed midway.

    `minutes` is the time between two checkpoints within an epoch (0: every step; `None`: none).
    """

    def __init__(self, folder: Path, minutes: float | None = None) -> None:
        self.path = folder / "last.ckpt"
        self.minutes = minutes
        self.written = time.monotonic()
        self.resumed: dict[str, Any] | None = None
        self.epoch_weights: dict[str, Tensor] | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Give back the errors of the unfinished epoch, and find its clusters again."""
        self.written = time.monotonic()
        state, self.resumed = self.resumed, None
        if state is None or trainer.datamodule.batches_done(trainer.current_epoch) == 0:  # type: ignore[attr-defined]
            return
        pl_module.load_training(state["errors"], state["losses"], share=trainer.is_global_zero)
        self.epoch_weights = state["weights"]
        if self.epoch_weights is not None:
            current = _copy(pl_module.potential)
            pl_module.potential.load_state_dict(self.epoch_weights)
            pl_module.cluster_epoch()
            pl_module.potential.load_state_dict(current)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Keep the weights that an epoch is clustered with."""
        self.epoch_weights = _copy(pl_module.potential) if pl_module.clusters_by_epoch else None

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is time; not after the last batch, whose validation is about to come."""
        if self.minutes is None or batch_idx + 1 >= trainer.num_training_batches:
            return
        due = time.monotonic() - self.written >= 60 * self.minutes
        if trainer.world_size > 1:
            due = trainer.strategy.reduce_boolean_decision(due, all=False)
        if due:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save the finished epoch."""
        self.epoch_weights = None
        self._save(trainer)

    def on_save_checkpoint(self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add what the epoch has gathered so far."""
        errors, losses = pl_module.training_so_far()
        checkpoint["epoch_so_far"] = {"errors": errors, "losses": losses, "weights": self.epoch_weights}

    def on_load_checkpoint(self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Keep it until everything else is restored."""
        self.resumed = checkpoint.get("epoch_so_far")

    def _save(self, trainer: lightning.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self.written = time.monotonic()


def _copy(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
