"""Do two ranks train twice as much in the same time? Seconds per step of one rank, two trainings, and two ranks.

python benchmarks/weak_scaling.py [--rounds 3]

One thread each, the same batch for every rank. Two trainings that know nothing of each other share the machine's memory
as two ranks do: what two ranks take longer than these is what ranks cost each other.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from side_by_side import store

EPOCHS, STRUCTURES, BATCH_ATOMS = 4, 192, 400
RECIPE = {
    "data.split.train": STRUCTURES,
    "data.split.val": 16,
    "data.split.test": 16,
    "model.backbone": "schnet",
    "model.long_range": "mcgm",
    "training.batch_atoms": BATCH_ATOMS,
    "training.tensorboard": "false",
    "training.accelerator": "cpu",
}


def start(folder: Path, ranks: int) -> subprocess.Popen[bytes]:
    """A training in processes of its own."""
    options = RECIPE | {"training.devices": ranks, "training.epochs": EPOCHS * ranks}
    command = [sys.executable, "-m", "mcgm", "train", "sample", "-o", str(folder)]
    command += [text for key, value in options.items() for text in (f"--{key}", str(value))]
    return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)


def seconds_per_step(folder: Path) -> float:
    """Over all epochs but the first, validation of 16 structures after each included."""
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    first, last = rows[0], rows[-1]
    return (float(last["seconds"]) - float(first["seconds"])) / (int(last["step"]) - int(first["step"]))


def measure(ranks: int, trainings: int) -> float:
    """Mean over trainings that run at once."""
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name, str(k)) for k in range(trainings)]
        processes = [start(folder, ranks) for folder in folders]
        if any(process.wait() for process in processes):
            raise SystemExit("a training failed")
        return statistics.mean(seconds_per_step(folder) for folder in folders)


def main() -> None:
    """In turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cases = {"one rank": (1, 1), "two trainings": (1, 2), "two ranks": (2, 1)}
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(options.rounds):
        for name, case in cases.items():
            times[name].append(measure(*case))
            print(f"{name}: {1e3 * times[name][-1]:.1f} ms per step", file=sys.stderr)
    figures = {
        "question": f"SchNet + MCGM, size small, {BATCH_ATOMS} atoms per rank and step, one thread per rank",
        "milliseconds per step": {name: [round(1e3 * value, 1) for value in found] for name, found in times.items()},
        "efficiency": {
            f"two ranks beside {other}": round(
                statistics.median(a / b for a, b in zip(times[other], times["two ranks"], strict=True)), 3
            )
            for other in ("one rank", "two trainings")
        },
    }
    store("weak_scaling", figures)


if __name__ == "__main__":
    main()
