"""How fast is each backbone beside another library's implementation of it? Energy + forces, and a training step.

    python benchmarks/backbone_speed.py [--size small|paper] [--molecules N] [--rounds N] [--only schnet painn]

Ours is timed as users call it, a `Potential` without long-range block that derives its indices in every call.
Freed memory stays in the process, as in training, for the others as well: page faults would hide the arithmetic.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import torch
from oracles import ORACLES, Oracle
from side_by_side import ratio, seconds, store
from torch import Tensor, nn

from mcgm import Batch, Potential, Structure, build
from mcgm.data import Dataset
from mcgm.memory import keep_freed_memory

CUTOFF = 5.0


def molecules(count: int) -> list[Structure]:
    """Structures drawn evenly from the bundled sample."""
    dataset = Dataset.open("sample")
    return [dataset[int(k)] for k in np.linspace(0, len(dataset) - 1, count)]


def our_forces(potential: Potential, batch: Batch, *, train: bool) -> tuple[Tensor, Tensor]:
    """Energies and forces as users get them."""
    potential.train(train)
    prediction = potential(batch)
    return prediction.energy, prediction.forces


def their_forces(oracle: Oracle, batch: Batch, *, train: bool) -> tuple[Tensor, Tensor]:
    """Energy and forces by the shortest way there is."""
    moved = batch.replace(positions=batch.positions.clone().requires_grad_())
    energy = oracle.energy(moved)
    (gradient,) = torch.autograd.grad(energy, moved.positions, create_graph=train)
    return energy, -gradient


def step(network: nn.Module, predict: Callable[..., tuple[Tensor, Tensor]]) -> None:
    """Gradients of a loss on energies and forces, in the weights."""
    energy, forces = predict(train=True)
    (energy.square().mean() + forces.square().mean()).backward()
    network.zero_grad()


def measure(backbone: str, size: str, count: int, rounds: int) -> dict[str, object]:
    """Times and ratios of one backbone and its oracles, all in the same rounds, on so many molecules."""
    torch.set_num_threads(1)
    keep_freed_memory()
    warnings.simplefilter("ignore")  # theirs
    torch.manual_seed(0)
    batch = Batch.from_structures(molecules(count), cutoff=CUTOFF)
    potential = build(backbone=backbone, long_range="none", size=size, cutoff=CUTOFF)
    oracles = {library: make(potential.backbone, batch) for library, make in ORACLES[backbone].items()}
    networks: dict[str, nn.Module] = {"mcgm": potential} | {name: item.network for name, item in oracles.items()}
    forces = {"mcgm": partial(our_forces, potential, batch)}
    forces |= {name: partial(their_forces, item, batch) for name, item in oracles.items()}
    figures: dict[str, object] = {
        "parameters": {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    }
    kinds = {
        "energy + forces": {name: partial(predict, train=False) for name, predict in forces.items()},
        "training step": {name: partial(step, networks[name], predict) for name, predict in forces.items()},
    }
    for kind, functions in kinds.items():
        times = seconds(functions, rounds)
        figures[kind] = {
            "milliseconds, median": {name: round(1e3 * float(np.median(values)), 1) for name, values in times.items()},
            "times faster than": {name: ratio(times, name, "mcgm") for name in oracles},
        }
    return figures


def main() -> None:
    """All backbones, or those asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="small", choices=["small", "paper"])
    parser.add_argument("--molecules", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="+", default=list(ORACLES), choices=list(ORACLES))
    options = parser.parse_args()
    batch = Batch.from_structures(molecules(options.molecules), cutoff=CUTOFF)
    figures: dict[str, object] = {
        "question": f"{options.molecules} molecules, {batch.n_atoms} atoms, {len(batch.neighbors.source)} edges within "
        f"{CUTOFF} Å, size {options.size}, float32, 1 thread"
    }
    # a process for each, so that none pays for the memory that another has kept
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        jobs = {
            name: pool.submit(measure, name, options.size, options.molecules, options.rounds) for name in options.only
        }
        figures |= {name: job.result() for name, job in jobs.items()}
    store(f"backbone_speed_{options.size}", figures)


if __name__ == "__main__":
    main()
