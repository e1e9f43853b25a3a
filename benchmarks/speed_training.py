"""How many structures per second does training take in, beside another library as it comes?

python benchmarks/speed_training.py [--size small|paper] [--molecules 16] [--backbones schnet painn] [--rounds 7]

Ours as it is and compiled (`training.compile`), which takes minutes before the first step.

From structures in memory to weights after AdamW: ours finds neighbours and indices for every batch, as `mcgm train`
does; the other library keeps the graph of every structure after its first epoch, and puts batches together from these.
The same widths, batch, loss and optimiser. `backbone_speed.py` compares the networks alone, on the same neighbours.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable

import numpy as np
import torch
from oracles import ORACLES
from overhead import molecules
from side_by_side import ratio, seconds, store
from torch import Tensor, nn

from mcgm import Batch, Structure, build
from mcgm.compiled import CompiledPotential
from mcgm.data import Dataset
from mcgm.memory import keep_freed_memory
from mcgm.training.batches import Collate

CUTOFF, LIBRARY = 5.0, "xnn"


def train(network: nn.Module, predict: Callable[[], tuple[Tensor, Tensor, Tensor, Tensor]]) -> Callable[[], None]:
    """A step; `predict` gives energies and forces, predicted and true, of a new batch."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6)

    def step() -> None:
        energy, forces, true_energy, true_forces = predict()
        loss = (energy - true_energy).abs().mean() + 10 * (forces - true_forces).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def ours(network: nn.Module, dataset: Dataset) -> Callable[[], None]:
    """Read, find neighbours and indices, step."""
    collate = Collate(network, torch.float32)

    def predict() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        data = collate([dataset[k] for k in range(len(dataset))])
        prediction = network(data.batch)
        return prediction.energy, prediction.forces, data.energy, data.forces

    return train(network.train(), predict)


def theirs(network: nn.Module, structures: list[Structure]) -> Callable[[], None]:
    """Graphs from the second epoch on, step."""
    from xnn.common.data.dataset import AtomicDataset, collate
    from xnn.common.models.outputs import ForceStressOutput

    keys = {"pos": "positions", "atomic_numbers": "numbers", "forces": "forces"}
    plain = [{name: torch.as_tensor(getattr(s, key)) for name, key in keys.items()} for s in structures]
    for entry, structure in zip(plain, structures, strict=True):
        entry |= {"pos": entry["pos"].float(), "forces": entry["forces"].float(), "energy": float(structure.energy)}
    dataset = AtomicDataset(plain, CUTOFF)
    model = ForceStressOutput(network, compute_forces=True, compute_stress=False).train()

    def predict() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        graph = collate([dataset[k] for k in range(len(plain))])
        found = model(graph)
        return found["energy"], found["forces"], graph.energy, graph.forces

    return train(model, predict)


def measure(backbone: str, size: str, count: int, rounds: int) -> dict[str, object]:
    """Structures per second, and ratios."""
    structures = molecules(count)
    torch.manual_seed(0)
    local, added = (build(backbone=backbone, long_range=block, size=size, cutoff=CUTOFF) for block in ("none", "mcgm"))
    batch = Batch.from_structures(structures, cutoff=CUTOFF)
    other = ORACLES[backbone][LIBRARY](local.backbone, batch).network
    dataset = Dataset.from_structures(structures)
    networks = {"mcgm": local, "with MCGM": added}
    networks |= {f"{name}, compiled": CompiledPotential(network) for name, network in networks.items()}
    steps = {name: ours(network, dataset) for name, network in networks.items()} | {LIBRARY: theirs(other, structures)}
    for step in steps.values():
        step()  # the second batch of a form compiles
    times = seconds(steps, rounds)
    return {
        "structures per second": {name: round(count / float(np.median(values)), 1) for name, values in times.items()},
        f"times faster than {LIBRARY}": {name: ratio(times, LIBRARY, name) for name in steps if name != LIBRARY},
    }


def main() -> None:
    """On one thread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="small", choices=["small", "paper"])
    parser.add_argument("--molecules", type=int, default=16)
    parser.add_argument("--backbones", nargs="+", default=["schnet", "painn"], choices=["schnet", "painn"])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # theirs
    torch.set_num_threads(1)
    keep_freed_memory()
    figures: dict[str, object] = {
        "question": f"{options.molecules} molecules of about 40 atoms in a batch, cutoff {CUTOFF} Å, "
        f"size {options.size}, float32, one thread"
    }
    for backbone in options.backbones:
        figures[backbone] = measure(backbone, options.size, options.molecules, options.rounds)
    store(f"speed_training_{options.size}", figures)


if __name__ == "__main__":
    main()
