"""Everything ASE reads: extxyz (also compressed), db, trajectories and the output of many programs."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from mcgm.data.labels import Labels, is_absent, real_numbers, summands
from mcgm.data.xyz import count_frames, read_frames
from mcgm.errors import DataError, StructureError
from mcgm.structure import Structure

SCALARS = ("energy", "charge", "spin")
VECTORS = ("forces", "stress", "dipole", "charges")
DATABASES = (".db",)
PAGE = 200
"""rows of a database in memory at a time."""

LOOKED_AT = 100
"""Structures whose keys are told."""

LINES = (".xyz", ".extxyz")
COMPRESSED: Mapping[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def read_ase(path: Path, labels: Labels) -> Iterator[Structure]:
    """Structures one at a time; labels are looked for in stored results, then `atoms.info`, then `atoms.arrays`.

    Raises:
        DataError: ASE cannot read the file, or an entry lacks a declared key.
    """
    for index, (line, atoms) in enumerate(_frames(path, (labels.name, labels.group))):
        where = f"{path}, {f'line {line}, ' if line else ''}entry {index}"
        if is_asked_for(atoms, labels, where):
            yield labelled(atoms, labels, where, f"{path.name}[{index}]")


def read_atoms(path: Path) -> Iterator[Atoms]:
    """ASE's own objects one at a time, with whatever the file has beside structure and labels, such as momenta.

    Raises:
        DataError: ASE cannot read the file.
    """
    for _, atoms in _frames(path):
        yield atoms


def keys_ase(path: Path) -> list[str]:
    """Keys of the first structures: stored results, `atoms.info` and `atoms.arrays`."""
    found = {key for _, atoms in islice(_frames(path), LOOKED_AT) for key in entries_of(atoms)}
    return sorted(found - {"numbers", "positions"})


def count_ase(path: Path, labels: Labels) -> int | None:
    """How many structures a database or an xyz text has; unknown for other files."""
    if path.suffix in LINES:
        return count_frames(path)
    if path.suffix not in DATABASES:
        return None
    try:
        with ase.db.connect(path) as database:
            return database.count()
    except Exception:  # reading it will say what is wrong
        return None


def _frames(path: Path, words: Collection[str | None] = ()) -> Iterator[tuple[int | None, Atoms]]:
    """Structures, with the number of their first line where the file has lines; `words` are keys of text."""
    read = 0
    try:
        for frame in _rows(path) if path.suffix in DATABASES else _images(path, words):
            yield frame
            read += 1
    except DataError:
        raise
    except Exception as error:  # ASE's readers raise whatever their parser meets
        raise DataError(
            f"{path}: ASE cannot read it after {read} structures ({type(error).__name__}: {error}). "
            "Is it complete, and has it the suffix of its format?"
        ) from error


def _images(path: Path, words: Collection[str | None]) -> Iterator[tuple[int | None, Atoms]]:
    packed = COMPRESSED.get(path.suffix)
    if (path.with_suffix("") if packed else path).suffix in LINES:
        with packed(path, "rb") if packed else path.open("rb") as stream:
            yield from read_frames(stream, path, words)
    elif packed is None:
        for atoms in ase.io.iread(str(path), index=":", do_not_split_by_at_sign=True):
            yield None, atoms
    else:
        # ASE jumps back and forth in the file, which unpacks a compressed one again for every structure.
        with tempfile.TemporaryDirectory() as folder, packed(path, "rb") as stream:
            unpacked = Path(folder) / path.stem
            with unpacked.open("wb") as copy:
                shutil.copyfileobj(stream, copy)
            yield from _images(unpacked, words)


def _rows(path: Path) -> Iterator[tuple[None, Atoms]]:
    """In the order of their numbers, `PAGE` at a time: ASE fetches all rows that it is asked for at once."""
    last: int | None = 0
    with ase.db.connect(path) as database:
        while last is not None:
            page, last = database.select([("id", ">", last)], sort="id", limit=PAGE), None
            for row in page:
                atoms = row.toatoms()
                atoms.info |= dict(row.key_value_pairs) | dict(row.data)
                last = row.id
                yield None, atoms


def entries_of(atoms: Atoms) -> Mapping[str, Any]:
    """Stored results, then `atoms.info`, then `atoms.arrays`."""
    results = getattr(atoms.calc, "results", {}) if atoms.calc is not None else {}
    return {**atoms.arrays, **atoms.info, **{key: value for key, value in results.items() if value is not None}}


def is_asked_for(atoms: Atoms, labels: Labels, where: str) -> bool:
    """Whether `labels.where` picks this structure.

    Raises:
        DataError: it lacks the key.
    """
    if labels.where is None:
        return True
    key, value = labels.condition
    entries = entries_of(atoms)
    if key not in entries:
        found = ", ".join(sorted(set(entries) - {"numbers", "positions"})) or "none"
        raise DataError(f"{where}: no entry {key!r}, which labels.where asks for. Keys found: {found}.")
    return str(entries[key]) == value


def labelled(atoms: Atoms, labels: Labels, where: str, default_name: str) -> Structure:
    """The structure with what is declared, in eV, Å and e.

    Raises:
        DataError: a declared key is missing, or the structure cannot be used; the message begins with `where`.
    """
    try:
        return _structure(atoms, labels, where, default_name)
    except StructureError as error:
        raise DataError(f"{where}: {error}") from error


def _structure(atoms: Atoms, labels: Labels, where: str, default_name: str) -> Structure:
    entries = entries_of(atoms)
    values: dict[str, Any] = {}
    for quantity in (*SCALARS, *VECTORS, "name", "group"):
        key = getattr(labels, quantity)
        if key is None:
            continue
        if quantity in SCALARS and key not in entries:
            entries = _with_sum(key, entries, where)
        if key not in entries:
            missing = labels.missing(quantity, where, set(entries) - {"numbers", "positions"})
            if missing is not None:
                raise missing
            continue
        value = _converted(quantity, entries[key], labels, f"{where}, key {key!r}", len(atoms))
        if not (quantity in labels.optional and is_absent(value)):
            values[quantity] = value
    length = labels.factor("length")
    return Structure(
        numbers=atoms.numbers,
        positions=atoms.positions * length,
        cell=np.asarray(atoms.cell) * length,
        pbc=atoms.pbc,
        **{"name": default_name} | values,
    )


def _with_sum(key: str, entries: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The entries, with the sum that a key such as "chargeA + chargeB" asks for, where all its parts are there."""
    parts = summands(key)
    if not all(name in entries for _, name in parts):
        return entries
    try:
        return {**entries, key: sum(sign * float(real_numbers(entries[name])) for sign, name in parts)}
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}, key {key!r}: cannot be added up ({error}).") from error


def _converted(quantity: str, value: Any, labels: Labels, where: str, n_atoms: int) -> Any:
    if quantity in ("name", "group"):
        return str(value)
    scale = 1.0 if quantity in ("charge", "spin", "charges") else labels.factor(quantity)
    try:
        array = real_numbers(value) * scale
        if quantity in SCALARS:
            return float(array.reshape(()))
        if quantity == "stress":
            return voigt_6_to_full_3x3_stress(array) if array.size == 6 else array.reshape(3, 3)
        return array.reshape({"forces": (n_atoms, 3), "charges": (n_atoms,), "dipole": (3,)}[quantity])
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: is not {quantity} of {n_atoms} atoms ({error}).") from error
