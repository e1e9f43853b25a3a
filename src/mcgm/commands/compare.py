"""`mcgm compare`."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from mcgm.commands.arguments import configure_from, content_of, make_parser, without_settings
from mcgm.errors import ConfigError, unknown_name
from mcgm.suites import DATA_SETS, SUITES, data_recipe, suite_recipe
from mcgm.training.config import CompareConfig
from mcgm.training.recipe import RECIPE_SUFFIXES, as_plain, merge

WIDE = 160
"""Columns of a table that goes into a file or a pipe."""

EXAMPLE = """  mcgm compare data.extxyz                   SchNet without and with the default block, on your data
  mcgm compare configs/sample.yaml -o demo   finished cells are kept: run it again to go on
  mcgm compare --suite rivals --data sample  every block in the same slot; suites and data sets by name
  mcgm compare data.extxyz --seeds '[0]' --training.epochs 20"""


def run(arguments: list[str]) -> int:
    """Run variants x seeds, then print the table and write the report."""
    parser = make_parser("compare", "Train variants x seeds on the same data with the same budget.", EXAMPLE)
    parser.add_argument("source", nargs="?", metavar="CONFIG|DATA", help="recipe (.yaml), data file, or 'sample'")
    parser.add_argument("--suite", help="a shipped comparison instead of a recipe: " + ", ".join(SUITES))
    parser.add_argument("--data", help="file, or data set by name: " + ", ".join(DATA_SETS))
    parser.add_argument(
        "--only", metavar="NAMES", help="these variants of it alone, e.g. local,mcgm; others may follow"
    )
    parser.add_argument("-o", "--output", help="folder for results and report.html (default: runs/compare-NAME)")
    parser.add_argument_group("settings", "any key of a recipe: --section.key VALUE, e.g. --training.epochs 50")
    own, settings = without_settings(arguments, ("--suite", "--data", "--only", "--output", "--help"))
    known = parser.parse_args(own)
    if (known.source is None) == (known.suite is None):
        raise ConfigError("required: a recipe or a data file, or --suite with --data; see mcgm compare --help.")
    config = configure_from(*_content(known), settings, CompareConfig, _changes(known))
    os.environ.setdefault("MCGM_COMMAND", shlex.join(["mcgm", "compare", *arguments]))
    return _compare(_only(config, known.only))


def _content(known: Any) -> tuple[dict[str, Any], str]:
    """What the recipe says before any change, and where it is from."""
    if known.suite is not None:
        content, source = suite_recipe(known.suite), f"suite {known.suite}"
    else:
        content, source = content_of(known.source, CompareConfig)
    if known.data is not None:
        content = merge(content, data_recipe(known.data))
    if known.suite is not None and "path" not in content.get("data", {}):
        raise ConfigError(f"--suite {known.suite} needs --data: a file, or one of {', '.join(DATA_SETS)}.")
    return {"variants": as_plain(CompareConfig())["variants"]} | content, source  # others may be added to the default


def _changes(known: Any) -> dict[str, Any]:
    """The folder for results, where it is not left to a recipe."""
    if known.output is not None:
        return {"output": known.output}
    if known.suite is not None:
        return {"output": f"runs/{known.suite}-{Path(known.data).stem if known.data else 'own'}"}
    return {} if known.source.endswith(RECIPE_SUFFIXES) else {"output": f"runs/compare-{Path(known.source).stem}"}


def _only(config: CompareConfig, names: str | None) -> CompareConfig:
    """The variants of these names, and those that they are compared with.

    Raises:
        ConfigError: a name that is none of the variants.
    """
    if names is None:
        return config
    from mcgm.training.widening import widened

    wanted = {name.strip() for name in names.split(",")}
    for name in wanted:
        if name not in config.variants:
            raise ConfigError("--only: " + unknown_name("variant", name, config.variants))
    wanted |= {reference for name in wanted if (reference := config.reference_of(name)) is not None}
    chosen = {name: variant for name, variant in widened(config).variants.items() if name in wanted}
    return dataclasses.replace(config, variants=chosen)


def _compare(config: CompareConfig) -> int:
    from rich.console import Console

    from mcgm.report import write_report
    from mcgm.report.summary import sentences, summarize
    from mcgm.report.table import terminal_table
    from mcgm.training.comparison import compare

    console = Console(width=None if sys.stdout.isatty() else WIDE)
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
