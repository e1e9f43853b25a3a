"""How much memory does a block need on a large system? Peak of a process, beside the same network alone.

python benchmarks/memory.py [--atoms 1000 10000 26000] [--blocks mcgm mcgm_paper ...]

Energy and forces of a carbon chain, SchNet of the published size, in a process of its own for each figure. Memory of
published programs for the same task (from the Phi-Module repository) is given beside it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from blocks_scaling import chain
from side_by_side import count_exactly, store

from mcgm import Batch, build

CUTOFF = 6.0
PUBLISHED = {
    "none": {1_000: 178, 10_000: 2_539, 26_000: 6_739},
    "ewald": {1_000: 578, 10_000: 9_154, 26_000: 24_422},
    "neural_p3m": {1_000: 325, 10_000: 11_136, 26_000: 67_196},
}
"""MiB on a GPU, of the authors' programs."""


def resident_mib() -> float:
    """What this process holds now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def peak_mib(action: Callable[[], object]) -> float:
    """Most memory of a call beyond what the process held before."""
    before = resident_mib()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak of what was before
    action()
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return round(peak / 1024 - before, 1)


def one(block: str, atoms: int) -> dict[str, float]:
    """Most memory of energy and forces of a chain, MiB, and its edges."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    potential = build(backbone="schnet", long_range=block, size="paper", cutoff=CUTOFF).eval().requires_grad_(False)
    small = potential.index(Batch.from_structures([chain(10)], cutoff=CUTOFF))
    potential(small)
    batch = potential.index(Batch.from_structures([chain(atoms)], cutoff=CUTOFF))
    return {"MiB": peak_mib(lambda: potential(batch)), "edges": len(batch.neighbors.source)}


def main() -> None:
    """On one thread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atoms", type=int, nargs="+", default=[1_000, 10_000, 26_000])
    parser.add_argument("--blocks", nargs="+", default=["mcgm", "mcgm_paper", "element_mean", "ewald", "neural_p3m"])
    parser.add_argument("--one", nargs=2, metavar=("BLOCK", "ATOMS"), help="in this process; prints one figure")
    options = parser.parse_args()
    count_exactly()
    if options.one:
        print(json.dumps(one(options.one[0], int(options.one[1]))))
        return
    found: dict[str, dict[str, float]] = {}
    for block in ("none", *options.blocks):
        found[block] = {}
        for atoms in options.atoms:
            command = [sys.executable, __file__, "--one", block, str(atoms)]
            shown = subprocess.run(command, check=False, capture_output=True, text=True)
            if shown.returncode:  # killed for memory
                print(f"{block}, {atoms} atoms: ended with {shown.returncode}", file=sys.stderr)
                continue
            found[block][str(atoms)] = json.loads(shown.stdout)["MiB"]
            print(f"{block}, {atoms} atoms: {found[block][str(atoms)]} MiB", file=sys.stderr)
    ratios = {
        block: {atoms: round(mib / found["none"][atoms], 4) for atoms, mib in row.items()}
        for block, row in found.items()
        if block != "none"
    }
    question = f"energy and forces of a carbon chain, SchNet of the published size, cutoff {CUTOFF} Å, float32, CPU"
    published = {block: {str(atoms): mib for atoms, mib in row.items()} for block, row in PUBLISHED.items()}
    store("memory", {"question": question, "MiB": found, "ratio to local": ratios, "published, MiB": published})


if __name__ == "__main__":
    main()
