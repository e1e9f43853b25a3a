"""How much memory does MCGM need for a batch of molecules? Peak of a process, beside the same network alone.

python benchmarks/memory_batch.py [--molecules 64] [--backbones NAME ...] [--blocks mcgm mcgm_paper ...] [--rounds 5]

Energy and forces, and a training step, at the published size, each in a process of its own, several times in turns.
Freed memory goes back at once, so that the peak is that of the tensors in use, not of how they were packed. Figures
of backbones that this call does not measure are kept, each with the command and machine that gave it.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

import torch
from memory import peak_mib
from overhead import ATOMS, CUTOFF, MOLECULES, molecules
from side_by_side import count_exactly, kept, ratio, store

from mcgm import Batch, build
from mcgm.backbones import BACKBONES
from mcgm.provenance import provenance

TASKS = ("energy + forces", "a training step")


def one(backbone: str, block: str, count: int, task: str) -> float:
    """MiB of one call in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    potential = build(backbone=backbone, long_range=block, size="paper", cutoff=CUTOFF)
    small, batch = (potential.index(Batch.from_structures(molecules(k), cutoff=CUTOFF)) for k in (1, count))

    def predict(batch: Batch) -> None:
        potential(batch)

    def step(batch: Batch) -> None:
        prediction = potential(batch, generator=torch.Generator().manual_seed(0))
        (prediction.energy.square().mean() + prediction.forces.square().mean()).backward()

    potential.train(task != TASKS[0]).requires_grad_(task != TASKS[0])
    action = predict if task == TASKS[0] else step
    action(small)
    return peak_mib(lambda: action(batch))


def measured(backbone: str, block: str, count: int, task: str) -> float:
    """MiB of one call in a process of its own."""
    command = [sys.executable, __file__, "--one", backbone, block, task, "--molecules", str(count)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """On one thread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--molecules", type=int, default=MOLECULES, help="in the batch")
    parser.add_argument("--backbones", nargs="+", default=["schnet", "painn"], choices=list(BACKBONES), metavar="NAME")
    parser.add_argument("--blocks", nargs="+", default=["mcgm", "mcgm_paper"], metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", nargs=3, metavar=("BACKBONE", "BLOCK", "TASK"), help="in this process; one figure")
    options = parser.parse_args()
    count_exactly()
    if options.one:
        backbone, block, task = options.one
        print(one(backbone, block, options.molecules, task))
        return
    figures = kept("memory_batch") | {
        "question": f"molecules of about {ATOMS} atoms, cutoff {CUTOFF} Å, size paper, float32, CPU"
    }
    for backbone in options.backbones:
        found: dict[str, object] = {"molecules": options.molecules}
        for task in TASKS:
            mib: dict[str, list[float]] = {block: [] for block in ("none", *options.blocks)}
            for _ in range(options.rounds):
                for block, values in mib.items():
                    values.append(measured(backbone, block, options.molecules, task))
            print(f"{backbone}, {task}: {mib}", file=sys.stderr)
            found[task] = {
                "MiB": {block: statistics.median(values) for block, values in mib.items()},
                "ratio to local": {block: ratio(mib, block, "none") for block in options.blocks},
            }
        figures[backbone] = found | {"provenance": provenance(["python", *sys.argv])}
    store("memory_batch", figures)


if __name__ == "__main__":
    main()
