"""numpy archives: atoms one after another, padded, or many geometries of one composition."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mcgm.data.labels import Labels, is_absent
from mcgm.errors import DataError, StructureError
from mcgm.structure import REAL_KINDS, Structure

PER_ATOM = ("forces", "charges")
SCALARS = ("energy", "charge", "spin")
PER_STRUCTURE = (*SCALARS, "stress", "dipole", "cell", "pbc", "name", "group")
AXES: Mapping[str, tuple[int, int]] = {
    "n_atoms": (1, 1),
    "positions": (2, 3),
    "forces": (2, 3),
    "stress": (2, 3),
    "cell": (2, 3),
}
"""Least and most axes of an array by quantity; one or two for the others."""


def read_npz(path: Path, labels: Labels) -> Iterator[Structure]:
    """Structures of an npz in one of three layouts, told apart by shape.

    Flat: `n_atoms` (structure,) and per-atom arrays one after another. Padded: numbers (structure, most), zeros where
    there is no atom. Fixed: numbers (atom,) and positions (structure, atom, 3).

    Raises:
        DataError: not an npz, a declared key is missing, or lengths do not fit together.
    """
    arrays = _load(path, labels)
    atoms = _atoms_of(path, arrays, labels)
    factors = {quantity: labels.factor(quantity) for quantity in ("energy", "forces", "stress", "dipole", "length")}
    for index in range(_count(arrays)):
        select = atoms(index)
        values: dict[str, Any] = {}
        for quantity in set(PER_ATOM + PER_STRUCTURE) & set(arrays):
            value = select(arrays[quantity]) if quantity in PER_ATOM else arrays[quantity][index]
            converted = _converted(quantity, value, factors.get(quantity, 1.0))
            if not (quantity in labels.optional and is_absent(converted)):
                values[quantity] = converted
        if "cell" in values:
            values["cell"] = values["cell"] * factors["length"]
        values.setdefault("name", f"{path.name}[{index}]")
        positions = select(arrays["positions"]) * factors["length"]
        try:
            yield Structure(numbers=select(arrays["numbers"]), positions=positions, **values)
        except StructureError as error:
            raise DataError(f"{path}, entry {index}: {error}") from error


def keys_npz(path: Path) -> list[str]:
    """Names of the arrays in the archive."""
    with _open(path) as file:
        return sorted(file.files)


def count_npz(path: Path, labels: Labels) -> int:
    """How many structures the archive has."""
    with _open(path) as file:
        key = next((k for k in (labels.n_atoms, labels.positions) if k in file.files), None)
        return len(file[key]) if key else 0


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    # numpy leaves the file open when it is not an archive, so it is opened here.
    with path.open("rb") as stream:
        if stream.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX:
            raise DataError(f"{path}: one bare array; required: an npz archive with numbers and positions.")
        if not zipfile.is_zipfile(stream):  # numpy would take it for a pickle, and advise to load that
            raise DataError(f"{path}: not a readable npz archive: no complete zip file. Was it copied completely?")
        stream.seek(0)
        try:
            file = np.load(stream, allow_pickle=False)
        except Exception as error:  # zipfile and numpy raise whatever a damaged byte leads to
            raise DataError(f"{path}: not a readable npz archive ({error}). Was it copied completely?") from error
        with file:
            yield file


def _load(path: Path, labels: Labels) -> Mapping[str, np.ndarray]:
    arrays = {}
    with _open(path) as file:
        for quantity in ("numbers", "positions", "n_atoms", *PER_ATOM, *PER_STRUCTURE):
            key = getattr(labels, quantity)
            if key is None:
                continue
            if key not in file.files:
                missing = labels.missing(quantity, str(path), file.files)
                if missing is not None and quantity != "n_atoms":
                    raise missing
                continue
            try:
                array = file[key]
            except Exception as error:  # as above; a declared length may also exceed the memory
                raise DataError(f"{path}: array {key!r} cannot be read ({error}). Was it copied completely?") from error
            arrays[quantity] = _checked(quantity, array, f"{path}, array {key!r}")
    return arrays


def _checked(quantity: str, array: np.ndarray, where: str) -> np.ndarray:
    """An array whose type and number of axes fit what it is declared to be."""
    least, most = AXES.get(quantity, (1, 2))
    if quantity in SCALARS:
        array = array.reshape(-1)
    if not least <= array.ndim <= most:
        axes = f"{least} to {most} axes" if least < most else f"{least} axis" if least == 1 else f"{least} axes"
        raise DataError(f"{where}: has shape {array.shape}; required for {quantity}: {axes}.")
    if quantity not in ("name", "group") and array.dtype.kind not in REAL_KINDS:
        raise DataError(f"{where}: holds {array.dtype}; required for {quantity}: real numbers.")
    if quantity != "n_atoms":
        return array
    wrong = np.flatnonzero(~((array >= 1) & (array < 2**31) & (array == np.round(array))))
    if len(wrong):
        raise DataError(f"{where}: entry {wrong[0]} is {array[wrong[0]]}; required: a whole number, 1 or more.")
    return array.astype(np.int64)


def _count(arrays: Mapping[str, np.ndarray]) -> int:
    return len(arrays["n_atoms"] if "n_atoms" in arrays else arrays["positions"])


def _atoms_of(
    path: Path, arrays: Mapping[str, np.ndarray], labels: Labels
) -> Callable[[int], Callable[[np.ndarray], np.ndarray]]:
    """Of a structure's index, the function that picks its atoms out of a per-atom array."""
    numbers, positions = arrays["numbers"], arrays["positions"]
    if "n_atoms" in arrays:
        ends = np.cumsum(arrays["n_atoms"], dtype=np.int64)
        total = int(ends[-1]) if len(ends) else 0
        for quantity in {"numbers", "positions", *PER_ATOM} & set(arrays):
            if len(arrays[quantity]) != total:
                raise DataError(
                    f"{path}: {labels.n_atoms!r} sums to {total} atoms, but {quantity} has {len(arrays[quantity])}."
                )
        _check_lengths(path, arrays, len(ends))
        return lambda index: lambda array: array[ends[index] - arrays["n_atoms"][index] : ends[index]]
    if positions.ndim != 3 or positions.shape[-1] != 3:
        raise DataError(
            f"{path}: positions has shape {positions.shape}; required: (atoms, 3) with {labels.n_atoms!r} "
            "(structures,), or (structures, most atoms, 3)."
        )
    _check_lengths(path, arrays, len(positions))
    for quantity in set(PER_ATOM) & set(arrays):
        if arrays[quantity].shape[:2] != positions.shape[:2]:
            raise DataError(f"{path}: {quantity} has shape {arrays[quantity].shape}, positions {positions.shape}.")
    if numbers.ndim == 1:
        if len(numbers) != positions.shape[1]:
            raise DataError(f"{path}: numbers has {len(numbers)} atoms, positions {positions.shape[1]}.")
        return lambda index: lambda array: array if array is numbers else array[index]
    if numbers.shape != positions.shape[:2]:
        raise DataError(f"{path}: numbers has shape {numbers.shape}, positions {positions.shape}; they do not fit.")
    return lambda index: lambda array: array[index][numbers[index] != 0]


def _check_lengths(path: Path, arrays: Mapping[str, np.ndarray], count: int) -> None:
    for quantity in set(PER_STRUCTURE) & set(arrays):
        if len(arrays[quantity]) != count:
            raise DataError(
                f"{path}: {quantity} has shape {arrays[quantity].shape}; required: one for each of {count} structures."
            )


def _converted(quantity: str, value: Any, scale: float) -> Any:
    if quantity in ("name", "group"):
        return str(value)
    if quantity in SCALARS:
        return float(value) * scale
    return np.asarray(value) if quantity == "pbc" else np.asarray(value, dtype=np.float64) * scale
