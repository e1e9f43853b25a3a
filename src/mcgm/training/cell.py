"""One cell of a comparison: one variant with one seed, trained and tested in a process of its own."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mcgm
from mcgm import provenance
from mcgm.errors import ConfigError, MCGMError
from mcgm.files import LOCK, claimed
from mcgm.training.config import CompareConfig, TrainConfig
from mcgm.training.recipe import as_plain, to_config


def cell_name(variant: str, seed: int) -> str:
    """Name of a cell's files."""
    return f"{variant}-seed{seed}"


def cell_settings(config: CompareConfig, variant: str, seed: int) -> dict[str, Any]:
    """Every setting that decides the result of a cell, plain values; a finished cell with the same is not run again."""
    return deciding_settings(config.cell(variant, seed, ""))


def deciding_settings(config: TrainConfig) -> dict[str, Any]:
    """Every setting that decides the result of a training, plain values."""
    settings = as_plain(config)
    del settings["output"], settings["training"]["checkpoint_minutes"]
    return settings


def run_cell(config: CompareConfig, variant: str, seed: int, output: Path) -> None:
    """Train (resuming where it stopped) and write result, predictions and clusters into `output/cells`."""
    import torch

    from mcgm.report.predictions import save_molecules
    from mcgm.report.result import RunResult
    from mcgm.training.clusters import clustered_molecules
    from mcgm.training.evaluation import evaluate
    from mcgm.training.fit import count_parameters, train
    from mcgm.training.preparation import files_of
    from mcgm.training.progress import JsonReporter

    torch.set_num_threads(config.threads)
    name, cells = cell_name(variant, seed), output / "cells"
    recipe = config.cell(variant, seed, str(output / "runs" / name))
    files = files_of(recipe.data)
    _forget_another(recipe, files)
    trained = train(recipe, Path(recipe.output), resume=True, reporter=JsonReporter())
    test = trained.parts.test if len(trained.parts.test) else trained.parts.val
    evaluation = evaluate(trained.potential, test)
    evaluation.predictions.save(cells / f"{name}.npz")
    save_molecules(cells / f"{name}.clusters.json", clustered_molecules(trained.potential, test))
    result = RunResult(
        variant=variant,
        label=config.label_of(variant),
        backbone=recipe.model.backbone,
        long_range=recipe.model.long_range,
        dataset=config.data.title,
        seed=seed,
        parameters=count_parameters(trained.potential),
        metrics=evaluation.metrics,
        seconds_per_epoch=trained.seconds / max(1, len(trained.curves)),
        reference=config.reference_of(variant),
        curves=trained.curves,
        peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        predictions=f"{name}.npz",
        clusters=f"{name}.clusters.json",
        commit=provenance.commit() or f"mcgm {mcgm.__version__}",
        command=os.environ.get("MCGM_COMMAND", "mcgm compare"),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine(config.threads),
        config=cell_settings(config, variant, seed),
        data=files,
        part="test" if len(trained.parts.test) else "validation",
    )
    result.save(cells / f"{name}.json")


def _forget_another(recipe: TrainConfig, files: Mapping[str, Any]) -> None:
    """Remove a training with other settings or data, which must not be gone on with."""
    from mcgm.training.fit import data_of
    from mcgm.training.preparation import have_changed

    folder = Path(recipe.output)
    path = folder / "recipe.json"
    if not path.exists():
        return
    try:
        earlier = to_config(json.loads(path.read_text(encoding="utf-8")), TrainConfig, source=str(path))
        is_same = deciding_settings(earlier) == deciding_settings(recipe)
    except (ConfigError, ValueError):
        is_same = False
    if not is_same or have_changed(data_of(folder), files):
        with claimed(folder / LOCK, str(folder)):
            for item in folder.iterdir():
                if item.is_dir():
                    shutil.rmtree(item)
                elif item.name != LOCK:
                    item.unlink()


def machine(threads: int) -> Mapping[str, Any]:
    """Processor, cores, threads that were used, and versions."""
    found = provenance.machine()
    return {"cpu": found.pop("processor"), "threads": threads} | found


def main(arguments: list[str]) -> int:
    """`python -m mcgm.training.cell RECIPE VARIANT SEED OUTPUT`, as `mcgm compare` calls it."""
    recipe, variant, seed, output = arguments
    config = to_config(json.loads(Path(recipe).read_text(encoding="utf-8")), CompareConfig, source=recipe)
    run_cell(config, variant, int(seed), Path(output))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except MCGMError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
