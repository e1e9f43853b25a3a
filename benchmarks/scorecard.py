"""Every block in one table: accuracy, time, memory, and what it keeps. The first table of the README."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import suite_across
from step_times import name_of

from mcgm.report.summary import Spread, VariantSummary

RESULTS = Path(__file__).parent / "results"
BLOCKS_PAGE = Path(__file__).parent.parent / "docs" / "blocks.md"
SUITE = "rivals"

ROWS: dict[str, tuple[str, str]] = {
    "local": ("the network alone", "none"),
    "local-wide": ("a wider network alone", "none"),
    "element-mean": ("element means", "element_mean"),
    "mcgm-paper": ("MCGM as published", "mcgm_paper"),
    "mcgm": ("MCGM, smooth", "mcgm"),
    "mcgm-oriented": ("**MCGM + orientations, the default**", "mcgm_oriented"),
    "range-slim": ("RANGE, as wide as the atoms", "range"),
    "neural-atoms": ("Neural Atoms", "neural_atoms"),
    "ewald": ("Ewald message passing", "ewald"),
    "neural-p3m": ("Neural P3M", "neural_p3m"),
    "charges": ("latent charges", "charges"),
}
"""Variants of the suite, what they are called here, and the block whose row of `docs/blocks.md` says what they keep."""

KEPT = ("smooth", "far molecules add up", "copies add up", "cells")
"""Columns of the table in `docs/blocks.md`, where tests measure them."""


def table() -> str:
    """Means over the data sets on which all of these were run with SchNet; the rest from their own files."""
    found = {name: row for name, row in suite_across.rows().items() if ", schnet" in name and row.keys() >= ROWS.keys()}
    times = _variants(name_of(SUITE, None), "variants")
    memory = _variants(f"step_memory_{SUITE}.json", "MiB")
    promises = blocks_table()
    lines = [
        "| In the slot after every layer | energy error, % | force error, % | time | memory | smooth | "
        "far molecules add up | copies add up | cells |",
        "|---|---:|---:|---:|---:|---|---|---|---|",
    ]
    for variant, (title, block) in ROWS.items():
        rows = [row[variant] for row in found.values()]
        cells = [
            "–" if variant == "local" else mean_change(rows, "energy_change"),
            "–" if variant == "local" else mean_change(rows, "force_change"),
            f"{times[variant]['seconds per step'] / times['local']['seconds per step']:.2f}",
            f"{memory[variant] / memory['local']:.2f}",
            *(promises[block][column] for column in KEPT),
        ]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    sets = "; ".join(found)
    sources = ", ".join(f"`{_command(name)}`" for name in (name_of(SUITE, None), f"step_memory_{SUITE}.json"))
    notes = (
        f"SchNet, size small, the same data, steps and seeds for all. Errors: change against the network alone, mean "
        f"± standard error over {len(found)} data sets and three seeds of each ({sets}; forces where there are any); "
        f"negative is better. Time and memory of a training step on a CPU, relative to the network alone: {sources}. "
        'What is kept is measured by the tests; `scope`: with `long_range_options={"scope": "molecule"}`.'
    )
    return "\n".join([*lines, "", notes])


def mean_change(rows: Sequence[VariantSummary], what: str) -> str:
    """Mean over data sets, each counting once, and the standard error that the seeds of each leave."""
    changes: list[Spread] = [change for row in rows if (change := getattr(row, what)) is not None]
    errors = [change.error for change in changes if change.error is not None]
    mean = float(np.mean([change.mean for change in changes]))
    text = f"{mean:+.1f}".replace("-", "−")
    if len(errors) < len(changes):
        return text
    return f"{text} ± {float(np.sqrt(np.sum(np.square(errors)))) / len(changes):.1f}"


def blocks_table() -> dict[str, dict[str, str]]:
    """The table of docs/blocks.md: yes, no, or how it can be had."""
    text = BLOCKS_PAGE.read_text(encoding="utf-8").split("<!-- blocks -->")[1].split("\n\n")[1]
    head, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines())
    plain = ({key: _plain(cell) for key, cell in zip(head, cells, strict=True)} for cells in lines)
    return {cells["`long_range`"].strip("`"): cells for cells in plain}


def _plain(cell: str) -> str:
    return "`scope`" if cell == "no[^scope]" else re.sub(r"\[\^\w+\]", "", cell)


def _variants(name: str, key: str) -> dict:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))[key]


def _command(name: str) -> str:
    return str(json.loads((RESULTS / name).read_text(encoding="utf-8"))["provenance"]["command"])
