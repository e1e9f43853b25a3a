"""Where does the time of a step go? Shares of kinds of operations, for every backbone without and with MCGM.

python benchmarks/profile_steps.py [--size paper] [--molecules 4] [--backbones NAME ...] [--blocks NAME ...]

and what they were at an earlier commit:

    git worktree add runs/before 2d8a22a
    PYTHONPATH=runs/before/src python benchmarks/profile_steps.py --name before

torch's profiler, one thread, time of the operations themselves (not of those that they call).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
from overhead import CUTOFF, molecules
from side_by_side import store
from torch.profiler import ProfilerActivity, profile

from mcgm import Batch, build
from mcgm.backbones import BACKBONES
from mcgm.memory import keep_freed_memory

KINDS = {
    "matrix products": ("addmm", "mm", "bmm", "baddbmm", "linear", "matmul", "einsum"),
    "sums and rows by index": ("index_add", "index_select", "index_copy", "scatter", "gather", "index_put", "index"),
    "copies": ("copy_", "cat", "clone", "contiguous", "to", "_to_copy", "stack", "roll", "fill_", "zero_", "new_zeros"),
}
"""Operations by their names, with or without an underscore at the end; all others work element by element or sum."""


def kind_of(name: str) -> str:
    """The kind of an operation of the profiler."""
    plain = name.removeprefix("aten::")
    for kind, names in KINDS.items():
        if plain in names or plain.rstrip("_") in {each.rstrip("_") for each in names}:
            return kind
    return "element by element, and other"


def shares(step: Callable[[], object], rounds: int) -> dict[str, float]:
    """Milliseconds of a step by kind, and the number of operations."""
    step()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(rounds):
            step()
    times: dict[str, float] = {}
    count = 0
    for event in found.key_averages():
        if not event.key.startswith("aten::"):
            continue
        count += event.count
        kind = kind_of(event.key)
        times[kind] = times.get(kind, 0.0) + event.self_cpu_time_total / 1e3 / rounds
    return {kind: round(value, 2) for kind, value in sorted(times.items())} | {"operations": count / rounds}


def measure(backbone: str, size: str, blocks: Sequence[str], count: int, rounds: int) -> dict[str, object]:
    """Energy and forces, and a training step, with each block."""
    structures = molecules(count)
    found: dict[str, object] = {}
    for block in blocks:
        torch.manual_seed(0)
        potential = build(backbone=backbone, long_range=block, size=size, cutoff=CUTOFF)
        batch = potential.index(Batch.from_structures(structures, cutoff=CUTOFF))

        def step(potential: torch.nn.Module = potential, batch: Batch = batch) -> None:
            prediction = potential.train()(batch)
            (prediction.energy.square().mean() + prediction.forces.square().mean()).backward()
            potential.zero_grad()

        found[block] = {
            "energy + forces, ms": shares(lambda p=potential, b=batch: p.eval()(b), rounds),
            "training step, ms": shares(step, rounds),
        }
    return found


def main() -> None:
    """All five, unless others are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="paper", choices=["small", "paper"])
    parser.add_argument("--molecules", type=int, default=4)
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), choices=list(BACKBONES), metavar="NAME")
    parser.add_argument("--blocks", nargs="+", default=["none", "mcgm"], metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--name", default="now", help="of the figures: now, or before")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    question = f"{options.molecules} molecules of about 40 atoms, cutoff {CUTOFF} Å, size {options.size}, one thread"
    figures: dict[str, object] = {"question": question}
    for backbone in options.backbones:
        figures[backbone] = measure(backbone, options.size, options.blocks, options.molecules, options.rounds)
    store(f"profile_{options.size}_{options.name}", figures)


if __name__ == "__main__":
    main()
