"""What does finding neighbours cost? Beside vesin called bare, and for batches of molecules beside padded dense torch.

    python benchmarks/speed_neighbors.py [--rounds N]

Ours gives pairs of a whole batch, sorted by target, with images, and refuses atoms that lie too close; theirs give
pairs, in any order unless asked to sort them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import vesin
from ase.build import bulk
from overhead import molecules
from side_by_side import ratio, seconds, store

from mcgm import Structure
from mcgm.memory import keep_freed_memory
from mcgm.neighbors import find_neighbors

CUTOFF = 6.0


def chain(atoms: int) -> Structure:
    """A zigzag of carbon, open."""
    place = np.arange(atoms)
    return Structure(
        numbers=np.full(atoms, 6), positions=np.stack([1.27 * place, 0.8 * (place % 2), 0 * place], axis=1)
    )


def salt(repeats: int) -> Structure:
    """NaCl with atoms a little aside."""
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True) * ((repeats,) * 3)
    atoms.rattle(0.05, seed=0)
    return Structure.from_atoms(atoms)


def bare(structures: Sequence[Structure], *, sorted: bool = False) -> Callable[[], object]:
    """One call of vesin for each structure."""
    search = vesin.NeighborList(cutoff=CUTOFF, full_list=True, sorted=sorted, n_threads=1)
    inputs = [(s.positions, s.cell, s.pbc) for s in structures]
    return lambda: [search.compute(*given, "ijS") for given in inputs]


def in_order(structures: Sequence[Structure]) -> Callable[[], object]:
    """The same with its pairs sorted, as ours are."""
    return bare(structures, sorted=True)


def dense(structures: Sequence[Structure]) -> Callable[[], object]:
    """All pairs of all molecules in one padded array, pairs as indices."""
    sizes = torch.tensor([len(s) for s in structures])
    inside = torch.arange(int(sizes.max())) < sizes[:, None]
    padded = torch.zeros(*inside.shape, 3, dtype=torch.float64)
    padded[inside] = torch.from_numpy(np.concatenate([s.positions for s in structures]))
    both = inside[:, :, None] & inside[:, None, :] & ~torch.eye(inside.shape[1], dtype=torch.bool)
    return lambda: torch.nonzero((torch.cdist(padded, padded) < CUTOFF) & both)


def main() -> None:
    """Molecules in a batch, molecules alone, chains and crystals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as trainings and dynamics do
    batch = molecules()
    cases: dict[str, tuple[Sequence[Structure], Callable[[Sequence[Structure]], Callable[[], object]]]] = {
        "64 molecules of 40 atoms, beside dense torch": (batch, dense),
        "64 molecules of 40 atoms, beside vesin": (batch, bare),
    }
    for name, structures in {
        "one molecule of 40 atoms": batch[:1],
        "a chain of 1,000 atoms": [chain(1_000)],
        "a chain of 100,000 atoms": [chain(100_000)],
        "512 atoms of NaCl": [salt(4)],
        "8,000 atoms of NaCl": [salt(10)],
    }.items():
        cases[f"{name}, beside vesin"] = (structures, bare)
        cases[f"{name}, beside vesin, sorted"] = (structures, in_order)
    figures: dict[str, Any] = {"question": f"all pairs within {CUTOFF} Å, float64, one thread; ratio: ours to theirs"}
    for name, (structures, theirs) in cases.items():
        times = seconds(
            {"ours": lambda structures=structures: find_neighbors(structures, CUTOFF), "theirs": theirs(structures)},
            options.rounds,
        )
        figures[name] = {
            "milliseconds, ours": round(1e3 * float(np.median(times["ours"])), 2),
            "ratio": ratio(times, "ours", "theirs"),
        }
    store("speed_neighbors", figures)


if __name__ == "__main__":
    main()
