"""What does MCGM cost? Time and memory of energy + forces with it, as a ratio to the same backbone without it.

python benchmarks/overhead.py [--size paper|small] [--molecules N] [--rounds N] [--backbones NAME ...]
    [--blocks NAME ...] [--device cpu|cuda] [--recorded]

Figures of backbones that this call does not measure are kept, each with the command and machine that gave it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from side_by_side import kept, ratio, seconds, store

from mcgm import Batch, Potential, Structure, build
from mcgm.backbones import BACKBONES
from mcgm.data import Dataset
from mcgm.memory import keep_freed_memory
from mcgm.provenance import provenance

MOLECULES, ATOMS, CUTOFF = 64, 40, 6.0
BLOCKS = ("none", "global_mean", "element_mean", "mcgm", "mcgm_oriented", "mcgm_paper", "mcgm_random")


def molecules(count: int = MOLECULES, atoms: int = ATOMS) -> list[Structure]:
    """Structures of the bundled sample, those nearest to so many atoms."""
    dataset = Dataset.open("sample")
    nearest = np.argsort(np.abs(np.asarray(dataset.sizes) - atoms), kind="stable")[:count]
    return [dataset[int(k)] for k in nearest]


def potentials(backbone: str, size: str, blocks: Sequence[str], device: str) -> dict[str, Potential]:
    """The same backbone with each block."""
    built: dict[str, Potential] = {}
    for block in blocks:
        torch.manual_seed(0)
        built[block] = build(backbone=backbone, long_range=block, size=size, cutoff=CUTOFF).eval().to(device)
    return built


def finished(action: Callable[[], object], device: str) -> Callable[[], None]:
    """The action, and on a GPU the wait until it is done."""

    def run() -> None:
        action()
        if device != "cpu":
            torch.cuda.synchronize()

    return run


def peak_mib(action: Callable[[], object]) -> float:
    """Most memory of the GPU during a call, beyond what was there before."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    action()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def recorded(action: Callable[[], object]) -> Callable[[], None]:
    """The kernels of an action as one CUDA graph: without what it takes to launch them one by one."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        action(), action()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        action()
    return graph.replay


def measure(
    backbone: str,
    size: str,
    structures: list[Structure],
    blocks: Sequence[str],
    rounds: int,
    device: str,
    prepare: Callable[[Callable[[], object]], Callable[[], object]],
) -> dict[str, object]:
    """Ratios to the local network, for inference and for a training step."""
    models = potentials(backbone, size, blocks, device)
    whole = Batch.from_structures(structures, cutoff=CUTOFF).to(device)
    batches = {name: model.index(whole) for name, model in models.items()}
    generator = torch.Generator().manual_seed(0)

    def step(name: str) -> None:
        model = models[name].train()
        prediction = model(batches[name], generator=generator)
        (prediction.energy.square().mean() + prediction.forces.square().mean()).backward()
        model.zero_grad()
        model.eval()

    predict = {name: finished(prepare(lambda name=name: models[name](batches[name])), device) for name in models}
    train = {name: finished(prepare(lambda name=name: step(name)), device) for name in models}
    clock = time.process_time if device == "cpu" else time.perf_counter
    inference, training = seconds(predict, 2 * rounds, clock), seconds(train, rounds, clock)
    others = [name for name in models if name != "none"]
    figures = {
        "atoms": batches["none"].n_atoms,
        "edges": len(batches["none"].neighbors.source),
        "milliseconds of energy + forces, local": round(1e3 * float(np.median(inference["none"])), 1),
        "milliseconds of a training step, local": round(1e3 * float(np.median(training["none"])), 1),
        "energy + forces, ratio to local": {name: ratio(inference, name, "none") for name in others},
        "training step, ratio to local": {name: ratio(training, name, "none") for name in others},
        "parameters": {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()},
    }
    if device != "cpu" and prepare is not recorded:
        for title, actions in (("energy + forces", predict), ("a training step", train)):
            peaks = {name: peak_mib(action) for name, action in actions.items()}
            figures[f"MiB of {title}, local"] = round(peaks["none"], 1)
            figures[f"memory of {title}, ratio to local"] = {
                name: round(peaks[name] / peaks["none"], 4) for name in others
            }
    return figures


def main() -> None:
    """SchNet and PaiNN, unless others are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="small", choices=["small", "paper"])
    parser.add_argument("--molecules", type=int, default=MOLECULES, help="in the batch")
    parser.add_argument("--rounds", type=int, default=7, help="of training steps; predictions get twice as many")
    parser.add_argument("--backbones", nargs="+", default=["schnet", "painn"], choices=list(BACKBONES), metavar="NAME")
    parser.add_argument("--blocks", nargs="+", default=BLOCKS[1:], metavar="NAME", help="beside the network alone")
    parser.add_argument("--device", default="cpu", help="cpu, cuda")
    parser.add_argument("--name", help="of the figures: overhead_NAME.json; default: size, and device but for a CPU")
    parser.add_argument("--recorded", action="store_true", help="on a GPU: the kernels alone, as one CUDA graph")
    options = parser.parse_args()
    torch.set_num_threads(1)  # time is that of the processor
    keep_freed_memory()
    structures = molecules(options.molecules)
    question = f"molecules of about {ATOMS} atoms, cutoff {CUTOFF} Å, size {options.size}"
    if options.device != "cpu":
        question = f"{question}, {torch.cuda.get_device_name()}"
    by_default = options.size + ("" if options.device == "cpu" else f"_{options.device}")
    by_default += "_recorded" if options.recorded else ""
    name = f"overhead_{options.name or by_default}"
    figures = kept(name)
    figures["question"] = question
    for backbone in options.backbones:
        blocks = ("none", *options.blocks)
        prepare = recorded if options.recorded else lambda action: action
        found = measure(backbone, options.size, structures, blocks, options.rounds, options.device, prepare)
        figures[backbone] = {"molecules": options.molecules} | found | {"provenance": provenance(["python", *sys.argv])}
        store(name, figures)


if __name__ == "__main__":
    main()
