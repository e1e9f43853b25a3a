"""Results of training runs, and the report that is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mcgm.report.predictions import ClusteredMolecule, ClusterLevel, Predictions, load_molecules, save_molecules
from mcgm.report.result import CurvePoint, Metrics, RunResult, read_results, require_one_experiment

__all__ = [
    "ClusterLevel",
    "ClusteredMolecule",
    "CurvePoint",
    "Metrics",
    "Predictions",
    "RunResult",
    "load_molecules",
    "read_results",
    "report_command",
    "save_molecules",
    "write_report",
]


def write_report(results: Sequence[RunResult], folder: Path, output: Path) -> None:
    """One self-contained HTML page on these results; see `mcgm.report.page.write_report`."""
    # Imported here: who only writes results needs no matplotlib.
    from mcgm.report import page

    page.write_report(results, folder, output)


def report_command(folder: Path, output: Path) -> None:
    """One self-contained HTML page on all results in a folder; `write_report` says what is written beside it.

    Raises:
        DataError: no results there, or results that cannot be read or compared, as seeds of a variant with other
            settings.
    """
    results = read_results(folder)
    require_one_experiment(results)
    write_report(results, folder, output)
