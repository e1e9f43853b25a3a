"""`mcgm relax`."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mcgm.commands.arguments import make_parser, model_path
from mcgm.commands.inputs import inputs, labels_argument
from mcgm.errors import ConfigError
from mcgm.files import replacing, require_another

if TYPE_CHECKING:
    from rich.progress import Progress

    from mcgm.dynamics.relax import Relaxed

EXAMPLE = """  mcgm relax runs/mine molecules.xyz -o relaxed.extxyz
  mcgm relax runs/mine crystal.cif -o relaxed.extxyz --cell --fmax 0.001"""


def run(arguments: list[str]) -> int:
    """Relax all structures of a file; the exit status is 1 if one did not converge."""
    known = _parser().parse_args(arguments)
    if known.output.suffix not in (".extxyz", ".xyz"):
        raise ConfigError(f"-o {known.output}: required: a name that ends in .extxyz or .xyz.")
    if not (math.isfinite(known.fmax) and known.fmax > 0):
        raise ConfigError(f"--fmax {known.fmax}: required: a finite force above zero, eV/Å.")
    if known.steps < 1:
        raise ConfigError(f"--steps {known.steps}: required: at least 1.")
    require_another(known.output, known.structures)
    count, failed = 0, 0
    from ase.io.extxyz import write_xyz

    with replacing(known.output) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for relaxed in _all(known):
            write_xyz(stream, [relaxed.atoms])
            if not relaxed.converged:
                failed += 1
                print(_complaint(count, relaxed, known.fmax), file=sys.stderr)
            count += 1
    print(f"{known.output}: {count - failed} of {count} structures converged to {known.fmax:g} eV/Å")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("relax", "Relax the structures of a file, one after another, to extxyz.", EXAMPLE)
    parser.add_argument("model", metavar="MODEL", help="model file, or the folder of a training")
    parser.add_argument("structures", metavar="STRUCTURES", help="any file that is read (extxyz, cif, db, npz, ...)")
    parser.add_argument("-o", "--output", required=True, type=Path, help="file to write, .extxyz or .xyz")
    labels_argument(parser)
    parser.add_argument("--fmax", type=float, default=0.01, help="largest force that may remain, eV/Å (0.01)")
    parser.add_argument("--steps", type=int, default=500, help="most steps for each structure (500)")
    parser.add_argument("--optimizer", choices=("lbfgs", "fire"), default="lbfgs", help="ASE's LBFGS or FIRE (lbfgs)")
    parser.add_argument("--cell", action="store_true", help="relax the cell, too (periodic structures)")
    parser.add_argument(
        "--clusters",
        choices=("fresh", "frozen"),
        default="fresh",
        help="frozen: those of the first frame, for models that jump",
    )
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64", help="precision (float64)")
    parser.add_argument("--device", default="cpu", help="e.g. cpu, cuda")
    return parser


def _all(known: argparse.Namespace) -> Iterator[Relaxed]:
    from mcgm.checkpoint import load
    from mcgm.dynamics.relax import relax
    from mcgm.dynamics.structures import movable_atoms

    path = model_path(known.model)
    potential = load(path, device=known.device)
    with inputs(path, known.structures, known.labels) as given, _bar() as progress:
        task = progress.add_task("")
        for count, atoms in enumerate(movable_atoms(given.path, given.labels)):

            def watch(step: int, largest_force: float, count: int = count) -> None:
                progress.update(task, description=f"structure {count}, step {step}: {largest_force:.3g} eV/Å")

            yield relax(
                potential,
                atoms,
                optimizer=known.optimizer,
                fmax=known.fmax,
                steps=known.steps,
                cell=known.cell,
                clusters=known.clusters,
                dtype=known.dtype,
                watch=watch,
            )


@contextmanager
def _bar() -> Iterator[Progress]:
    """Drawn on a terminal only; the number of structures is known at the end of the file."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield progress


def _complaint(count: int, relaxed: Relaxed, fmax: float) -> str:
    name = relaxed.atoms.info.get("name") or f"structure {count}"
    if relaxed.problem:
        return f"mcgm: {name} did not converge: after {relaxed.steps} steps: {relaxed.problem}"
    return (
        f"mcgm: {name} did not converge: {relaxed.largest_force:.3g} eV/Å after {relaxed.steps} steps; required: "
        f"{fmax:g}. Allow more --steps, or try the other --optimizer."
    )
