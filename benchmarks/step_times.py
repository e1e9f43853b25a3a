"""What the cells of a suite cost: processor time of a training step of every variant, and of all its steps together.

python benchmarks/step_times.py oe62 aqm [--rounds 3] [--cutoff 6]

Measured on molecules of the bundled sample that have as many atoms as OE62 and AQM have on average, on one core.
Nothing is trained: the weights are fresh. Variants that are in the suite's file are not measured again; another cutoff
than the suite's has a file of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from side_by_side import RESULTS, write

from mcgm.data import Dataset
from mcgm.memory import keep_freed_memory
from mcgm.provenance import provenance
from mcgm.registry import build
from mcgm.suites import SUITES, suite_recipe
from mcgm.training.batches import Collate
from mcgm.training.config import CompareConfig, TrainConfig
from mcgm.training.fit import count_parameters
from mcgm.training.loss import loss_terms
from mcgm.training.recipe import to_config
from mcgm.training.widening import widened

ATOMS = (36, 46)
"""Fewest and most atoms of the molecules: around the 41 of OE62 and the 45 of AQM."""

STRUCTURES = {"oe62": 50_000, "aqm": int(0.85 * 59_783)}
"""In the training parts; suites whose budget is a number of steps need none."""

WITHOUT_FORCES = ("oe62",)


def steps_of(suite: str, cell: TrainConfig) -> int:
    """Optimiser steps of one cell."""
    if cell.training.steps is not None:
        return cell.training.steps
    assert cell.training.batch_structures is not None
    return cell.training.epochs * math.ceil(STRUCTURES[suite] / cell.training.batch_structures)


@dataclass(frozen=True)
class Step:
    """A training step of fresh weights, the structures in it, and the parameters of the model."""

    run: Callable[[], None]
    structures: int
    parameters: int


def step_of(cell: TrainConfig, molecules: Dataset, *, forces: bool) -> Step:
    """What one cell does again and again, from structures to new weights."""
    torch.manual_seed(0)
    model, training = cell.model, cell.training
    potential = build(
        backbone=model.backbone,
        long_range=model.long_range,
        size=model.size,
        cutoff=model.cutoff,
        backbone_options=model.backbone_options,
        long_range_options=model.long_range_options,
    ).train()
    count = training.batch_structures or max(1, int((training.batch_atoms or 0) / molecules.sizes.mean()))
    collate = Collate(potential, potential.dtype)
    optimizer = torch.optim.AdamW(potential.parameters(), lr=0.0)
    structures = [molecules[k] for k in np.resize(np.arange(len(molecules)), count)]

    def run() -> None:
        data = collate(structures)
        prediction = potential(data.batch, forces=forces, generator=torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        loss_terms(prediction.energy, prediction.forces, data, training.loss).mean(training.loss).backward()
        optimizer.step()

    return Step(run, count, count_parameters(potential))


def seconds_of(step: Step, rounds: int) -> float:
    """Least processor time, after a first step."""
    seconds = []
    for _ in range(rounds + 1):
        started = time.process_time()
        step.run()
        seconds.append(time.process_time() - started)
    return min(seconds[1:])


def name_of(suite: str, cutoff: float | None) -> str:
    """The file with the times of a suite, at its own cutoff (`None`) or at another one (Å)."""
    return f"step_times_{suite}.json" if cutoff is None else f"step_times_{suite}_{cutoff:g}A.json"


def measure(suite: str, cutoff: float | None, rounds: int) -> None:
    """Every variant of a suite that is not in its file yet."""
    path = RESULTS / name_of(suite, cutoff)
    kept = json.loads(path.read_text(encoding="utf-8"))["variants"] if path.exists() else {}
    config, molecules = config_of(suite, cutoff), molecules_of_sample()
    found: dict[str, dict[str, float | str]] = {}
    for name, variant in config.variants.items():
        found[name] = kept.get(name) or figures(
            suite, config.cell(name, 0, ""), variant.label or name, molecules, rounds
        )
        print(f"{suite:10} {name:24} {found[name]['seconds per step']:>9} s, {found[name]['core hours']} h", flush=True)
        record = {
            "question": f"processor time of one seed, molecules of {ATOMS[0]} to {ATOMS[1]} atoms, one core",
            "variants": found,
            "provenance": provenance(["python", *sys.argv]),
        }
        write(path, record)


def config_of(suite: str, cutoff: float | None = None) -> CompareConfig:
    """The suite, at its own cutoff (`None`) or at another one (Å), with the widths that its controls need."""
    recipe = suite_recipe(suite)
    if cutoff is not None:
        recipe["model"]["cutoff"] = cutoff
    return widened(to_config(recipe, CompareConfig, source=suite))


def molecules_of_sample() -> Dataset:
    """Those of the bundled sample that have as many atoms as `ATOMS` says."""
    sample = Dataset.open("sample")
    return sample.subset(np.flatnonzero((sample.sizes >= ATOMS[0]) & (sample.sizes <= ATOMS[1])))


def figures(suite: str, cell: TrainConfig, label: str, molecules: Dataset, rounds: int) -> dict[str, float | str]:
    """What one variant costs."""
    step = step_of(cell, molecules, forces=suite not in WITHOUT_FORCES)
    seconds, steps = seconds_of(step, rounds), steps_of(suite, cell)
    return {
        "label": label,
        "parameters": step.parameters,
        "molecules in a step": step.structures,
        "seconds per step": round(seconds, 4),
        "steps": steps,
        "core hours": round(seconds * steps / 3600, 2),
    }


def main() -> int:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="+", choices=list(SUITES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cutoff", type=float, help="Å, in the place of the suite's")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as trainings do
    for suite in options.suites:
        measure(suite, options.cutoff, options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
