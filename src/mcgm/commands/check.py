"""`mcgm check`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcgm.commands.arguments import make_parser, model_path
from mcgm.commands.inputs import inputs, labels_argument
from mcgm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rich.table import Table

    from mcgm.potential import Potential
    from mcgm.structure import Structure
    from mcgm.testing import Validation
    from mcgm.testing.claims import Check

EXAMPLE = """  mcgm check runs/mine                          every promise, on a zoo of structures
  mcgm check runs/mine mine.extxyz --limit 8    ... on the first eight structures of a file
  mcgm check runs/mine --quick --rows 1 2 3     fewer transforms and steps, some rows only"""

PROGRAM_ROWS = (13, 14, 15, 17)
"""Rows of the table that no model can break: files that execute, resuming, ranks, memory."""


def run(arguments: list[str]) -> int:
    """Measure every promise of a model; the exit status is 1 if one is broken."""
    parser = make_parser("check", "Measure what a model promises: symmetries, derivatives, paths, dynamics.", EXAMPLE)
    parser.add_argument("model", metavar="MODEL", help="model file, or the folder of a training")
    parser.add_argument("structures", metavar="STRUCTURES", nargs="?", help="any file that is read (default: the zoo)")
    labels_argument(parser)
    parser.add_argument("--limit", type=int, default=4, help="structures taken from the file, from its beginning (4)")
    parser.add_argument("--quick", action="store_true", help="fewer transforms, shorter path and dynamics")
    parser.add_argument("--rows", type=int, nargs="+", metavar="N", help="rows of the table to measure (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to a file")
    parser.add_argument("--dtype", choices=("float32", "float64"), help="precision (default: the model's own)")
    parser.add_argument("--device", default="cpu", help="e.g. cpu, cuda")
    known = parser.parse_args(arguments)
    if known.limit < 1:
        raise ConfigError(f"--limit {known.limit}: required: at least 1.")

    import torch

    from mcgm.checkpoint import load
    from mcgm.memory import keep_freed_memory
    from mcgm.testing import FULL, QUICK, validate_potential, zoo

    _require_rows(known.rows)
    keep_freed_memory()
    path = model_path(known.model)
    potential = load(path, device=known.device).requires_grad_(False)
    if known.dtype is not None:
        potential = potential.to(getattr(torch, known.dtype))
    structures = list(zoo().values()) if known.structures is None else _first(path, known)
    with _progress(known.rows) as watch:
        validation = validate_potential(
            potential, structures, effort=QUICK if known.quick else FULL, rows=known.rows, watch=watch
        )
    if not validation.structures:
        raise DataError(
            f"{path}: knows none of the structures ({', '.join(validation.left_out)}). Give a file with its elements."
        )
    _show(path, potential, validation)
    if known.json is not None:
        _write(known.json, path, potential, validation)
    return 0 if validation.passed else 1


def _require_rows(rows: Sequence[int] | None) -> None:
    from mcgm.testing.claims import CHECKS

    numbers = sorted({check.number for check in CHECKS})
    for row in rows or ():
        if row in PROGRAM_ROWS:
            raise ConfigError(f"--rows {row}: is about the program, not about a model; the test suite measures it.")
        if row not in numbers:
            raise ConfigError(f"--rows {row}: no such row. Known: {', '.join(map(str, numbers))}.")


def _first(model: Path, known: argparse.Namespace) -> list[Structure]:
    from mcgm.data import open_structures

    with inputs(model, known.structures, known.labels) as given:
        found = list(islice(open_structures(given.path, given.labels), known.limit))
    if not found:
        raise DataError(f"{known.structures}: has no structures.")
    return found


@contextmanager
def _progress(rows: Sequence[int] | None) -> Iterator[Callable[[Check, Sequence[Any]], Iterator[Any]]]:
    """Draws two bars, on a terminal only: the checks, and the items of the present one."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from mcgm.testing.claims import CHECKS

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<45}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    count = sum(rows is None or check.number in rows for check in CHECKS)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        everything = progress.add_task("checks", total=count)

        def watch(check: Check, items: Sequence[Any]) -> Iterator[Any]:
            present = progress.add_task(f"{check.number} {check.claims[0].text}", total=len(items))
            try:
                for item in items:
                    yield item
                    progress.advance(present)
            finally:
                progress.remove_task(present)
                progress.advance(everything)

        yield watch


def _show(path: Path, potential: Potential, validation: Validation) -> None:
    from rich.console import Console

    console = Console()
    console.print(_table(validation))
    words = [
        f"{path}: {str(potential.dtype).removeprefix('torch.')}, derivatives and paths in float64; "
        f"{'smooth' if potential.is_smooth else 'not smooth: paths, drift and copies are reported'}.",
        f"{validation.effort}.",
        f"Structures: {', '.join(validation.structures)}.",
    ]
    if validation.left_out:
        words.append(
            f"Left out, for they have elements that the model does not know: {', '.join(validation.left_out)}."
        )
    words += [f"Not promised, and reported only: {promise}, for {why}." for promise, why in _left_out(potential)]
    words.append(f"Rows {', '.join(map(str, PROGRAM_ROWS))} are about the program: its test suite measures them.")
    console.print("\n".join(words), highlight=False, markup=False)
    broken = sorted({row.number for row in validation.failures})
    if broken:
        console.print(f"Broken promises: row {', '.join(map(str, broken))}.", style="bold red")
    else:
        console.print("Every promise that was measured is kept.", style="bold green")


def _left_out(potential: Potential) -> list[tuple[str, str]]:
    return [item for item in potential.not_promised.items() if item[0] != "smooth"]


def _table(validation: Validation) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    colours = {"passed": "green", "FAILED": "bold red", "error": "bold red"}
    grid = Table("#", "claim", "measured", "limit", "unit", "verdict", "where, how", box=SIMPLE_HEAD, pad_edge=False)
    for place in (0, 2, 3):
        grid.columns[place].justify = "right"
    for row in validation.rows:
        measured = "-" if row.measured is None else f"{row.measured:.1e}"
        limit = "-" if row.limit is None else f"{row.limit:.0e}"
        verdict = Text(row.verdict, style=colours.get(row.verdict, ""))
        texts = (str(row.number), row.claim, measured, limit, row.unit)
        grid.add_row(*map(Text, texts), verdict, Text(row.error or row.note))
    return grid


def _write(file: Path, path: Path, potential: Potential, validation: Validation) -> None:
    from mcgm.files import replacing

    content = {"model": str(path), "dtype": str(potential.dtype).removeprefix("torch."), "smooth": potential.is_smooth}
    content |= {"not_promised": potential.not_promised} | validation.plain()
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
