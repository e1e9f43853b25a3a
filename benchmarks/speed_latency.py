"""One step of a simulation as ASE sees it: our calculator, compiled and not, beside other libraries'.

    python benchmarks/speed_latency.py [--backbones NAME ...] [--atoms 40]

Networks of equal sizes without a long-range block, ours with MCGM as well, and MACE of as many parameters as ours alone
(where it is installed: `make bench`); atoms move a little before every call, as in dynamics. Float32, one thread.
"""

from __future__ import annotations

import argparse
import importlib.util
import warnings
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from mace_models import nearest, parameters
from oracles import ORACLES
from overhead import molecules
from side_by_side import ratio, seconds, store

from mcgm import Batch, build
from mcgm.interfaces.ase import MCGMCalculator
from mcgm.memory import keep_freed_memory

CUTOFF, STEP = 5.0, 0.002

OTHERS = ("xnn", "MACE")
"""Libraries that ours are compared with."""


def calculators(backbone: str, size: str, batch: Batch) -> dict[str, tuple[Calculator, int]]:
    """All that are compared, with their parameters."""
    from xnn.common.deploy import XNNCalculator
    from xnn.common.models.outputs import ForceStressOutput

    torch.manual_seed(0)
    local, ours = (build(backbone=backbone, long_range=block, size=size, cutoff=CUTOFF) for block in ("none", "mcgm"))
    theirs = ORACLES[backbone]["xnn"](local.backbone, batch).network
    wrapped = ForceStressOutput(theirs, compute_forces=True, compute_stress=False)
    found = {"xnn": (XNNCalculator(wrapped, cutoff=CUTOFF), parameters(theirs))}
    if importlib.util.find_spec("mace"):
        elements = set(batch.numbers.tolist())
        found["MACE"] = _mace(nearest(parameters(local), elements, CUTOFF))
    for name, potential in (("mcgm", local), ("with MCGM", ours)):
        found[name] = MCGMCalculator(potential), parameters(potential)
        found[f"{name}, compiled"] = MCGMCalculator(potential, compile=True), parameters(potential)
    return found


def _mace(network: torch.nn.Module) -> tuple[Calculator, int]:
    from mace.calculators import MACECalculator

    return MACECalculator(models=[network], device="cpu", default_dtype="float32"), parameters(network)


def measure(backbone: str, size: str, atoms: Atoms, batch: Batch, rounds: int) -> dict[str, Any]:
    """Milliseconds of a step, and how many times faster than those of other libraries."""
    found = calculators(backbone, size, batch)
    generators = {name: np.random.default_rng(0) for name in found}
    systems = {name: atoms.copy() for name in found}

    def step(name: str) -> None:
        system = systems[name]
        system.calc = found[name][0]
        system.positions += STEP * generators[name].normal(size=system.positions.shape)
        system.get_potential_energy(), system.get_forces()

    for name in found:
        for _ in range(3):
            step(name)
    times = seconds({name: lambda name=name: step(name) for name in found}, rounds)
    others = [name for name in OTHERS if name in found]
    return {
        name: {
            "parameters": count,
            "milliseconds": round(1e3 * float(np.median(times[name])), 2),
            "times faster": {other: ratio(times, other, name) for other in others} if name not in others else {},
        }
        for name, (_, count) in found.items()
    }


def main() -> None:
    """SchNet and PaiNN of both sizes, unless others are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["schnet", "painn"], choices=list(ORACLES), metavar="NAME")
    parser.add_argument("--size", default="small", choices=["small", "paper"])
    parser.add_argument("--atoms", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    warnings.simplefilter("ignore")  # theirs
    (structure,) = molecules(1, options.atoms)
    batch = Batch.from_structures([structure], cutoff=CUTOFF)
    figures: dict[str, Any] = {
        "question": f"a step of a molecule of {len(structure)} atoms, cutoff {CUTOFF} Å, size {options.size}, float32, "
        "one thread"
    }
    for backbone in options.backbones:
        figures[backbone] = measure(backbone, options.size, structure.to_atoms(), batch, options.rounds)
    store(f"speed_latency_{options.size}", figures)


if __name__ == "__main__":
    main()
