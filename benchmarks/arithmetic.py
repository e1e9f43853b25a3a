"""How much arithmetic does a block add? Products of matrices in energy + forces, as a ratio to the backbone alone.

    python benchmarks/arithmetic.py [--size paper|small] [--molecules 64]

Multiplications and additions of matrix products (PyTorch's counter), which are nearly all of a network's: what a block
costs at least, however it is written. `overhead.py` has the time.
"""

from __future__ import annotations

import argparse

import torch
from overhead import BLOCKS, CUTOFF, molecules
from side_by_side import store
from torch.utils.flop_counter import FlopCounterMode

from mcgm import Batch, build
from mcgm.backbones import BACKBONES


def operations(backbone: str, block: str, size: str, batch: Batch) -> int:
    """Of energy and forces of a batch."""
    torch.manual_seed(0)
    model = build(backbone=backbone, long_range=block, size=size, cutoff=CUTOFF).eval()
    with FlopCounterMode(display=False) as counter:
        model(batch, forces=True, stress=False)
    return int(counter.get_total_flops())


def main() -> None:
    """All backbones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="paper", choices=["small", "paper"])
    parser.add_argument("--molecules", type=int, default=64)
    options = parser.parse_args()
    batch = Batch.from_structures(molecules(options.molecules), cutoff=CUTOFF)
    figures: dict[str, object] = {
        "question": f"matrix products of energy + forces, {options.molecules} molecules of about 40 atoms, cutoff "
        f"{CUTOFF} Å, size {options.size}"
    }
    for backbone in BACKBONES:
        alone = operations(backbone, "none", options.size, batch)
        figures[backbone] = {
            "operations, local": alone,
            "ratio to local": {
                block: round(operations(backbone, block, options.size, batch) / alone, 4) for block in BLOCKS[1:]
            },
        }
    store("arithmetic", figures)


if __name__ == "__main__":
    main()
