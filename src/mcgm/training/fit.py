"""Training from a recipe to a model file: what `mcgm train` and every cell of `mcgm compare` run."""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mcgm.checkpoint import load
from mcgm.errors import ConfigError
from mcgm.memory import bounded_memory, keep_freed_memory
from mcgm.potential import Potential
from mcgm.report.files import write_whole
from mcgm.report.result import CurvePoint
from mcgm.training.batches import Collate
from mcgm.training.callbacks import Recorder, WarmedAveraging
from mcgm.training.checks import require_sound
from mcgm.training.config import MIXED, TrainConfig, TrainingConfig
from mcgm.training.datamodule import StructureDataModule
from mcgm.training.evaluation import Evaluation, evaluate
from mcgm.training.module import PotentialModule
from mcgm.training.preparation import Parts, files_of, have_changed, make_potential, open_parts
from mcgm.training.progress import Reporter
from mcgm.training.ranks import claimed_together
from mcgm.training.recipe import as_plain, to_config
from mcgm.training.resuming import LastCheckpoint
from mcgm.training.schedule import make_schedule
from mcgm.training.state import StateFile, read_state
from mcgm.training.strategy import ReplicatedStrategy

MOST_CHARGES = 20
"""Total charges of structures to train on that a model file names."""

DATA = "data.json"
"""In a training's folder: its data files with their fingerprints."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A finished training: the best potential in evaluation mode, its data, and how it came about."""

    potential: Potential
    parts: Parts
    curves: tuple[CurvePoint, ...]
    seconds: float
    is_main: bool


def train(config: TrainConfig, output: Path, *, resume: bool = False, reporter: Reporter | None = None) -> Trained:
    """Train, writing into a folder: `model.safetensors` (best averaged weights), `metrics.csv`, `last.ckpt`, recipe.

    With `resume` it goes on from the last checkpoint, with the same result as if it had never stopped; without, the
    folder must not hold a training. Several `seeds` make a committee, see `mcgm.training.committee`.

    Raises:
        CheckpointError: the checkpoint to go on from is damaged.
        ConfigError: the folder holds a training, or one of another recipe; or a setting is wrong.
        DataError: the data cannot be used.
        TrainingError: the loss is not finite.
        TooLargeError: a structure does not fit into memory, even alone.
    """
    from mcgm.training.committee import MEMBERS, train_committee

    require_sound(config)
    if config.seeds > 1:
        return train_committee(config, output, resume=resume, reporter=reporter)
    if (output / MEMBERS).exists():
        raise ConfigError(f"{output}: holds the training of a committee. Give its --seeds, or use another -o.")
    return train_alone(config, output, resume=resume, reporter=reporter)


def train_alone(
    config: TrainConfig, output: Path, *, resume: bool = False, reporter: Reporter | None = None
) -> Trained:
    """Train one network, whatever `seeds` says; see `train`."""
    keep_freed_memory()
    parts = open_parts(config.data)
    with claimed_together(output):
        return _train(config, parts, output, resume=resume, reporter=reporter)


def _train(config: TrainConfig, parts: Parts, output: Path, *, resume: bool, reporter: Reporter | None) -> Trained:
    checkpoint = _start(config, output, resume=resume)
    potential = make_potential(config, parts)
    settings = config.training
    data = StructureDataModule(parts.train, parts.val, Collate(potential, potential.dtype), settings)
    steps = len(data.sampler(0, ranks=settings.devices * settings.num_nodes))
    epochs = settings.epochs if settings.steps is None else math.ceil(settings.steps / steps)
    if checkpoint is not None:
        _require_no_more(checkpoint, epochs)
    write_recipe(config, output)
    schedule = make_schedule(settings.schedule, epochs * steps)
    forces = parts.forces and settings.loss.force_weight > 0
    loss = settings.loss
    if not (forces or any((loss.energy_weight, loss.charge_weight, loss.dipole_weight, loss.stress_weight))):
        raise ConfigError("training.loss: only forces have a weight, and no structure to train on has any.")
    module = PotentialModule(potential, settings, schedule, forces=forces)
    charges = np.unique(parts.train.total_charges).tolist()
    recorder = Recorder(
        output,
        reporter,
        total_steps=epochs * steps,
        early_stopping=settings.early_stopping,
        extra={
            "recipe": as_plain(config),
            "total_charges": charges[:MOST_CHARGES],
        },
    )
    with quiet(), torch.random.fork_rng(devices=[]), bounded_memory(processes=settings.devices):
        trainer = make_trainer(settings, output, recorder, epochs=epochs)
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    if reporter is not None:
        reporter.close()
    best = load(output / "model.safetensors")
    return Trained(best, parts, recorder.curves, recorder.seconds, trainer.is_global_zero)


def make_trainer(settings: TrainingConfig, output: Path, recorder: Recorder, *, epochs: int) -> lightning.Trainer:
    """Lightning's Trainer with this package's callbacks, and nothing printed.

    Raises:
        ConfigError: no such processors here.
    """
    try:
        return _trainer(settings, output, recorder, epochs=epochs)
    except MisconfigurationException as error:
        words = f"training.accelerator is {settings.accelerator!r}, devices {settings.devices}"
        raise ConfigError(f"{words}: cannot be used here ({error}). Use accelerator: auto, or cpu.") from error


def _trainer(settings: TrainingConfig, output: Path, recorder: Recorder, *, epochs: int) -> lightning.Trainer:
    averaging = [WarmedAveraging(settings.ema)] if settings.ema is not None else []
    ranks = settings.devices * settings.num_nodes
    return lightning.Trainer(
        max_epochs=epochs,
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        precision="bf16-mixed" if settings.precision == MIXED else None,
        strategy=ReplicatedStrategy() if ranks > 1 else "auto",
        gradient_clip_val=settings.clip,
        callbacks=[recorder, *averaging, LastCheckpoint(output, settings.checkpoint_minutes)],
        plugins=[StateFile()],
        logger=_logger(settings, output),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        reload_dataloaders_every_n_epochs=1,
        inference_mode=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=output,
    )


def _logger(settings: TrainingConfig, output: Path) -> Any:
    if not settings.tensorboard:
        return False
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(output, name="", version="tensorboard")


def _start(config: TrainConfig, output: Path, *, resume: bool) -> Path | None:
    """The checkpoint to go on from, if any, after a look at what is there."""
    checkpoint, recipe = output / "last.ckpt", output / "recipe.json"
    if resume and recipe.exists():
        require_same_settings(config, recipe)
        if checkpoint.exists() and (changed := have_changed(data_of(output), files_of(config.data))):
            raise ConfigError(f"{output}: {changed[0]} has changed since its training began. Use another -o.")
    elif checkpoint.exists():
        raise ConfigError(f"{output}: already holds a training. Go on with --resume, or use another -o.")
    return checkpoint if resume and checkpoint.exists() else None


def write_recipe(config: TrainConfig, output: Path) -> None:
    """Settings and fingerprints of the data, which a resume compares."""
    write_whole(output / "recipe.json", (json.dumps(as_plain(config), indent=1) + "\n").encode())
    write_whole(output / DATA, (json.dumps(files_of(config.data), indent=1) + "\n").encode())


def _require_no_more(checkpoint: Path, epochs: int) -> None:
    """Refuse to go on with a training that has more epochs already than are asked for."""
    epoch = int(read_state(checkpoint)["epoch"]) + 1
    if epoch > epochs:
        raise ConfigError(
            f"{checkpoint.parent}: is in epoch {epoch} already; {epochs} are asked for. Ask for at least as many, or "
            "use another -o."
        )


def data_of(output: Path) -> dict[str, Any]:
    """The data files of the training in a folder with their fingerprints; empty where it does not say."""
    try:
        found = json.loads((output / DATA).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def require_same_settings(config: TrainConfig, recipe: Path) -> None:
    """Refuse to go on with another training than the one whose recipe this is.

    Raises:
        ConfigError: other data, another model or one to start from, or another loss, whose least value so far would
            mean nothing.
    """
    content = as_plain(config)
    earlier = as_plain(to_config(json.loads(recipe.read_text(encoding="utf-8")), TrainConfig, source=str(recipe)))
    for section in ("data", "model", "start"):
        if earlier[section] != content[section]:
            raise ConfigError(f"{recipe.parent}: its training has other settings in {section!r}. Use another -o.")
    for key in ("loss", "precision", "freeze", "seed"):
        if earlier["training"][key] != content["training"][key]:
            raise ConfigError(f"{recipe.parent}: its training has another training.{key}. Use another -o.")


@contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's advice on hardware, workers and rivals of its own data loaders."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            warnings.filterwarnings("ignore", module=r"torch\..*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def final_metrics(trained: Trained, output: Path) -> dict[str, Evaluation]:
    """Errors of the finished model on validation and test part, also written to `metrics.json`."""
    parts = {"val": trained.parts.val, "test": trained.parts.test}
    found = {name: evaluate(trained.potential, part) for name, part in parts.items() if len(part)}
    values = {name: evaluation.plain for name, evaluation in found.items()}
    write_whole(output / "metrics.json", (json.dumps(values, indent=1) + "\n").encode())
    return found


def count_parameters(module: torch.nn.Module) -> int:
    """Number of trained parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
