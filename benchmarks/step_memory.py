"""How much memory does a training step of every variant of a suite need? Peak of a process, beside the network alone.

python benchmarks/step_memory.py rivals

The steps of `step_times.py`: fresh weights, molecules of the bundled sample, one process for each variant. Freed memory
goes back at once, so that the peak is that of the tensors in use.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import torch
from memory import peak_mib
from side_by_side import count_exactly, store
from step_times import ATOMS, WITHOUT_FORCES, config_of, molecules_of_sample, step_of

from mcgm.suites import SUITES


def one(suite: str, variant: str) -> float:
    """MiB of a step in this process, beyond what the first step left."""
    torch.set_num_threads(1)
    step = step_of(config_of(suite).cell(variant, 0, ""), molecules_of_sample(), forces=suite not in WITHOUT_FORCES)
    step.run()
    return peak_mib(step.run)


def main() -> None:
    """All variants of one suite."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=list(SUITES))
    parser.add_argument("--one", metavar="VARIANT", help="in this process; prints one figure")
    options = parser.parse_args()
    count_exactly()
    if options.one:
        print(one(options.suite, options.one))
        return
    mib: dict[str, float] = {}
    for variant in config_of(options.suite).variants:
        command = [sys.executable, __file__, options.suite, "--one", variant]
        mib[variant] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{variant}: {mib[variant]} MiB", file=sys.stderr)
    question = f"peak of a training step beyond what it begins with, molecules of {ATOMS[0]} to {ATOMS[1]} atoms, CPU"
    store(f"step_memory_{options.suite}", {"question": question, "MiB": mib})


if __name__ == "__main__":
    main()
