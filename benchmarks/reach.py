"""How much of a molecule does the local network see? Widths of the test structures beside layers times cutoff.

    python benchmarks/reach.py pubchem_xtb conformers_xtb conformer_benchmark

The width is the largest distance of two atoms. An atom at one end learns of one at the other only where the width is
at most the number of layers times the cutoff.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np
from scipy.spatial.distance import pdist
from side_by_side import RESULTS, write

from mcgm.provenance import provenance
from mcgm.suites.data_sets import data_settings
from mcgm.training.config import DataConfig
from mcgm.training.preparation import open_parts
from mcgm.training.recipe import to_config

PATH = RESULTS / "reach.json"
REACHES = (9.0, 15.0)
"""Å: three layers of 3 Å and of 5 Å."""


def widths(name: str) -> dict[str, Any]:
    """Tenth, median and nine tenths of the widths (Å), and the share of structures that are wider than each reach."""
    test = open_parts(to_config(data_settings(name), DataConfig)).test
    width = np.array([pdist(structure.positions).max(initial=0.0) for structure in test])
    return {
        "structures": len(test),
        "atoms, mean": round(float(np.mean([len(structure) for structure in test])), 1),
        "width, Å": {f"{share:g}": round(float(np.quantile(width, share)), 2) for share in (0.1, 0.5, 0.9)},
        "wider than": {f"{reach:g} Å": round(float((width > reach).mean()), 3) for reach in REACHES},
    }


def table() -> str:
    """The stored figures as a table."""
    record = json.loads(PATH.read_text(encoding="utf-8"))
    lines = [
        "| Test structures | atoms, mean | width, Å: tenth, median, nine tenths | "
        + " | ".join(f"wider than {reach:g} Å" for reach in REACHES)
        + " |",
        "|---|---:|---:|" + "---:|" * len(REACHES),
    ]
    for name, row in record["data sets"].items():
        shares = (f"{100 * share:.0f} %" for share in row["wider than"].values())
        width = " / ".join(f"{value:.1f}" for value in row["width, Å"].values())
        lines.append(f"| {name} | {row['atoms, mean']:g} | {width} | " + " | ".join(shares) + " |")
    return "\n".join([*lines, "", f"`{record['provenance']['command']}`."])


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", help="data sets by name")
    found = {name: widths(name) for name in parser.parse_args().names}
    write(PATH, {"data sets": found, "provenance": provenance(["python", *sys.argv])})


if __name__ == "__main__":
    main()
