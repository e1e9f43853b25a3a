"""Does `mcgm predict` stay in the same memory however long its input is? Peak memory and structures per second.

python benchmarks/predict_stream.py [--counts 1000 10000 100000] [--format extxyz npz]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from ase.build import molecule
from side_by_side import one_process, store

from mcgm import Structure, build
from mcgm.prediction.sinks import SINKS
from mcgm.prediction.stream import BATCH_ATOMS, Predicted

NAMES = ("CH3CH2OH", "C6H6", "CH3COCH3", "C4H4O", "CH3CONH2", "CH3CH2NH2", "C5H5N", "HCOOCH3")
"""Ten atoms on average."""

CUTOFF = 5.0


def structures(count: int) -> Iterator[Structure]:
    """Small molecules in turns, each with atoms moved in its own way."""
    shapes = [molecule(name) for name in NAMES]
    for k in range(count):
        atoms = shapes[k % len(shapes)]
        moved = atoms.positions + np.random.default_rng(k).normal(scale=0.05, size=atoms.positions.shape)
        yield Structure(atoms.numbers, moved, name=f"{atoms.symbols}-{k}")


def write(count: int, path: Path) -> None:
    """An input of so many structures, written piece by piece."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        sink = SINKS[path.suffix](Path(folder), {}, {})
        for structure in structures(count):
            sink.append([Predicted(structure, {})])
        sink.whole().replace(path)


def predict(model: Path, source: Path, output: Path) -> dict[str, float]:
    """One process: its peak memory and what it took; starting it and reading the model are a part of the time."""
    command = [sys.executable, "-m", "mcgm", "predict", str(model), str(source), "-o", str(output)]
    used, seconds = one_process(command)
    return {
        "peak memory, MB": round(used.ru_maxrss / 1024, 1),
        "seconds": round(seconds, 1),
        "CPU seconds": round(used.ru_utime + used.ru_stime, 1),
        "input, MB": round(source.stat().st_size / 2**20, 1),
        "output, MB": round(output.stat().st_size / 2**20, 1),
    }


def measure(counts: list[int], suffix: str, folder: Path, model: Path) -> dict[str, object]:
    """Figures by number of structures, and what each further structure costs beyond the smallest input."""
    figures: dict[str, object] = {}
    found = {}
    for count in counts:
        source, output = folder / f"in{suffix}", folder / f"out{suffix}"
        write(count, source)
        found[count] = predict(model, source, output)
        figures[f"{count} structures"] = found[count]
        print(f"{suffix} {count}: {found[count]}", file=sys.stderr)
    first, last = found[counts[0]], found[counts[-1]]
    if len(counts) > 1:
        further = counts[-1] - counts[0]
        figures["structures per CPU second"] = round(further / (last["CPU seconds"] - first["CPU seconds"]))
        figures["structures per second"] = round(further / (last["seconds"] - first["seconds"]))
        figures["peak memory, ratio of the longest to the shortest"] = round(
            last["peak memory, MB"] / first["peak memory, MB"], 3
        )
    return figures


def main() -> None:
    """SchNet with MCGM, small, on one thread."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--format", nargs="+", default=["extxyz", "npz"], choices=("extxyz", "npz"))
    options = parser.parse_args()
    torch.manual_seed(0)
    figures: dict[str, object] = {
        "question": f"molecules of ten atoms, SchNet + MCGM with 32 channels, cutoff {CUTOFF} Å, {BATCH_ATOMS} atoms "
        "in a batch, one thread"
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "model.safetensors"
        small = {"channels": 32, "filters": 32, "radial": 16, "layers": 2}
        build(backbone="schnet", long_range="mcgm", cutoff=CUTOFF, backbone_options=small).save(model)
        for suffix in options.format:
            figures[suffix] = measure(options.counts, f".{suffix}", folder, model)
    store("predict_stream", figures)


if __name__ == "__main__":
    main()
