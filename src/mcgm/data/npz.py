"""numpy archives: atoms one after another, padded, or many geometries of one composition."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mcgm.data.labels import Labels, is_absent
from mcgm.data.rows import Rows
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
    """Structures of an npz in one of three layouts, told apart by shape; a block of each array in memory at a time.

    Flat: `n_atoms` (structure,) and per-atom arrays one after another. Padded: numbers (structure, most), zeros where
    there is no atom. Fixed: numbers (atom,) and positions (structure, atom, 3).

    Raises:
        DataError: not an npz, a declared key is missing, or lengths do not fit together.
    """
    factors = {quantity: labels.factor(quantity) for quantity in ("energy", "forces", "stress", "dipole", "length")}
    with _open(path) as file:
        arrays = _arrays(path, file, labels)
        own = sorted(set(PER_STRUCTURE) & set(arrays))
        for index, atoms in enumerate(_atoms(path, file, arrays, labels)):
            found = {key: atoms[key] for key in PER_ATOM if key in atoms} | {key: arrays[key].take(1)[0] for key in own}
            values: dict[str, Any] = {}
            for quantity, value in found.items():
                converted = _converted(quantity, value, factors.get(quantity, 1.0))
                if not (quantity in labels.optional and is_absent(converted)):
                    values[quantity] = converted
            if "cell" in values:
                values["cell"] = values["cell"] * factors["length"]
            values.setdefault("name", f"{path.name}[{index}]")
            positions = atoms["positions"] * factors["length"]
            try:
                yield Structure(numbers=atoms["numbers"], positions=positions, **values)
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
        return len(Rows(file, key, _where(path, key))) if key else 0


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


def _where(path: Path, key: str) -> str:
    return f"{path}: array {key!r}"


def _arrays(path: Path, file: Any, labels: Labels) -> dict[str, Rows]:
    arrays = {}
    for quantity in ("numbers", "positions", "n_atoms", *PER_ATOM, *PER_STRUCTURE):
        key = getattr(labels, quantity)
        if key is None:
            continue
        if key not in file.files:
            missing = labels.missing(quantity, str(path), file.files)
            if missing is not None and quantity != "n_atoms":
                raise missing
            continue
        arrays[quantity] = _checked(quantity, Rows(file, key, _where(path, key)), f"{path}, array {key!r}")
    return arrays


def _checked(quantity: str, array: Rows, where: str) -> Rows:
    """An array whose type and number of axes fit what it is declared to be."""
    least, most = AXES.get(quantity, (1, 2))
    if quantity in SCALARS:
        array = array.flat()
    if not least <= array.ndim <= most:
        axes = f"{least} to {most} axes" if least < most else f"{least} axis" if least == 1 else f"{least} axes"
        raise DataError(f"{where}: has shape {array.shape}; required for {quantity}: {axes}.")
    if quantity not in ("name", "group") and array.dtype.kind not in REAL_KINDS:
        raise DataError(f"{where}: holds {array.dtype}; required for {quantity}: real numbers.")
    return array


def _total(sizes: Rows, where: str) -> int:
    """Atoms of all structures, once every entry has been seen to be a number of atoms."""
    total, place = 0, 0
    for block in sizes.blocks():
        wrong = np.flatnonzero(~((block >= 1) & (block < 2**31) & (block == np.round(block))))
        if len(wrong):
            raise DataError(
                f"{where}: entry {place + wrong[0]} is {block[wrong[0]]}; required: a whole number, 1 or more."
            )
        total, place = total + int(block.astype(np.int64).sum()), place + len(block)
    return total


def _atoms(path: Path, file: Any, arrays: Mapping[str, Rows], labels: Labels) -> Iterator[Mapping[str, np.ndarray]]:
    """The per-atom arrays of one structure after another."""
    numbers, positions = arrays["numbers"], arrays["positions"]
    per_atom = [key for key in ("numbers", "positions", *PER_ATOM) if key in arrays]
    if "n_atoms" in arrays:
        where = f"{path}, array {labels.n_atoms!r}"
        total = _total(Rows(file, labels.n_atoms, _where(path, labels.n_atoms)), where)
        for quantity in per_atom:
            if len(arrays[quantity]) != total:
                raise DataError(
                    f"{path}: {labels.n_atoms!r} sums to {total} atoms, but {quantity} has {len(arrays[quantity])}."
                )
        _check_lengths(path, arrays, len(arrays["n_atoms"]))
        for block in arrays["n_atoms"].blocks():
            for size in block.astype(np.int64).tolist():
                yield {key: arrays[key].take(size) for key in per_atom}
        return
    _check_shapes(path, arrays, labels)
    if numbers.ndim == 1:
        shared = numbers.take(len(numbers))
        for _ in range(len(positions)):
            yield {"numbers": shared} | {key: arrays[key].take(1)[0] for key in per_atom if key != "numbers"}
        return
    for _ in range(len(positions)):
        padded = {key: arrays[key].take(1)[0] for key in per_atom}
        yield {key: values[padded["numbers"] != 0] for key, values in padded.items()}


def _check_shapes(path: Path, arrays: Mapping[str, Rows], labels: Labels) -> None:
    """Without numbers of atoms, every structure has a row, which is padded unless all have the same atoms."""
    numbers, positions = arrays["numbers"], arrays["positions"]
    if positions.ndim != 3 or positions.shape[-1] != 3:
        raise DataError(
            f"{path}: positions has shape {positions.shape}; required: (atoms, 3) with {labels.n_atoms!r} "
            "(structures,), or (structures, most atoms, 3)."
        )
    _check_lengths(path, arrays, len(positions))
    for quantity in set(PER_ATOM) & set(arrays):
        if arrays[quantity].shape[:2] != positions.shape[:2]:
            raise DataError(f"{path}: {quantity} has shape {arrays[quantity].shape}, positions {positions.shape}.")
    if numbers.ndim == 1 and len(numbers) != positions.shape[1]:
        raise DataError(f"{path}: numbers has {len(numbers)} atoms, positions {positions.shape[1]}.")
    if numbers.ndim > 1 and numbers.shape != positions.shape[:2]:
        raise DataError(f"{path}: numbers has shape {numbers.shape}, positions {positions.shape}; they do not fit.")


def _check_lengths(path: Path, arrays: Mapping[str, Rows], count: int) -> None:
    for quantity in set(PER_STRUCTURE) & set(arrays):
        if len(arrays[quantity]) != count:
            raise DataError(
                f"{path}: {quantity} has shape {arrays[quantity].shape}; required: one for each of {count} structures."
            )


def _converted(quantity: str, value: Any, scale: float) -> Any:
    if quantity in ("name", "group"):
        return value.decode() if isinstance(value, bytes) else str(value)
    if quantity in SCALARS:
        return float(value) * scale
    return np.asarray(value) if quantity == "pbc" else np.asarray(value, dtype=np.float64) * scale
