"""OE62's JSON (doi:10.1038/s41597-020-0385-y): a pandas table of one molecule a row, streamed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ijson
import numpy as np
from ase.data import atomic_numbers

from mcgm.data.labels import Labels
from mcgm.errors import DataError, StructureError
from mcgm.structure import Structure

SCALARS = ("energy", "charge", "spin")
_ITEM = re.compile(r"(?P<column>.+)\[(?P<item>-?\d+)\]")


def read_oe62(path: Path, labels: Labels) -> Iterator[Structure]:
    """Rows of a JSON that pandas wrote with `orient="split"`, never more than one in memory.

    `labels.positions` is the column with an xyz text. A key `column[-1]` takes one item of a list, such as
    `energies_occ_pbe0_vac_tier2[-1]`, the HOMO.

    Raises:
        DataError: not such a JSON, it ends early, a declared column is missing, or a row cannot be read.
    """
    columns = keys_oe62(path)
    places = {}
    for quantity in ("positions", *SCALARS, "name", "group"):
        key = getattr(labels, quantity)
        if key is None:
            continue
        column, item = _column(key)
        if column in columns:
            places[quantity] = (columns.index(column), item)
        elif (missing := labels.missing(quantity, str(path), columns)) is not None:
            raise missing
    for row, values in enumerate(_rows(path)):
        where = f"{path}, row {row}"
        if not isinstance(values, list):
            raise DataError(f"{where}: is {values!s:.40!r}; required: a list of {len(columns)} entries.")
        if len(values) != len(columns):
            raise DataError(f"{where}: has {len(values)} entries; required: {len(columns)}, one for each column.")
        try:
            yield _structure({q: _cell(values[k], item) for q, (k, item) in places.items()}, labels, where, row)
        except (StructureError, TypeError, ValueError, IndexError, KeyError, OverflowError) as error:
            raise error if isinstance(error, DataError) else DataError(f"{where}: {error}") from error


def keys_oe62(path: Path) -> list[str]:
    """Names of the columns."""
    with path.open("rb") as stream:
        try:
            columns = next(ijson.items(stream, "columns"), None)
        except (ijson.JSONError, ValueError) as error:  # ValueError: not UTF-8
            raise DataError(f"{path}: not a readable JSON ({error}). Was it copied completely?") from error
    if not isinstance(columns, list):
        raise DataError(
            f'{path}: has no "columns"; required: a table that pandas wrote with orient="split", as df_62k.json.'
        )
    return [str(column) for column in columns]


def count_oe62(path: Path, labels: Labels) -> None:
    """Unknown without reading the file."""
    return None


def parse_xyz(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers and positions of a plain xyz text: a count, a comment, and a line per atom.

    Raises:
        DataError: the count does not fit, an element is unknown, or a coordinate is not a number.
    """
    if not isinstance(text, str):
        raise DataError(f"required: an xyz text, got {text!s:.40!r}.")
    lines = text.strip("\n").splitlines()
    try:
        count = int(lines[0])
        atoms = [line.split() for line in lines[2:] if line.strip()]
        numbers = np.array([atomic_numbers[words[0]] for words in atoms], dtype=np.int64)
        positions = np.array([[float(word) for word in words[1:4]] for words in atoms]).reshape(-1, 3)
    except (ValueError, IndexError, KeyError) as error:
        raise DataError(f"is not an xyz text ({type(error).__name__}: {error}): {text[:60]!r}.") from error
    if count != len(numbers):
        raise DataError(f"the xyz text says {count} atoms and has {len(numbers)}.")
    return numbers, positions


def _column(key: str) -> tuple[str, int | None]:
    match = _ITEM.fullmatch(key)
    return (match["column"], int(match["item"])) if match else (key, None)


def _cell(value: Any, item: int | None) -> Any:
    return value if item is None or value is None else value[item]


def _rows(path: Path) -> Iterator[list[Any]]:
    with path.open("rb") as stream:
        read = 0
        try:
            for values in ijson.items(stream, "data.item", use_float=True):
                yield values
                read += 1
        except (ijson.JSONError, ValueError) as error:
            raise DataError(f"{path}: ends or breaks after {read} rows ({error}). Was it copied completely?") from error


def _structure(values: dict[str, Any], labels: Labels, where: str, row: int) -> Structure:
    try:
        numbers, positions = parse_xyz(values["positions"])
    except DataError as error:
        raise DataError(f"{where}, column {labels.positions!r}: {error}") from error
    entries: dict[str, Any] = {"name": str(values.get("name") or row), "group": str(values.get("group") or "")}
    for quantity in SCALARS:
        value = values.get(quantity)
        if value is None:
            if quantity in values and quantity not in labels.optional:
                raise DataError(f"{where}: {getattr(labels, quantity)!r} has no value; {quantity} is required.")
            continue
        entries[quantity] = float(value) * (labels.factor("energy") if quantity == "energy" else 1.0)
    return Structure(numbers=numbers, positions=positions * labels.factor("length"), **entries)
