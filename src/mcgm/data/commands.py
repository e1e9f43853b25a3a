"""`mcgm data inspect` and `mcgm data convert`, as functions of plain arguments."""

from __future__ import annotations

import json as json_format
from pathlib import Path

from rich.console import Console

from mcgm.data.dataset import Dataset
from mcgm.data.inspect import inspect
from mcgm.data.labels import Labels
from mcgm.data.readers import open_structures
from mcgm.data.sample import sample_path
from mcgm.data.writers import write_structures
from mcgm.files import require_another


def inspect_command(
    file: Path, labels: Labels | str | None = None, format: str | None = None, json: bool = False
) -> None:
    """Show what a data file holds and what looks wrong in it.

    Example: mcgm data inspect train.extxyz

    Args:
        file: the data file, or "sample" for the bundled one.
        labels: name of a preset (ase, npz, runner, zip, md17, qm7, qm9, aqm, oe62, …) or keys and units.
        format: ase, npz, zip, hdf5, oe62, qm9 or runner; by default the suffix decides.
        json: print JSON instead of a table.
    """
    report = inspect(file, labels, format=format)
    if json:
        print(json_format.dumps(report.as_dict(), indent=1))
    else:
        report.print()


def convert_command(
    file: Path, output: Path | None = None, labels: Labels | str | None = None, format: str | None = None
) -> None:
    """Convert a data file to .extxyz or .npz in eV, Å and e; without output, to the mapped cache beside it.

    Example: mcgm data convert AQM-gas.hdf5 aqm.extxyz

    Args:
        file: the data file, or "sample" for the bundled one.
        output: .extxyz, .xyz or .npz.
        labels: name of a preset (ase, npz, runner, zip, md17, qm7, qm9, aqm, oe62, …) or keys and units.
        format: ase, npz, zip, hdf5, oe62, qm9 or runner; by default the suffix decides.
    """
    console = Console()
    if output is None:
        console.print(f"{Dataset.open(file, labels, format=format)} is ready.", highlight=False)
        return
    source = sample_path() if str(file) == "sample" else file
    require_another(output, source)
    write_structures(open_structures(source, labels, format=format), output)
    console.print(f"{output} written.", highlight=False)
