"""What does the ASE calculator cost beside the network? Time of a step, as a ratio to energy + forces of a ready batch.

python benchmarks/calculator_overhead.py [--rounds N]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from ase import Atoms
from side_by_side import ratio, seconds, store

from mcgm import Batch, Structure, build
from mcgm.data import Dataset
from mcgm.interfaces.ase import MCGMCalculator

ATOMS, CUTOFF, SKIN = 40, 6.0, 0.5
STEP = 0.005
"""Å that atoms move from step to step, as at 300 K and 0.5 fs; a search serves about fifty of them."""

SEARCH_EVERY = 50


def structure() -> Structure:
    """A molecule of 40 atoms of the bundled sample, or of nearly as many."""
    dataset = Dataset.open("sample")
    return dataset[int(np.argmin(np.abs(np.asarray(dataset.sizes) - ATOMS)))]


def stepping(atoms: Atoms, calculator: MCGMCalculator) -> Callable[[], None]:
    """A step of dynamics without its integrator: atoms move there and back, then energy and forces are asked for."""
    start, chance = atoms.positions.copy(), np.random.default_rng(0)

    def step() -> None:
        atoms.positions = start + chance.uniform(-STEP, STEP, start.shape)
        calculator.calculate(atoms, ["energy", "forces"], ["positions"])

    return step


def measure(backbone: str, block: str, dtype: torch.dtype, rounds: int) -> dict[str, object]:
    """Ratios of a step that finds its pairs in the wide list, and of one that searches, to the network alone."""
    torch.manual_seed(0)
    potential = build(backbone=backbone, long_range=block, cutoff=CUTOFF).to(dtype).eval().requires_grad_(False)
    molecule = structure()
    batch = Batch.from_structures([molecule], cutoff=CUTOFF, dtype=dtype)
    kept, searching = (MCGMCalculator(potential, skin=skin) for skin in (SKIN, 0.0))
    times = seconds(
        {
            "network": lambda: potential(batch, forces=True, stress=False),
            "step": stepping(molecule.to_atoms(), kept),
            "step with a search": stepping(molecule.to_atoms(), searching),
        },
        rounds,
    )
    step, search = ratio(times, "step", "network"), ratio(times, "step with a search", "network")
    share = (search["median"] - step["median"]) / SEARCH_EVERY
    return {
        "milliseconds of the network": round(1e3 * float(np.median(times["network"])), 2),
        "step, ratio": step,
        "step with a search, ratio": search,
        f"overhead with a search in {SEARCH_EVERY} steps, %": round(100 * (step["median"] - 1 + share), 1),
        "searches": {"step": kept.rebuilds, "step with a search": searching.rebuilds},
    }


def main() -> None:
    """SchNet and PaiNN, float32 and float64."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, object] = {
        "question": f"one molecule of {len(structure())} atoms, cutoff {CUTOFF} Å, skin {SKIN} Å, small, one thread"
    }
    for backbone in ("schnet", "painn"):
        for dtype in (torch.float32, torch.float64):
            name = f"{backbone} + mcgm, {str(dtype).removeprefix('torch.')}"
            figures[name] = measure(backbone, "mcgm", dtype, options.rounds)
    store("calculator_overhead", figures)


if __name__ == "__main__":
    main()
