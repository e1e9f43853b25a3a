"""What does compiling bring? Energy + forces and training steps, compiled and not, with MCGM and without, in turns.

    python benchmarks/speed_compiled.py [--size small|paper] [--backbones NAME ...] [--device cpu|cuda]
                                        [--molecules 64] [--atoms 40] [--no-training]

One JSON per size, device and number of molecules; backbones that are named replace their own figures in it. One
molecule (`--molecules 1`) is what a simulation sees.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
import torch._inductor.config
from overhead import CUTOFF, finished, molecules, peak_mib
from side_by_side import kept, ratio, seconds, store

from mcgm import Batch, Structure, build
from mcgm.backbones import BACKBONES
from mcgm.compiled import CompiledPotential
from mcgm.memory import keep_freed_memory

BLOCKS = ("none", "mcgm", "mcgm_oriented")
ROUNDS = 9


def measure(backbone: str, size: str, structures: list[Structure], device: str, *, training: bool) -> dict[str, Any]:
    """Times and ratios of one backbone, and what compiling took."""
    whole = Batch.from_structures(structures, cutoff=CUTOFF).to(device)
    models, batches = {}, {}
    for block in BLOCKS:
        torch.manual_seed(0)
        model = build(backbone=backbone, long_range=block, size=size, cutoff=CUTOFF).to(device)
        models[block], models[f"{block}, compiled"] = model, CompiledPotential(model)
        batches[block] = batches[f"{block}, compiled"] = model.index(whole)

    def step(name: str) -> None:
        prediction = models[name](batches[name])
        (prediction.energy.square().mean() + prediction.forces.square().mean()).backward()
        models[name].zero_grad()

    figures: dict[str, Any] = {"atoms": whole.n_atoms, "edges": len(whole.neighbors.source)}
    tasks = {"energy + forces": (lambda name: models[name](batches[name]), 4 * ROUNDS)}
    if training:
        tasks["a training step"] = (step, ROUNDS)
    for title, (task, rounds) in tasks.items():
        for model in models.values():
            model.train(title == "a training step").requires_grad_(title == "a training step")
        actions = {name: finished(lambda name=name, task=task: task(name), device) for name in models}
        begun = time.perf_counter()
        for name in models:
            actions[name](), actions[name]()
        taken = time.perf_counter() - begun
        largest = max(_difference(models[block], models[f"{block}, compiled"], batches[block]) for block in BLOCKS)
        times = seconds(actions, rounds)
        figures[title] = {
            "milliseconds": {name: round(1e3 * float(np.median(values)), 2) for name, values in times.items()},
            "compiled, ratio to uncompiled": {block: ratio(times, f"{block}, compiled", block) for block in BLOCKS},
            "with the block, ratio to the network alone": {
                block: {
                    "uncompiled": ratio(times, block, "none"),
                    "compiled": ratio(times, f"{block}, compiled", "none, compiled"),
                }
                for block in BLOCKS[1:]
            },
            "seconds to compile all": round(taken, 1),
            "largest difference of forces, relative": largest,
        }
        if device != "cpu":
            figures[title]["MiB"] = {name: round(peak_mib(action), 1) for name, action in actions.items()}
    return figures


def _difference(plain: Any, compiled: Any, batch: Batch) -> float:
    expected = plain(batch).forces.detach()
    return float((compiled(batch).forces.detach() - expected).abs().max() / expected.abs().max())


def main() -> None:
    """SchNet and PaiNN, unless others are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="small", choices=["small", "paper"])
    parser.add_argument("--backbones", nargs="+", default=["schnet", "painn"], choices=list(BACKBONES), metavar="NAME")
    parser.add_argument("--device", default="cpu", help="cpu, cuda")
    parser.add_argument("--molecules", type=int, default=64)
    parser.add_argument("--atoms", type=int, default=40)
    parser.add_argument("--no-training", action="store_true", help="energy + forces only")
    options = parser.parse_args()
    torch._inductor.config.force_disable_caches = True  # compiling is timed, too
    torch.set_num_threads(1)
    keep_freed_memory()
    structures = molecules(options.molecules, options.atoms)
    name = f"speed_compiled_{options.size}_{options.molecules}_{options.device}"
    figures = kept(name)
    machine = "one thread" if options.device == "cpu" else torch.cuda.get_device_name()
    what = f"{options.molecules} molecules of about {options.atoms} atoms, cutoff {CUTOFF} Å"
    figures["question"] = f"{what}, size {options.size}, {machine}"
    for backbone in options.backbones:
        found = measure(backbone, options.size, structures, options.device, training=not options.no_training)
        figures[backbone] = found
        store(name, figures)


if __name__ == "__main__":
    main()
