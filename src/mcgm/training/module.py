"""The LightningModule: one step of training, one step of validation, and the learning rate."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as lightning
import torch
from torch import Tensor

from mcgm.errors import TrainingError
from mcgm.long_range.mcgm.assignment import Assignment
from mcgm.potential import Potential
from mcgm.training.batches import LabelledBatch
from mcgm.training.config import TrainingConfig
from mcgm.training.loss import LossTerms, loss_terms
from mcgm.training.metrics import ErrorSums
from mcgm.training.schedule import Schedule


class PotentialModule(lightning.LightningModule):
    """Trains a potential on energies, and on forces where there are any.

    Losses are normalised by the structures of all ranks together, so that two ranks give the gradient of one.
    Chance is drawn from a generator seeded by seed, step and rank: a resumed training draws the same.
    """

    def __init__(self, potential: Potential, config: TrainingConfig, schedule: Schedule, *, forces: bool) -> None:
        super().__init__()
        self.potential = potential
        self.config = config
        self.schedule = schedule
        self.forces = forces
        self.epoch_clusters: list[tuple[tuple[Assignment, ...], ...]] = []
        self.clear_training()
        self.clear_validation()

    def clear_training(self) -> None:
        """Forget the errors of the training steps so far."""
        self.train_errors = ErrorSums()
        self.train_loss: list[Tensor] = []

    def clear_validation(self) -> None:
        """Forget the errors of the validation steps so far."""
        self.validation_errors = ErrorSums()
        self.validation_sums = torch.zeros(2, 2, dtype=torch.float64)

    def on_train_epoch_start(self) -> None:
        """With `recluster="epoch"`: cluster all batches of the epoch with the weights that it starts with.

        A structure is in one batch of an epoch, so labels of batches are labels of structures (arXiv:2509.22028:
        clustering is "re-executed at each training epoch").
        """
        self.epoch_clusters = []
        if getattr(self.potential.specification, "recluster", "forward") != "epoch":
            return
        generator = self._generator(-1 - self.current_epoch)
        for data in self.trainer.train_dataloader or ():
            batch = data.to(self.device).batch
            with torch.no_grad():
                layers = self.potential(batch, forces=False, generator=generator).clusters
            self.epoch_clusters.append(tuple(tuple(level.assignment for level in layer) for layer in layers))

    def _generator(self, number: int) -> torch.Generator:
        """A source of chance that depends on seed, number and rank alone."""
        seed = (self.config.seed * 1_000_003 + number) * self.trainer.world_size + self.global_rank
        return torch.Generator(device=self.device).manual_seed(seed)

    def training_step(self, data: LabelledBatch, batch_idx: int) -> Tensor:
        """Loss of one batch.

        Raises:
            TrainingError: the loss is not finite; names the structures.
        """
        prediction = self.potential(
            data.batch,
            forces=self.forces,
            clusters=self.epoch_clusters[batch_idx] if self.epoch_clusters else None,
            generator=self._generator(self.global_step),
        )
        terms = loss_terms(prediction.energy, prediction.forces, data, self.config.loss)
        counts = terms.counts.clone()
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(counts)
        loss = terms.mean(self.config.loss, counts) * self.trainer.world_size
        if not torch.isfinite(loss):
            raise TrainingError(_not_finite(prediction.energy, data, self.global_step))
        self.train_errors.add(prediction.energy, prediction.forces, data)
        self.train_loss.append(loss.detach())
        return loss

    def validation_step(self, data: LabelledBatch, batch_idx: int) -> None:
        """Add the errors of one batch."""
        prediction = self.potential(data.batch, forces=self.forces)
        self.validation_errors.add(prediction.energy, prediction.forces, data)
        terms = loss_terms(prediction.energy, prediction.forces, data, self.config.loss)
        sums = torch.stack([terms.sums, terms.counts]).detach()
        self.validation_sums = self.validation_sums.to(sums.device) + sums

    def validation_loss(self) -> float:
        """Loss over the whole validation set, of all ranks together."""
        sums = self.validation_sums.clone()
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(sums)
        return float(LossTerms(sums[0], sums[1]).mean(self.config.loss))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW on all parameters; the rate is set before every step."""
        return torch.optim.AdamW(self.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the learning rate of this step."""
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.config.learning_rate * self.schedule.factor(self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the schedule's state."""
        checkpoint["schedule"] = self.schedule.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the schedule's state."""
        self.schedule.load_state_dict(checkpoint["schedule"])

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a labelled batch (Lightning's own way refuses frozen dataclasses)."""
        return batch.to(device)


def _not_finite(energy: Tensor, data: LabelledBatch, step: int) -> str:
    bad = torch.flatten(torch.nonzero(~torch.isfinite(energy))).tolist()
    names = [data.names[k] for k in bad] or list(data.names)
    what = "energies" if bad else "the loss (forces or labels)"
    shown = ", ".join(repr(name) for name in names[:5]) + (" ..." if len(names) > 5 else "")
    return (
        f"step {step}: {what} of {shown} not finite; training stopped. Look at these structures with "
        "`mcgm data inspect`, lower training.learning_rate, or set training.clip."
    )
