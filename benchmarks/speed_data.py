"""Does reading data hold training up? Share of a step, the first epoch on a new file, and memory for many structures.

    python benchmarks/speed_data.py                          a batch, and a new file
    python benchmarks/speed_data.py --structures 1000000     train on so many, in a process of its own

Figures of an earlier call that this one does not measure are kept.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase.build import molecule
from overhead import molecules
from predict_stream import NAMES
from side_by_side import RESULTS, one_process, ratio, seconds, store

from mcgm import build
from mcgm.data import Dataset
from mcgm.memory import keep_freed_memory
from mcgm.training.batches import Collate

CUTOFF = 5.0
STIFFNESS = 5.0
"""eV/Å² of the springs that label the many structures."""


def batch(backbone: str, size: str, rounds: int) -> dict[str, object]:
    """Reading 16 molecules of 40 atoms, their neighbours and indices, beside a training step on them."""
    torch.manual_seed(0)
    potential = build(backbone=backbone, long_range="mcgm", size=size, cutoff=CUTOFF).train()
    dataset = Dataset.from_structures(molecules(16))
    collate = Collate(potential, torch.float32)
    whole = collate([dataset[k] for k in range(len(dataset))])

    def step() -> None:
        prediction = potential(whole.batch)
        (prediction.energy.square().mean() + prediction.forces.square().mean()).backward()
        potential.zero_grad()

    actions = {"read": lambda: collate([dataset[k] for k in range(len(dataset))]), "step": step}
    times = seconds(actions, rounds, clock=time.process_time)
    return {
        "processor milliseconds of reading": round(1e3 * float(np.median(times["read"])), 2),
        "processor milliseconds of a step": round(1e3 * float(np.median(times["step"])), 1),
        "reading, share of a step": ratio(times, "read", "step"),
    }


def new_file(copies: int) -> dict[str, object]:
    """Opening a file for the first time and again, beside reading it once with ASE."""
    frames = [structure.to_atoms() for structure in Dataset.open("sample")] * copies
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "new.extxyz")
        ase.io.write(path, frames)
        times = {}
        for name, action in {
            "ASE reads it": lambda: ase.io.read(path, ":"),
            "opened for the first time": lambda: Dataset.open(path),
            "opened again": lambda: Dataset.open(path),
        }.items():
            started = time.perf_counter()
            action()
            times[name] = round(time.perf_counter() - started, 3)
        return {"structures": len(frames), "MB": round(path.stat().st_size / 2**20, 1), "seconds": times}


def write_many(count: int, path: Path) -> None:
    """Small molecules in turns, atoms moved, labelled by springs to where they were."""
    shapes = [molecule(name) for name in NAMES]
    shapes = [shapes[k % len(shapes)] for k in range(count)]
    kinds = {id(shape): (shape.numbers, shape.positions) for shape in shapes[: len(NAMES)]}
    numbers = np.concatenate([kinds[id(shape)][0] for shape in shapes])
    rest = np.concatenate([kinds[id(shape)][1] for shape in shapes])
    sizes = np.array([len(kinds[id(shape)][0]) for shape in shapes])
    moved = np.random.default_rng(0).normal(scale=0.05, size=rest.shape)
    energy = np.add.reduceat(STIFFNESS / 2 * (moved**2).sum(1), np.cumsum(sizes) - sizes)
    np.savez(path, n_atoms=sizes, numbers=numbers, positions=rest + moved, energy=energy, forces=-STIFFNESS * moved)


def many(count: int) -> dict[str, object]:
    """An epoch of `mcgm train` on so many structures, from a new file: peak memory of the process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_many(count, folder / "many.npz")
        recipe = {
            "data": {"path": str(folder / "many.npz"), "split": {"train": 0.98, "val": 0.01, "test": 0.01}},
            "model": {
                "backbone": "schnet",
                "cutoff": CUTOFF,
                "backbone_options": {"channels": 8, "filters": 8, "radial": 8, "layers": 1},
            },
            "training": {"epochs": 1, "batch_atoms": 10_000, "tensorboard": False, "accelerator": "cpu"},
        }
        (folder / "recipe.yaml").write_text(json.dumps(recipe))
        command = [sys.executable, "-m", "mcgm", "train", str(folder / "recipe.yaml"), "-o", str(folder / "run")]
        used, elapsed = one_process(command)
        return {
            "structures": count,
            "file, MB": round((folder / "many.npz").stat().st_size / 2**20),
            "peak memory, MB": round(used.ru_maxrss / 1024),
            "seconds": round(elapsed),
        }


def main() -> None:
    """On one thread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=int, help="train on so many instead")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--copies", type=int, default=10, help="of the bundled sample in the new file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    path = RESULTS / "speed_data.json"
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    figures = {key: value for key, value in earlier.items() if key in ("batches", "new file", "many structures")}
    if options.structures:
        figures["many structures"] = many(options.structures)
    else:
        cells = {
            f"{backbone}, size {size}": batch(backbone, size, options.rounds)
            for backbone, size in (("schnet", "small"), ("painn", "small"), ("visnet", "small"), ("dimenet++", "small"))
        }
        figures["batches"] = cells
        figures["new file"] = new_file(options.copies)
    store(
        "speed_data", {"question": f"16 molecules of about 40 atoms, cutoff {CUTOFF} Å, float32, one thread"} | figures
    )


if __name__ == "__main__":
    main()
