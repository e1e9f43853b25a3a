"""How often do hard clusters flip along a path, and what does each flip cost, on fresh and on briefly trained weights?

    python benchmarks/flips.py

The paper's hierarchy (K-means over the element nodes) and K-means over the atoms themselves; SchNet, a path of 1 Å
through alanine dipeptide and through the molecule of the bundled sample with the most elements.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from side_by_side import store

from mcgm import Potential, Structure, build
from mcgm.data import Dataset, fit_references
from mcgm.long_range import MCGM, LongRangeSpec
from mcgm.long_range.mcgm.clusterers import KMeansPlusPlus
from mcgm.testing import FlipScan, flip_scan, train_briefly, zoo

BLOCKS: dict[str, LongRangeSpec] = {
    "paper: elements, K-means, K-means": MCGM.paper(),
    "K-means over atoms": MCGM(levels=1, clusterers=(KMeansPlusPlus(2.0),), energy_per="cluster"),
    "K-means over atoms, twice": MCGM(levels=2, clusterers=(KMeansPlusPlus(2.0),) * 2, energy_per="cluster"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="of the path of 1 Å (default: 2000)")
    parser.add_argument("--training", type=int, default=200, help="steps of training (default: 200)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dataset = Dataset.open("sample")[::20]
    elements = [len(np.unique(structure.numbers)) for structure in dataset]
    structures = {"alanine dipeptide": zoo()["alanine dipeptide"], "sample": dataset[int(np.argmax(elements))]}
    rows = {}
    for name, block in BLOCKS.items():
        for weights, potential in potentials(block, dataset, arguments.training).items():
            for molecule, structure in structures.items():
                scan = flip_scan(potential, structure, steps=arguments.steps, step=1 / arguments.steps)
                rows[f"{name}; {weights}; {molecule}, {len(structure)} atoms"] = figures(scan)
                print(f"{name}; {weights}; {molecule}: {scan}", flush=True)
    question = f"flips of hard clusters on a path of 1 Å in {arguments.steps} steps, SchNet, cutoff 5 Å"
    store("flips", {"question": question, "training steps": arguments.training, "scans": rows})


def potentials(block: LongRangeSpec, dataset: Dataset, steps: int) -> dict[str, Potential]:
    """Fresh and trained weights."""
    torch.manual_seed(0)
    fresh = build(long_range=block, cutoff=5.0, references=fit_references(dataset))
    return {"fresh": fresh.eval(), f"{steps} steps": train_briefly(fresh, list[Structure](dataset), steps=steps)}


def figures(scan: FlipScan) -> dict[str, float]:
    """eV, Å."""
    return {
        "flips per angstrom": scan.flips_per_angstrom,
        "mean step, eV": scan.mean_step,
        "largest step, eV": scan.largest_step,
        "largest step elsewhere, eV": scan.largest_elsewhere,
        "margin at the structure": scan.margin,
        "smallest margin": scan.smallest_margin,
    }


if __name__ == "__main__":
    main()
