"""One step of a simulation as ASE sees it: our calculator, compiled, recorded and not, beside other libraries'.

    python benchmarks/speed_latency.py [--backbones NAME ...] [--system molecule|water] [--atoms 40]
                                       [--device cpu|cuda]

Networks of equal sizes without a long-range block, ours with MCGM as well, and MACE of as many parameters as ours alone
(where it is installed: `make bench`), on the frames of one trajectory at 300 K, 0.5 fs apart. Recorded: with CUDA
graphs, on a GPU only; searches of neighbours and recording anew are part of its time. Float32, one thread.
"""

from __future__ import annotations

import argparse
import importlib.util
import warnings
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from ase.calculators.calculator import Calculator
from blocks_scaling import water
from mace_models import nearest, parameters
from oracles import ORACLES
from overhead import molecules
from side_by_side import ratio, seconds, store
from vibrations import trajectory

from mcgm import Batch, Structure, build
from mcgm.interfaces.ase import MCGMCalculator
from mcgm.memory import keep_freed_memory
from mcgm.potential import Potential

CUTOFF = 5.0

FRAMES, WARM_UP = 20, 10
"""Consecutive frames whose time is one measurement, and frames before the first."""

BLOCKS = {"mcgm": "none", "with MCGM": "mcgm", "with the default": "mcgm_oriented"}
"""Ours by the name in the table."""

RECORDED = {"cuda_graphs": True}
WAYS: dict[str, dict[str, Any]] = {
    "": {},
    ", compiled": {"compile": True},
    ", recorded": RECORDED,
    ", compiled and recorded": {"compile": True} | RECORDED,
}
"""How ours are computed, by the end of the name in the table."""

OTHERS = ("xnn", "MACE")
"""Libraries that ours are compared with."""


def calculators(
    backbone: str, size: str, batch: Batch, device: str, ways: Sequence[str]
) -> dict[str, tuple[Calculator, int]]:
    """All that are compared, with their parameters."""
    from xnn.common.deploy import XNNCalculator
    from xnn.common.models.outputs import ForceStressOutput

    def ours(block: str) -> Potential:
        torch.manual_seed(0)
        return build(backbone=backbone, long_range=block, size=size, cutoff=CUTOFF)

    local = ours("none")
    theirs = ORACLES[backbone]["xnn"](local.backbone, batch).network
    wrapped = ForceStressOutput(theirs, compute_forces=True, compute_stress=batch.periodic)
    found = {"xnn": (XNNCalculator(wrapped, cutoff=CUTOFF, device=device), parameters(theirs))}
    if importlib.util.find_spec("mace"):
        elements = set(batch.numbers.tolist())
        found["MACE"] = _mace(nearest(parameters(local), elements, CUTOFF), device)
    for name, block in BLOCKS.items():
        potential = ours(block)
        for way in ways:
            found[name + way] = MCGMCalculator(potential, device=device, **WAYS[way]), parameters(potential)
    return found


def _mace(network: torch.nn.Module, device: str) -> tuple[Calculator, int]:
    from mace.calculators import MACECalculator

    return MACECalculator(models=[network], device=device, default_dtype="float32"), parameters(network)


def measure(
    backbone: str, size: str, structure: Structure, device: str, rounds: int, ways: Sequence[str]
) -> dict[str, Any]:
    """Milliseconds of a step, and how many times faster than those of other libraries."""
    batch = Batch.from_structures([structure], cutoff=CUTOFF)
    found = calculators(backbone, size, batch, device, ways)
    frames = trajectory(structure.to_atoms(), WARM_UP + FRAMES * (rounds + 1))
    systems = {name: structure.to_atoms() for name in found}
    steps = {name: iter(frames) for name in found}

    def run(name: str, count: int = FRAMES) -> None:
        system = systems[name]
        system.calc = found[name][0]
        for positions in islice(steps[name], count):
            system.positions = positions
            system.get_potential_energy(), system.get_forces()

    for name in found:
        run(name, WARM_UP)
    times = seconds({name: lambda name=name: run(name) for name in found}, rounds)
    others = [name for name in OTHERS if name in found]
    return {
        name: {
            "parameters": count,
            "milliseconds": round(1e3 * float(np.median(times[name])) / FRAMES, 2),
            "times faster": {other: ratio(times, other, name) for other in others} if name not in others else {},
        }
        for name, (_, count) in found.items()
    }


def main() -> None:
    """SchNet and PaiNN, unless others are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["schnet", "painn"], choices=list(ORACLES), metavar="NAME")
    parser.add_argument("--size", default="small", choices=["small", "paper"])
    parser.add_argument("--system", default="molecule", choices=["molecule", "water"])
    parser.add_argument("--atoms", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=10, help=f"of {FRAMES} frames")
    parser.add_argument("--device", default="cpu", help="cpu, cuda")
    parser.add_argument("--no-compile", action="store_true", help="compiling takes minutes")
    options = parser.parse_args()
    left_out = ("compiled" if options.no_compile else None, "recorded" if options.device == "cpu" else None)
    ways = [way for way in WAYS if not any(word and word in way for word in left_out)]
    torch.set_num_threads(1)
    keep_freed_memory()
    warnings.simplefilter("ignore")  # theirs
    structure = water(options.atoms) if options.system == "water" else molecules(1, options.atoms)[0]
    machine = "one thread" if options.device == "cpu" else torch.cuda.get_device_name()
    what = {"molecule": f"a molecule of {len(structure)} atoms", "water": f"a box of water, {len(structure)} atoms"}
    figures: dict[str, Any] = {"question": f"{what[options.system]}, cutoff {CUTOFF} Å, size {options.size}, {machine}"}
    name = f"speed_latency_{options.size}_{options.system}_{len(structure)}_{options.device}"
    for backbone in options.backbones:
        figures[backbone] = measure(backbone, options.size, structure, options.device, options.rounds, ways)
        store(name, figures)


if __name__ == "__main__":
    main()
