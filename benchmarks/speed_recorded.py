"""What do recorded steps bring to training on a GPU? Structures per second, recorded or not, beside another library.

    python benchmarks/speed_recorded.py [--size paper|small] [--molecules 64] [--backbones NAME ...] [--device cpu]

Batches of the bundled sample, all different, collated beforehand: each is moved to the device, predicted, and followed
by a step of AdamW. Recorded steps (`training.cuda_graphs`) compute what fills the batches up, too; that they learn the
same is looked at. On a CPU nothing is recorded: what filling costs alone. One JSON per size and number of molecules.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from oracles import ORACLES
from overhead import finished
from side_by_side import kept, ratio, seconds, store
from torch import Tensor, nn

from mcgm import Batch, Structure, build
from mcgm.backbones import BACKBONES
from mcgm.data import Dataset
from mcgm.derivatives import parameter_gradients
from mcgm.memory import keep_freed_memory
from mcgm.potential import NetworkPotential
from mcgm.training.batches import Collate, LabelledBatch
from mcgm.training.filling import Filling
from mcgm.training.recorded import RecordedNetwork

CUTOFF, BATCHES = 5.0, 8
BLOCKS = ("none", "mcgm", "mcgm_oriented")


def batches(dataset: Dataset, count: int) -> list[list[Structure]]:
    """Different ones, in an order without meaning."""
    order = np.random.default_rng(0).permutation(len(dataset))[: BATCHES * count]
    return [[dataset[int(k)] for k in chosen] for chosen in order.reshape(BATCHES, count)]


def loss_of(energy: Tensor, forces: Tensor, true_energy: Tensor, true_forces: Tensor) -> Tensor:
    """Of energies and forces."""
    return (energy - true_energy).abs().mean() + 10 * (forces - true_forces).abs().mean()


def ours(network: NetworkPotential, data: Sequence[LabelledBatch], predict: Callable[[LabelledBatch], Any]) -> Any:
    """Steps through all batches, and the gradient of one."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-6)

    def gradient(labelled: LabelledBatch) -> tuple[Tensor | None, ...]:
        moved = labelled.to(network.device)
        found = predict(moved)
        return parameter_gradients(loss_of(found.energy, found.forces, moved.energy, moved.forces), parameters)

    def run() -> None:
        for labelled in data:
            for parameter, found in zip(parameters, gradient(labelled), strict=True):
                parameter.grad = found
            optimizer.step()

    return run, gradient


def theirs(network: nn.Module, chosen: Sequence[Sequence[Structure]], device: str) -> Callable[[], None]:
    """The other library's, from its own graphs."""
    from xnn.common.data.dataset import AtomicDataset, collate
    from xnn.common.models.outputs import ForceStressOutput

    graphs = []
    for structures in chosen:
        plain = [
            {
                "pos": torch.as_tensor(s.positions).float(),
                "atomic_numbers": torch.as_tensor(s.numbers),
                "forces": torch.as_tensor(s.forces).float(),
                "energy": float(s.energy or 0.0),
            }
            for s in structures
        ]
        dataset = AtomicDataset(plain, CUTOFF)
        graphs.append(collate([dataset[k] for k in range(len(plain))]))
    model = ForceStressOutput(network, compute_forces=True, compute_stress=False).train().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def run() -> None:
        for graph in graphs:
            moved = graph.to(device)
            found = model(moved)
            optimizer.zero_grad()
            loss_of(found["energy"], found["forces"], moved.energy, moved.forces).backward()
            optimizer.step()

    return run


def difference(one: Sequence[Tensor | None], other: Sequence[Tensor | None]) -> float:
    """Largest of all gradients, relative to the largest of them all."""
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    return max(float((a - b).abs().max()) for a, b in pairs) / max(float(b.abs().max()) for _, b in pairs)


def measure(backbone: str, size: str, count: int, rounds: int, device: str) -> dict[str, Any]:
    """Structures per second, and ratios."""
    chosen = batches(Dataset.open("sample"), count)
    runs: dict[str, Callable[[], None]] = {}
    figures: dict[str, Any] = {"seconds to record": {}, "largest difference of gradients, relative": {}}
    for block in BLOCKS:
        torch.manual_seed(0)
        network = build(backbone=backbone, long_range=block, size=size, cutoff=CUTOFF).train()
        exact = [Batch.from_structures(each, cutoff=CUTOFF, dtype=torch.float64) for each in chosen]
        filling = Filling.of(exact, network.specification.index_reach)
        plain, filled = ([Collate(network, torch.float32, how)(each) for each in chosen] for how in (None, filling))
        network = network.to(device)
        recorded = RecordedNetwork(network)
        runs[block], gradient = ours(network, plain, lambda moved, network=network: network(moved.batch))
        runs[f"{block}, recorded"], other = ours(
            network, filled, lambda moved, recorded=recorded: recorded(moved.batch, moved.filled, forces=True)
        )
        begun = time.perf_counter()
        for labelled in filled:
            other(labelled)
        figures["seconds to record"][block] = round(time.perf_counter() - begun, 1)
        differences = [difference(other(b), gradient(a)) for a, b in zip(plain[:3], filled[:3], strict=True)]
        figures["largest difference of gradients, relative"][block] = max(differences)
        figures["sizes"] = recorded.recordings
        for what, number in (("atoms", lambda b: b.n_atoms), ("edges", lambda b: len(b.neighbors.source))):
            share = sum(number(each.filled) for each in filled) / sum(number(each.batch) for each in filled)
            figures[f"{what} with filling, ratio"] = round(share, 3)
    if "xnn" in ORACLES.get(backbone, {}):
        torch.manual_seed(0)
        local = build(backbone=backbone, long_range="none", size=size, cutoff=CUTOFF)
        network = ORACLES[backbone]["xnn"](local.backbone, Batch.from_structures(chosen[0], cutoff=CUTOFF)).network
        runs["xnn"] = theirs(network, chosen, device)
    times = seconds({name: finished(run, device) for name, run in runs.items()}, rounds)
    per_second = BATCHES * count
    return figures | {
        "structures per second": {name: round(per_second / float(np.median(t)), 1) for name, t in times.items()},
        "recorded, times faster": {block: ratio(times, block, f"{block}, recorded") for block in BLOCKS},
        "with the block, ratio to the network alone": {
            f"{block}{how}": ratio(times, f"{block}{how}", f"none{how}")
            for block in BLOCKS[1:]
            for how in ("", ", recorded")
        },
        "times faster than xnn": {name: ratio(times, "xnn", name) for name in runs if "xnn" in runs and name != "xnn"},
    }


def main() -> None:
    """All that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="paper", choices=["small", "paper"])
    parser.add_argument("--molecules", type=int, default=64)
    parser.add_argument("--backbones", nargs="+", default=["schnet", "painn"], choices=list(BACKBONES), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda", help="cuda, cpu")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # theirs
    torch.set_num_threads(1)
    keep_freed_memory()
    name = f"speed_recorded_{options.size}_{options.molecules}_{options.device}"
    figures = kept(name)
    machine = "one thread" if options.device == "cpu" else torch.cuda.get_device_name()
    what = f"{options.molecules} molecules of the bundled sample in a batch, cutoff {CUTOFF} Å"
    figures["question"] = f"{what}, size {options.size}, float32, {machine}"
    for backbone in options.backbones:
        figures[backbone] = measure(backbone, options.size, options.molecules, options.rounds, options.device)
        store(name, figures)


if __name__ == "__main__":
    main()
