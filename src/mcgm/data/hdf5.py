"""HDF5 with one group per geometry, as AQM: `/<molecule>/<conformer>/<property>`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mcgm.data.labels import Labels, is_absent, real_numbers, said
from mcgm.errors import DataError
from mcgm.structure import Structure

SHAPES = {"forces": (-1, 3), "charges": (-1,), "stress": (3, 3), "dipole": (3,), "cell": (3, 3), "pbc": (3,)}
SCALARS = ("energy", "charge", "spin")


def read_hdf5(path: Path, labels: Labels) -> Iterator[Structure]:
    """Every group that holds positions, in alphabetical order; the first level names the group (the molecule).

    Forces may be flat and energies arrays of one element, as AQM has them (doi:10.1038/s41597-024-03521-8).

    Raises:
        DataError: not HDF5, no such group, a declared key is missing, or a shape does not fit.
    """
    with _open(path) as file:
        empty = True
        for geometry in _geometries(file, labels.positions):
            empty = False
            where = f"{path}, group {geometry.name}"
            try:
                yield _structure(geometry, labels, where)
            except DataError:
                raise
            except Exception as error:  # h5py raises many kinds for damaged bytes and foreign types
                raise DataError(f"{where}: {error}") from error
        if empty:
            raise DataError(
                f"{path}: no group holds positions under the key {labels.positions!r}. "
                f"Keys found: {', '.join(_keys(file)) or 'none'}. Declare the one that does: {said('positions')}."
            )


def keys_hdf5(path: Path) -> list[str]:
    """Names of the datasets in the first group that has any."""
    with _open(path) as file:
        return _keys(file)


def count_hdf5(path: Path, labels: Labels) -> int:
    """How many groups hold positions."""
    with _open(path) as file:
        return sum(1 for _ in _geometries(file, labels.positions))


@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path}: not a readable HDF5 file ({error}). Was it copied completely?") from error
    with file:
        try:
            yield file
        except DataError:
            raise
        except Exception as error:  # a link that leads nowhere, a damaged tree
            raise DataError(f"{path}: cannot be read further ({error}). Was it copied completely?") from error


def _geometries(group: h5py.Group, key: str, inside: tuple[object, ...] = ()) -> Iterator[h5py.Group]:
    if isinstance(group.get(key), h5py.Dataset):
        yield group
        return
    if group.id in inside:
        raise DataError(f"{group.file.filename}, group {group.name}: is a link back to a group that it is in.")
    for name in group:
        child = group[name]
        if isinstance(child, h5py.Group):
            yield from _geometries(child, key, (*inside, group.id))


def _keys(group: h5py.Group, inside: tuple[object, ...] = ()) -> list[str]:
    datasets = sorted(name for name in group if isinstance(group[name], h5py.Dataset))
    if datasets or group.id in inside:
        return datasets
    found = (_keys(group[name], (*inside, group.id)) for name in group if isinstance(group[name], h5py.Group))
    return next((keys for keys in found if keys), [])


def _structure(geometry: h5py.Group, labels: Labels, where: str) -> Structure:
    parts = geometry.name.strip("/").split("/")
    if labels.numbers not in geometry:
        error = labels.missing("numbers", where, geometry)
        raise error if error is not None else DataError(f"{where}: has no atomic numbers.")
    values: dict[str, Any] = {"name": "/".join(parts), "group": parts[0]}
    for quantity in (*SCALARS, *SHAPES, "name", "group"):
        key = getattr(labels, quantity)
        if key is None:
            continue
        if key not in geometry:
            missing = labels.missing(quantity, where, geometry)
            if missing is not None:
                raise missing
            continue
        value = _converted(quantity, geometry[key][()], labels, f"{where}/{key}")
        if not (quantity in labels.optional and is_absent(value)):
            values[quantity] = value
    positions = real_numbers(geometry[labels.positions][()])
    if positions.size % 3:
        raise DataError(f"{where}/{labels.positions}: has shape {positions.shape}; required: (atoms, 3).")
    positions = positions.reshape(-1, 3)
    numbers = np.asarray(geometry[labels.numbers][()]).reshape(-1)
    return Structure(numbers=numbers, positions=positions * labels.factor("length"), **values)


def _converted(quantity: str, value: Any, labels: Labels, where: str) -> Any:
    if quantity in ("name", "group"):
        return value.decode() if isinstance(value, bytes) else str(value)
    same = {"charge": 1.0, "spin": 1.0, "charges": 1.0, "pbc": 1.0}
    scale = same.get(quantity) or labels.factor("length" if quantity == "cell" else quantity)
    try:
        array = real_numbers(value) * scale
        return float(array.reshape(())) if quantity in SCALARS else array.reshape(SHAPES[quantity])
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: cannot be read as {quantity} ({error}).") from error
