"""`mcgm compare`."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from mcgm.commands.arguments import configure, make_parser
from mcgm.training.config import CompareConfig

EXAMPLE = """  mcgm compare data.extxyz                   SchNet with and without MCGM on your own structures
  mcgm compare configs/sample.yaml -o demo   finished cells are kept: run it again to go on
  mcgm compare data.extxyz --seeds '[0]' --training.epochs 20"""


def run(arguments: list[str]) -> int:
    """Run variants x seeds, then print the table and write the report."""
    parser = make_parser("compare", "Train variants x seeds on the same data with the same budget.", EXAMPLE)
    parser.add_argument("source", metavar="CONFIG|DATA", help="recipe (.yaml), data file, or 'sample'")
    parser.add_argument("-o", "--output", help="folder for results and report.html (default: runs/compare-NAME)")
    parser.add_argument_group("settings", "any key of a recipe: --section.key VALUE, e.g. --training.epochs 50")
    known, settings = parser.parse_known_args(arguments)
    changes: dict[str, Any] = {}
    if known.output is not None:
        changes["output"] = known.output
    elif not known.source.endswith((".yaml", ".yml")):
        changes["output"] = f"runs/compare-{Path(known.source).stem}"
    config = configure(known.source, settings, CompareConfig, changes)
    os.environ.setdefault("MCGM_COMMAND", shlex.join(["mcgm", "compare", *arguments]))
    return _compare(config)


def _compare(config: CompareConfig) -> int:
    from rich.console import Console

    from mcgm.report import write_report
    from mcgm.report.summary import sentences, summarize
    from mcgm.report.table import terminal_table
    from mcgm.training.comparison import compare

    console = Console()
    output = Path(config.output)
    results = compare(config, output, console)
    write_report(results, output / "cells", output / "report.html")
    rows = summarize(results)
    plural = "s" if len(config.seeds) > 1 else ""
    console.print(terminal_table(rows, title=f"{results[0].dataset}, {len(config.seeds)} seed{plural}"))
    for sentence in sentences(rows):
        console.print("".join(phrase.text for phrase in sentence), highlight=False)
    console.print(f"{output / 'report.html'}")
    return 0
