"""The closed table from a file's name to its reader, and one way to open them all."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from glob import has_magic
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from mcgm.data.ase import count_ase, keys_ase, read_ase
from mcgm.data.hdf5 import count_hdf5, keys_hdf5, read_hdf5
from mcgm.data.labels import AQM, ASE, NPZ, OE62, QM9, RUNNER, ZIP, Labels, about_mass, declared, from_virial
from mcgm.data.npz import count_npz, keys_npz, read_npz
from mcgm.data.oe62 import count_oe62, keys_oe62, read_oe62
from mcgm.data.qm9 import count_qm9, keys_qm9, read_qm9
from mcgm.data.runner import count_runner, keys_runner, read_runner
from mcgm.data.zipped import count_zip, keys_zip, read_zip
from mcgm.errors import ConfigError, DataError, unknown_name
from mcgm.structure import Structure


class Reader(NamedTuple):
    """How one format is read.

    `labels` holds when the user declares nothing; `entries` counts structures, None where that costs reading them;
    `picks` says whether it heeds `labels.where`.
    """

    labels: Labels
    read: Callable[[Path, Labels], Iterator[Structure]]
    keys: Callable[[Path], list[str]]
    entries: Callable[[Path, Labels], int | None]
    picks: bool = False

    def structures(self, path: Path, labels: Labels) -> Iterator[Structure]:
        """Structures of a file one at a time, in this package's units and conventions.

        Raises:
            ConfigError: structures are to be picked in a format that cannot do so.
        """
        if labels.where is not None and not self.picks:
            raise ConfigError(f"{path}: labels.where is for files that ASE reads and for zip archives of xyz.")
        return (from_virial(about_mass(structure, labels), labels) for structure in self.read(path, labels))


FORMATS = MappingProxyType(
    {
        "ase": Reader(ASE, read_ase, keys_ase, count_ase, picks=True),
        "zip": Reader(ZIP, read_zip, keys_zip, count_zip, picks=True),
        "npz": Reader(NPZ, read_npz, keys_npz, count_npz),
        "hdf5": Reader(AQM, read_hdf5, keys_hdf5, count_hdf5),
        "oe62": Reader(OE62, read_oe62, keys_oe62, count_oe62),
        "runner": Reader(RUNNER, read_runner, keys_runner, count_runner),
        "qm9": Reader(QM9, read_qm9, keys_qm9, count_qm9),
    }
)
"""Formats by name."""

SUFFIXES = MappingProxyType(
    {
        ".npz": "npz",
        ".hdf5": "hdf5",
        ".h5": "hdf5",
        ".json": "oe62",
        ".data": "runner",
        ".zip": "zip",
        ".csv": "qm9",
    }
)
"""Last part of a file's name → format; everything else is ASE's."""


def format_of(path: Path) -> str:
    """Name of the format, by the file's suffix; the file need not exist. ASE's own JSON is known by how it ends."""
    found = SUFFIXES.get(path.suffix.lower(), "ase")
    return "ase" if found == "oe62" and _ends_as_a_database(path) else found


def _ends_as_a_database(path: Path) -> bool:
    if not path.is_file():  # a pipe would wait for its other end
        return False
    try:
        with path.open("rb") as file:
            file.seek(-min(path.stat().st_size, 200), 2)
            return b'"nextid"' in file.read()
    except OSError:
        return False


def reader_of(path: Path, format: str | None = None) -> Reader:
    """The reader for a file, by the format's name or the file's suffix.

    Raises:
        ConfigError: unknown format.
        DataError: no such file, a folder, a device or a pipe, an empty file, or no permission to read it.
    """
    if format is not None and format not in FORMATS:
        raise ConfigError(unknown_name("format", format, FORMATS))
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise DataError(
                f"{path}: is a folder; required: one data file (where data sets are opened, a pattern such as "
                f"'{path}/*.extxyz' takes many)."
            )
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path}: is a device or a pipe; required: a regular file, as some formats are read twice.")
        if status.st_size == 0:
            raise DataError(f"{path}: is empty.")
        with path.open("rb"):
            pass
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror or error}).") from error
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: is no name of a file ({error}).") from error
    return FORMATS[format or format_of(path)]


def matching(path: Path) -> list[Path]:
    """The file itself, or all files that fit a pattern with *, ? or [], by name.

    Raises:
        DataError: none fits.
    """
    if not has_magic(str(path)) or path.exists():
        return [path]
    start = Path(path.anchor)
    files = sorted(start.glob(str(path.relative_to(start))))
    if not files:
        raise DataError(f"{path}: no file fits this pattern.")
    return files


def open_structures(
    path: Path | str, labels: Labels | str | None = None, *, format: str | None = None
) -> Iterator[Structure]:
    """Structures of a file, or of all files that fit a pattern, one at a time, in eV, Å and e.

    `labels` declares keys and units (a `Labels` or the name of a preset); without it the format's own holds.

    Raises:
        DataError: the file cannot be read or lacks a declared key; the message has the file and the entry.
        ConfigError: unknown format, preset or unit.
    """
    return chain.from_iterable([_of_one(file, labels, format) for file in matching(Path(path))])


def _of_one(path: Path, labels: Labels | str | None, format: str | None) -> Iterator[Structure]:
    reader = reader_of(path, format)
    return _at_least_one(reader.structures(path, reader.labels if labels is None else declared(labels)), path)


def _at_least_one(structures: Iterator[Structure], path: Path) -> Iterator[Structure]:
    empty = True
    for structure in structures:
        yield structure
        empty = False
    if empty:
        raise DataError(f"{path}: has no structure.")


def count_structures(path: Path, labels: Labels | str | None = None) -> int | None:
    """How many structures a file, or those that fit a pattern, have, by a declaration or the format's own; `None` where
    that costs reading them.

    Raises:
        DataError: the file cannot be read.
    """
    total = 0
    for file in matching(path):
        reader = reader_of(file)
        count = reader.entries(file, reader.labels if labels is None else declared(labels))
        if count is None:
            return None
        total += count
    return total


def keys_found(path: Path | str, *, format: str | None = None) -> list[str]:
    """Names of the entries that a file has (of its first structures, where they may differ)."""
    first = matching(Path(path))[0]
    return reader_of(first, format).keys(first)
