"""QM9 as the csv files of the package qm9pack: one molecule a row, lists as text."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from mcgm.data.labels import Labels
from mcgm.errors import DataError, StructureError
from mcgm.structure import Structure

SCALARS = ("energy", "charge", "spin")
TEXT = ("name", "group")


def read_qm9(path: Path, labels: Labels) -> Iterator[Structure]:
    """Rows one at a time; `labels.numbers` is the column with the list of elements, `positions` that of coordinates.

    Raises:
        DataError: a declared column is missing, or a row cannot be read; the message has the row.
    """
    with _rows(path) as rows:
        columns = rows.fieldnames or []
        keys = {}
        for quantity in ("numbers", "positions", *SCALARS, *TEXT):
            key = getattr(labels, quantity)
            if key is None:
                continue
            if key in columns:
                keys[quantity] = key
            elif (missing := labels.missing(quantity, str(path), columns)) is not None:
                raise missing
        for number, row in enumerate(rows):
            try:
                yield _structure({quantity: row[key] for quantity, key in keys.items()}, labels, f"{path}[{number}]")
            except (StructureError, KeyError, TypeError, ValueError) as error:
                raise DataError(f"{path}, line {rows.line_num}, row {number}: {error}") from error


def keys_qm9(path: Path) -> list[str]:
    """Names of the columns."""
    with _rows(path) as rows:
        return sorted(rows.fieldnames or [])


def count_qm9(path: Path, labels: Labels) -> None:
    """Unknown without reading the file."""


@contextmanager
def _rows(path: Path) -> Iterator[csv.DictReader[str]]:
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            yield csv.DictReader(stream)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: is no csv file ({error}).") from error


def _structure(cells: dict[str, str], labels: Labels, name: str) -> Structure:
    values: dict[str, Any] = {"name": name}
    for quantity, text in cells.items():
        if quantity in TEXT:
            values[quantity] = text
        elif quantity in SCALARS and not (text == "" and quantity in labels.optional):
            values[quantity] = float(text) * (labels.factor("energy") if quantity == "energy" else 1.0)
    symbols = json.loads(cells["numbers"].replace("'", '"'))
    # no json: Mathematica wrote 0. and 1.
    coordinates = cells["positions"].replace("[", "").replace("]", "").split(",")
    positions = np.array(coordinates, dtype=np.float64).reshape(-1, 3)
    return Structure(
        numbers=np.array([atomic_numbers[symbol] for symbol in symbols]),
        positions=positions * labels.factor("length"),
        **values,
    )
