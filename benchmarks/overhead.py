"""What does MCGM cost? Time of energy + forces with it, as a ratio to the same backbone without it.

python benchmarks/overhead.py [--size paper|small] [--rounds N]
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from side_by_side import ratio, seconds, store

from mcgm import Batch, Potential, Structure, build
from mcgm.data import Dataset
from mcgm.memory import keep_freed_memory

MOLECULES, ATOMS, CUTOFF = 64, 40, 6.0
BLOCKS = ("none", "global_mean", "element_mean", "mcgm", "mcgm_paper", "mcgm_random")


def molecules() -> list[Structure]:
    """64 structures of the bundled sample, those nearest to 40 atoms."""
    dataset = Dataset.open("sample")
    nearest = np.argsort(np.abs(np.asarray(dataset.sizes) - ATOMS), kind="stable")[:MOLECULES]
    return [dataset[int(k)] for k in nearest]


def potentials(backbone: str, size: str) -> dict[str, Potential]:
    """The same backbone with each block."""
    built = {}
    for block in BLOCKS:
        torch.manual_seed(0)
        built[block] = build(backbone=backbone, long_range=block, size=size, cutoff=CUTOFF).eval()
    return built


def measure(backbone: str, size: str, structures: list[Structure], rounds: int) -> dict[str, object]:
    """Ratios to the local network, for inference and for a training step."""
    models = potentials(backbone, size)
    batches = {name: model.index(Batch.from_structures(structures, cutoff=CUTOFF)) for name, model in models.items()}
    generator = torch.Generator().manual_seed(0)

    def step(name: str) -> None:
        model = models[name].train()
        prediction = model(batches[name], generator=generator)
        (prediction.energy.square().mean() + prediction.forces.square().mean()).backward()
        model.zero_grad()
        model.eval()

    inference = seconds({name: lambda name=name: models[name](batches[name]) for name in models}, 4 * rounds)
    training = seconds({name: lambda name=name: step(name) for name in models}, rounds)
    return {
        "atoms": batches["none"].n_atoms,
        "edges": len(batches["none"].neighbors.source),
        "milliseconds of energy + forces, local": round(1e3 * float(np.median(inference["none"])), 1),
        "milliseconds of a training step, local": round(1e3 * float(np.median(training["none"])), 1),
        "energy + forces, ratio to local": {name: ratio(inference, name, "none") for name in models if name != "none"},
        "training step, ratio to local": {name: ratio(training, name, "none") for name in models if name != "none"},
        "parameters": {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()},
    }


def main() -> None:
    """SchNet and PaiNN."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="small", choices=["small", "paper"])
    parser.add_argument("--rounds", type=int, default=7, help="of training steps; predictions get four times as many")
    options = parser.parse_args()
    keep_freed_memory()
    structures = molecules()
    figures = {"question": f"{MOLECULES} molecules of about {ATOMS} atoms, cutoff {CUTOFF} Å, size {options.size}"}
    figures |= {name: measure(name, options.size, structures, options.rounds) for name in ("schnet", "painn")}
    store(f"overhead_{options.size}", figures)


if __name__ == "__main__":
    main()
