"""Are errors on ions those of the total charge? Errors of a finished comparison on neutral structures and on ions.

python benchmarks/by_charge.py runs/rivals-conformer_benchmark
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import RESULTS, write

from mcgm.provenance import provenance
from mcgm.report.result import RunResult, read_results
from mcgm.report.summary import Spread
from mcgm.suites import suite_recipe
from mcgm.training.config import DataConfig
from mcgm.training.preparation import open_parts
from mcgm.training.recipe import to_config

FILE = "by_charge.json"
PARTS = ("neutral", "ions")


def errors(comparison: Path, results: Sequence[RunResult]) -> dict[str, Any]:
    """Mean absolute energy errors of every variant and seed, meV, apart for neutral test structures and ions."""
    test = open_parts(to_config(results[0].config["data"], DataConfig)).test
    charged = test.total_charges != 0
    found: dict[str, dict[str, list[float]]] = {}
    for result in results:
        if result.predictions is None:
            continue
        with np.load(comparison / "cells" / result.predictions, allow_pickle=False) as arrays:
            wrong = 1e3 * np.abs(arrays["energy_predicted"] - arrays["energy"])
        row = found.setdefault(result.label, {part: [] for part in PARTS})
        for part, chosen in zip(PARTS, (~charged, charged), strict=True):
            row[part].append(round(float(wrong[chosen].mean()), 2))
    return {
        "kind": "errors by charge",
        "structures": {"neutral": int((~charged).sum()), "ions": int(charged.sum())},
        "energy_mae_mev": found,
    }


def table(folder: Path) -> list[str]:
    """The stored errors as lines of a document; nothing where there are none."""
    path = folder / FILE
    if not path.exists():
        return []
    record = json.loads(path.read_text(encoding="utf-8"))
    count = record["structures"]
    lines = [
        "The same errors apart for neutral structures and ions:",
        "",
        f"| Variant | {count['neutral']} neutral structures, meV | {count['ions']} ions, meV |",
        "|---|---:|---:|",
    ]
    for label, row in record["energy_mae_mev"].items():
        lines.append(f"| {label} | " + " | ".join(_spread(Spread.of(row[part])) for part in PARTS) + " |")
    return [*lines, "", f"`{record['provenance']['command']}`."]


def _spread(values: Spread | None) -> str:
    assert values is not None
    return f"{values.mean:.0f}" + ("" if values.error is None else f" ± {values.error:.0f}")


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path, metavar="FOLDER", help="a finished suite, <suite>-<data>")
    comparison = parser.parse_args().comparison
    order = list(suite_recipe(comparison.name.split("-")[0])["variants"])
    results = sorted(read_results(comparison / "cells"), key=lambda result: (order.index(result.variant), result.seed))
    figures = errors(comparison, results)
    write(RESULTS / comparison.name / FILE, figures | {"provenance": provenance(["python", *sys.argv])})


if __name__ == "__main__":
    main()
