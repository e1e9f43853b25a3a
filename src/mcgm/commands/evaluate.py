"""`mcgm evaluate`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcgm.commands.arguments import make_parser, model_path, watched
from mcgm.commands.inputs import labelled, labels_argument
from mcgm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from mcgm.data import Dataset
    from mcgm.report.result import Metrics
    from mcgm.training.evaluation import Evaluation
    from mcgm.training.spread import SpreadQuality

EXAMPLE = """  mcgm evaluate runs/data test.extxyz
  mcgm evaluate runs/data --part val --json     on a part of the data that it was trained on"""


def run(arguments: list[str]) -> int:
    """Print the errors of a model on a data set."""
    parser = make_parser("evaluate", "Errors of a model on labelled structures.", EXAMPLE)
    parser.add_argument("model", metavar="MODEL", help="model file, or the folder of a training")
    parser.add_argument("data", metavar="DATA", nargs="?", help="data file; default: the data of its training")
    parser.add_argument("--part", choices=("train", "val", "test", "all"), help="part of the training's split")
    labels_argument(parser)
    parser.add_argument("--no-forces", action="store_true", help="energies only")
    parser.add_argument("--device", default="cpu", help="e.g. cpu, cuda")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    known = parser.parse_args(arguments)
    if known.data is not None and known.part is not None:
        raise ConfigError("--part is of the data that the model was trained on; give either DATA or --part.")

    from mcgm.checkpoint import load, read_header
    from mcgm.memory import bounded_memory, keep_freed_memory
    from mcgm.training.evaluation import evaluate

    path = model_path(known.model)
    potential = load(path, device=known.device)
    recipe = read_header(path).get("extra", {}).get("recipe")
    if known.data is None:
        name, dataset = _part(path, recipe, known.part or "test")
    else:
        name, dataset = Path(known.data).name, _open(path, known.data, known.labels)
    forces = False if known.no_forces else None
    keep_freed_memory()
    with bounded_memory():
        evaluation = evaluate(potential, dataset, forces=forces, watch=watched("evaluating"))
    if known.json:
        json.dump({"model": str(path), "data": name} | evaluation.plain, sys.stdout, indent=1)
        print()
        return 0
    from rich.console import Console

    show({name: evaluation}, Console())
    return 0


def _open(model: Path, data: str, labels: str | None) -> Dataset:
    """The file by this declaration, or else as the model's training data were read."""
    from mcgm.data import Dataset

    with labelled(model, data, labels) as given:
        return Dataset.open(data, given.labels)


def _part(path: Path, recipe: Mapping[str, Any] | None, part: str) -> tuple[str, Dataset]:
    from mcgm.training.config import TrainConfig
    from mcgm.training.fit import data_of
    from mcgm.training.preparation import files_of, have_changed, open_parts
    from mcgm.training.recipe import to_config

    if recipe is None:
        raise ConfigError(f"{path}: does not say what it was trained on. Give DATA.")
    data = to_config(recipe, TrainConfig, source=str(path)).data
    if changed := have_changed(data_of(path.parent), files_of(data)):
        raise DataError(
            f"{changed[0]}: has changed since the training of {path}: nobody knows which of its structures were "
            "trained on. Give DATA: another file, or this one to evaluate all of it."
        )
    try:
        parts = open_parts(data)
    except DataError as error:
        if data.path == "sample" or Path(data.path).is_absolute() or Path(data.path).exists():
            raise
        raise DataError(f"{error} That is the path in the training's recipe, seen from {Path.cwd()}.") from error
    return part, parts.everything if part == "all" else getattr(parts, part)


def show(evaluations: Mapping[str, Evaluation], console: Console) -> None:
    """Print the errors and, for a committee, what its spread says of them; one row for each data set."""
    console.print(table({name: evaluation.metrics for name, evaluation in evaluations.items()}))
    found = {name: evaluation.quality for name, evaluation in evaluations.items()}
    qualities = {name: quality for name, quality in found.items() if quality is not None}
    if qualities:
        console.print(spread_table(qualities))


def spread_table(rows: Mapping[str, SpreadQuality]) -> Table:
    """The spread of a committee beside its errors, two rows for each data set."""
    from rich.table import Table

    grid = Table("data", "spread of", "mean", "rank correlation", "error/spread", "out of domain")
    for column in grid.columns[2:]:
        column.justify = "right"
    for name, item in rows.items():
        outside = "-" if item.out_of_domain is None else str(item.out_of_domain)
        energy = (item.energy_spread_mev_per_atom, item.energy_correlation, item.energy_error_per_spread)
        forces = (item.force_spread_mev_per_A, item.force_correlation, item.force_error_per_spread)
        for place, what, values in ((name, "E, meV/atom", energy), ("", "F, meV/Å", forces)):
            shown = ("-" if value is None else f"{value:.3g}" for value in values)
            grid.add_row(place, what, *shown, outside if place else "")
    return grid


def table(rows: Mapping[str, Metrics]) -> Table:
    """Errors as a table, one row for each data set."""
    from rich.table import Table

    grid = Table("data", "count", "E MAE meV", "meV/atom", "E RMSE meV", "F MAE meV/Å", "F RMSE meV/Å")
    charged = any(item.charge_mae_me is not None or item.dipole_mae_meA is not None for item in rows.values())
    if charged:
        grid.add_column("q MAE me")
        grid.add_column("dipole MAE meÅ")
    strained = any(item.stress_mae_mev_per_A3 is not None for item in rows.values())
    if strained:
        grid.add_column("stress MAE meV/Å³")
    for column in grid.columns[1:]:
        column.justify = "right"
    for name, item in rows.items():
        values: list[float | None] = [item.energy_mae_mev, item.energy_mae_mev_per_atom, item.energy_rmse_mev]
        values += [item.force_mae_mev_per_A, item.force_rmse_mev_per_A]
        if charged:
            values += [item.charge_mae_me, item.dipole_mae_meA]
        if strained:
            values += [item.stress_mae_mev_per_A3]
        grid.add_row(name, str(item.n_structures), *("-" if value is None else f"{value:.4g}" for value in values))
    return grid
