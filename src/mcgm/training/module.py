"""The LightningModule: one step of training, one step of validation, and the learning rate."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from torch import Tensor

from mcgm.errors import ConfigError, TooLargeError, TrainingError
from mcgm.mixed import exact
from mcgm.potential import NetworkPotential, Prediction
from mcgm.splitting import Splitter
from mcgm.training.batches import LabelledBatch
from mcgm.training.config import MIXED, TrainingConfig
from mcgm.training.gradients import Differentiator, GradientSum, named, what_is_not_finite
from mcgm.training.loss import TERMS, LossTerms, label_counts, loss_terms
from mcgm.training.metrics import ErrorSums, not_finite
from mcgm.training.parts import Hierarchies, Portion, Predictor, by_structure, in_parts, predicted
from mcgm.training.ranks import gathered, raise_too_large, total
from mcgm.training.recorded import RecordedNetwork
from mcgm.training.schedule import Schedule

LEAST_JUMP = 0.01
"""Smallest relative change of the learning rate that is told of when a training is resumed."""

_log = logging.getLogger("mcgm")


class PotentialModule(lightning.LightningModule):
    """Trains a potential on energies, on forces where there are any, and on stress where that has a weight.

    Losses are normalised by the structures of all ranks together, so that two ranks give the gradient of one; a batch
    that does not fit into memory is done in parts, with the same sum.
    Chance is drawn by seed, step and structure: a resumed training draws the same, and so do ranks and parts.
    """

    def __init__(
        self, potential: NetworkPotential, config: TrainingConfig, schedule: Schedule, *, forces: bool
    ) -> None:
        super().__init__()
        self.potential = potential
        self.config = config
        self.schedule = schedule
        self.forces = forces
        self._predictor = _predictor(potential, config)
        self._recorded = _recorded(potential, config)
        self.training_splitter = Splitter("training")
        self.validation_splitter = Splitter("validation")
        self.clustering_splitter = Splitter("clustering of the training part")
        self.epoch_clusters: list[list[Hierarchies]] = []
        self.gradients: list[Tensor | None] = []
        self.clear_training()
        self.clear_validation()

    def clear_training(self) -> None:
        """Forget the errors of the training steps so far."""
        self.train_errors = ErrorSums()
        self.train_loss: list[Tensor] = []

    def training_so_far(self) -> tuple[Tensor, Tensor]:
        """Error sums and losses of the steps since the last validation, of all ranks together."""
        losses = torch.stack(self.train_loss) if self.train_loss else torch.zeros(0)
        if self.trainer.world_size > 1:
            losses = losses.clone()
            torch.distributed.all_reduce(losses)
            losses = losses / self.trainer.world_size
        return self.train_errors.reduced().sums, losses

    def load_training(self, errors: Tensor, losses: Tensor, *, share: bool) -> None:
        """Restore `training_so_far`; one rank has a share in the sums, which are of all of them."""
        self.train_errors = ErrorSums()
        self.train_errors.sums = errors.to(self.device) * share
        self.train_loss = list(losses.to(self.device))

    def clear_validation(self) -> None:
        """Forget the errors of the validation steps so far."""
        self.validation_errors = ErrorSums()
        self.validation_sums = torch.zeros(2, len(TERMS), dtype=torch.float64)
        self.validation_not_finite: list[str] = []
        self.validation_too_large = ""

    @property
    def clusters_by_epoch(self) -> bool:
        """Whether clusters are found once per epoch, `recluster="epoch"`."""
        return getattr(self.potential.specification, "recluster", "forward") == "epoch"

    def on_train_epoch_start(self) -> None:
        """With `recluster="epoch"`: cluster the epoch with the weights that it starts with."""
        self.epoch_clusters = []
        if self.clusters_by_epoch:
            self.cluster_epoch()

    def cluster_epoch(self) -> None:
        """Cluster all batches of the present epoch.

        A structure is in one batch of an epoch, so labels of batches are labels of structures (arXiv:2509.22028:
        clustering is "re-executed at each training epoch").
        """
        self.epoch_clusters = []
        too_large = ""
        try:
            for data in self.trainer.datamodule.epoch_dataloader():  # type: ignore[attr-defined]
                parts = in_parts(self.clustering_splitter, self.potential, Portion(data.to(self.device)), self.cluster)
                self.epoch_clusters.append([found for part in parts for found in part])
        except TooLargeError as error:
            too_large = str(error)
        raise_too_large(too_large)

    def cluster(self, portion: Portion) -> list[Hierarchies]:
        """The clusters of each structure, with the weights of now."""
        batch, generator = portion.data.batch, self._generator(-1 - self.current_epoch)
        with torch.no_grad():
            found = self.potential(batch, forces=False, generator=generator).clusters
        return by_structure(found, batch)

    def _generator(self, number: int) -> torch.Generator:
        """A source of chance that depends on seed and number alone; rules draw from it by structure."""
        return torch.Generator(device=self.device).manual_seed(self.config.seed * 1_000_003 + number)

    def predict_portion(self, portion: Portion) -> Prediction:
        """What a training step asks of the network, as it asks: compiled, recorded or neither, with prescribed clusters
        or not."""
        batch, filled = portion.data.batch, portion.data.filled
        if self._recorded is not None and filled is not None:
            prediction = self._recorded(batch, filled, forces=self.forces)
            if prediction is not None:
                return prediction
        stress = self.config.loss.stress_weight > 0 and batch.periodic
        options = {"clusters": portion.prescribed, "generator": self._generator(self.global_step)}
        return predicted(self._predictor, batch, forces=self.forces, stress=stress, **options)

    def training_step(self, data: LabelledBatch, batch_idx: int) -> Tensor:
        """Loss of one batch of all ranks together; keeps its gradient for `backward`.

        Raises:
            TrainingError: loss or gradient is not finite; names the structures.
            TooLargeError: a structure alone does not fit into memory.
        """
        whole = Portion(data, self.epoch_clusters[batch_idx] if self.epoch_clusters else ())
        counted = self._is_counted(batch_idx)
        charges = self.potential.has_charges
        counts = total(label_counts(data, self.config.loss, forces=self.forces, charges=charges) * counted)
        parameters = self._trained()
        differentiate = Differentiator(
            self.predict_portion, parameters, self.config.loss, counts, factor=float(counted)
        )
        step, too_large = GradientSum(parameters), ""
        try:
            for share in in_parts(self.training_splitter, self.potential, whole, differentiate):
                step.add(share)
                if counted:
                    self.train_errors.add(share.energy, share.forces, share.portion.data)
        except TooLargeError as error:
            too_large = str(error)
            step.spoil()
        step.share_among_ranks()
        step.add_penalty(self.potential.long_range.penalty())
        if not step.is_finite:
            raise_too_large(too_large)
            self._stop(what_is_not_finite(differentiate, whole), f"sum over {named(data.names)}")
        self.gradients = step.gradients
        self.train_loss.append(step.loss)
        return step.loss

    def _is_counted(self, batch_idx: int) -> bool:
        """Whether a batch is this rank's own, and not there only because other ranks have one more."""
        sampler = getattr(self.trainer.train_dataloader, "batch_sampler", None)
        return batch_idx < getattr(sampler, "counted", batch_idx + 1)

    def _trained(self) -> list[Tensor]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Hand the gradient that the step has found to the optimiser; called by Lightning."""
        for parameter, gradient in zip(self._trained(), self.gradients, strict=True):
            parameter.grad = gradient
        self.gradients = []

    def _stop(self, what: str, otherwise: str) -> None:
        found = " and ".join(dict.fromkeys(gathered(what))) or otherwise
        lost = any(not bool(torch.isfinite(parameter).all()) for parameter in self.parameters())
        cause = " The weights are not finite any more: the last step was too long." if lost else ""
        raise TrainingError(
            f"step {self.global_step}: {found} not finite; training stopped.{cause} Look at these structures with "
            f"`mcgm data inspect`, lower training.learning_rate, or set training.clip.{_kept(self.trainer)}"
        )

    def validation_step(self, data: LabelledBatch, batch_idx: int) -> None:
        """Add the errors of one batch; what is wrong is told when all ranks are through, see `validation_loss`."""

        def predict(portion: Portion) -> tuple[Prediction, LabelledBatch]:
            part = portion.data
            with exact(self.device):  # as the saved network will be
                stress = bool(part.has_stress.any())
                return predicted(self.potential, part.batch, forces=self.forces, stress=stress), part

        try:
            for prediction, part in in_parts(self.validation_splitter, self.potential, Portion(data), predict):
                self._validated(prediction, part)
        except TooLargeError as error:
            self.validation_too_large = str(error)
            self.validation_sums = self.validation_sums * torch.nan

    def _validated(self, prediction: Prediction, data: LabelledBatch) -> None:
        more = {"charges": prediction.charges, "dipole": prediction.dipole, "stress": prediction.stress}
        self.validation_errors.add(prediction.energy, prediction.forces, data, **more)
        more["missing_charge"] = prediction.missing_charge
        terms = loss_terms(prediction.energy, prediction.forces, data, self.config.loss, **more)
        sums = torch.stack([terms.sums, terms.counts]).detach()
        self.validation_sums = self.validation_sums.to(sums.device) + sums
        self.validation_not_finite += not_finite(prediction, data)

    def validation_loss(self) -> float:
        """Loss over the whole validation set, of all ranks together.

        Raises:
            TrainingError: it is not finite; names the structures.
            TooLargeError: a structure alone does not fit into memory.
        """
        sums = total(self.validation_sums)
        loss = float(LossTerms(sums[0], sums[1]).mean(self.config.loss))
        if not math.isfinite(loss):
            raise_too_large(self.validation_too_large)
            names = self.validation_not_finite
            self._stop(f"predictions for {named(names)} (validation)" if names else "", "validation loss")
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW on all parameters that are not frozen; the rate is set before every step."""
        return torch.optim.AdamW(self._trained(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the learning rate of this step, and torch's own generator: some network may draw from it.

        Weight decay too: an optimiser that was restored has that of the recipe before.
        """
        torch.manual_seed(self._generator(self.global_step).initial_seed() + self.global_rank)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self._learning_rate(self.global_step)
            group["weight_decay"] = self.config.weight_decay

    def _learning_rate(self, step: int) -> float:
        return self.config.learning_rate * self.schedule.factor(step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the schedule's state, the rate of the next step, and how large a batch has been found to fit."""
        checkpoint["learning_rate"] = self._learning_rate(self.global_step)
        checkpoint["schedule"] = self.schedule.state_dict()
        checkpoint["fits_atoms"] = {"train": self.training_splitter.limit, "val": self.validation_splitter.limit}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what `on_save_checkpoint` kept; a warning tells of a learning rate that other settings make jump."""
        self.schedule.load_state_dict(checkpoint["schedule"])
        step = checkpoint["global_step"]
        now = self._learning_rate(step)
        before = checkpoint.get("learning_rate", now)
        if not math.isclose(now, before, rel_tol=LEAST_JUMP) and self.trainer.is_global_zero:
            _log.warning(
                "resumed with other settings: the learning rate of step %d is %.3g now, and was to be %.3g. It follows "
                "training.epochs (or steps), learning_rate and schedule: give those of before to leave it as it was.",
                step,
                now,
                before,
            )
        fits = checkpoint.get("fits_atoms", {})
        self.training_splitter.limit, self.validation_splitter.limit = fits.get("train"), fits.get("val")

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a labelled batch (Lightning's own way refuses frozen dataclasses)."""
        return batch.to(device)


def _predictor(potential: NetworkPotential, config: TrainingConfig) -> Predictor:
    """What training steps ask; a method, so that weights that are shared are not registered twice."""
    if not config.compile:
        return potential.forward
    if config.precision == MIXED:
        raise ConfigError(
            f"training.compile with training.precision: {MIXED} is not supported; required: compile: false, or "
            "precision: float32."
        )
    if potential.specification.has_labels and getattr(potential.specification, "recluster", "forward") != "epoch":
        raise ConfigError(
            "training.compile: this block looks for clusters in every step, which depends on values. Use the smooth "
            "preset (long_range: mcgm), or recluster: epoch in model.long_range_options."
        )
    from mcgm.compiled import CompiledPotential

    return CompiledPotential(potential).forward


def has_gpu(config: TrainingConfig) -> bool:
    """Whether the training runs on one."""
    return config.accelerator != "cpu" and torch.cuda.is_available()


def _recorded(potential: NetworkPotential, config: TrainingConfig) -> RecordedNetwork | None:
    """What replays training steps, where that is asked for."""
    if not config.cuda_graphs:
        return None
    if not has_gpu(config):
        raise ConfigError("training.cuda_graphs needs a GPU, and there is none here. Leave it out.")
    if config.compile or config.precision == MIXED:
        other = "compile" if config.compile else f"precision: {MIXED}"
        raise ConfigError(f"training.cuda_graphs with training.{other} is not supported; required: one of the two.")
    specification = potential.specification
    looks = any(block.has_labels for block in getattr(specification, "blocks", (specification,)))
    if looks or potential.has_charges:
        what = "looks for clusters in every step" if looks else "sums charges structure by structure"
        raise ConfigError(
            f"training.cuda_graphs: this block {what}, which cannot be recorded. Use long_range: mcgm_oriented or mcgm."
        )
    return RecordedNetwork(potential)


def _kept(trainer: lightning.Trainer) -> str:
    """What is left of the training so far."""
    folder = Path(trainer.default_root_dir)
    kept = [name for name in ("model.safetensors", "last.ckpt") if (folder / name).exists()]
    return f" {' and '.join(kept)} in {folder}: as they were before." if kept else ""
