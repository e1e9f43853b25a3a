"""Many structures as few flat arrays: what a data set is made of, in memory or mapped from files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from io import BufferedWriter
from pathlib import Path
from types import MappingProxyType

import numpy as np

from mcgm.structure import Structure

PER_ATOM = MappingProxyType(
    {
        "numbers": (np.uint8, ()),
        "positions": (np.float64, (3,)),
        "forces": (np.float64, (3,)),
        "charges": (np.float64, ()),
    }
)
PER_STRUCTURE = MappingProxyType(
    {
        "energy": (np.float64, ()),
        "charge": (np.float64, ()),
        "spin": (np.float64, ()),
        "cell": (np.float64, (3, 3)),
        "pbc": (np.bool_, (3,)),
        "stress": (np.float64, (3, 3)),
        "dipole": (np.float64, (3,)),
    }
)
TEXT = ("name", "group")
DEFAULTS = MappingProxyType({"charge": 0.0, "spin": 0.0, "cell": 0.0, "pbc": False})
"""Columns that are left out when every entry has this value; labels are left out when no structure has them."""


@dataclass(frozen=True, eq=False)
class Columns:
    """Flat arrays of many structures; atoms of structure k are `offsets[k]:offsets[k + 1]`.

    Labels that a structure lacks are NaN; a column that no structure needs is `None`.
    """

    offsets: np.ndarray
    numbers: np.ndarray
    positions: np.ndarray
    name: np.ndarray
    group: np.ndarray
    energy: np.ndarray | None = None
    forces: np.ndarray | None = None
    charges: np.ndarray | None = None
    charge: np.ndarray | None = None
    spin: np.ndarray | None = None
    cell: np.ndarray | None = None
    pbc: np.ndarray | None = None
    stress: np.ndarray | None = None
    dipole: np.ndarray | None = None

    def structure(self, index: int) -> Structure:
        """One structure, with its own copies of the arrays."""
        start, stop = int(self.offsets[index]), int(self.offsets[index + 1])
        values: dict[str, object] = {
            "numbers": self.numbers[start:stop].astype(np.int64),
            "positions": self.positions[start:stop].copy(),
            "cell": np.zeros((3, 3)) if self.cell is None else self.cell[index].copy(),
            "pbc": np.zeros(3, dtype=bool) if self.pbc is None else self.pbc[index].copy(),
            "charge": 0.0 if self.charge is None else float(self.charge[index]),
            "spin": 0.0 if self.spin is None else float(self.spin[index]),
            "energy": None if self.energy is None else _number(self.energy[index]),
            "forces": None if self.forces is None else _label(self.forces[start:stop]),
            "charges": None if self.charges is None else _label(self.charges[start:stop]),
            "stress": None if self.stress is None else _label(self.stress[index]),
            "dipole": None if self.dipole is None else _label(self.dipole[index]),
            "name": str(self.name[index]),
            "group": str(self.group[index]),
        }
        # Every entry was checked when the columns were made; checking again costs ten times the reading.
        structure = object.__new__(Structure)
        structure.__dict__.update(values)
        return structure

    @classmethod
    def of(cls, structures: Iterable[Structure]) -> Columns:
        """Columns in memory."""
        items = list(structures)
        arrays = {key: _column(key, items) for key in (*PER_ATOM, *PER_STRUCTURE)}
        kept = {key: array for key, array in arrays.items() if key in ("numbers", "positions") or is_needed(key, array)}
        offsets = np.concatenate([[0], np.cumsum([len(item) for item in items], dtype=np.int64)])
        return cls(
            offsets=offsets, **kept, **{key: np.array([getattr(s, key) for s in items], dtype=str) for key in TEXT}
        )

    @classmethod
    def joined(cls, parts: Sequence[Columns]) -> Columns:
        """Columns one after another, in memory; a label that one part lacks is NaN there."""
        if len(parts) == 1:
            return parts[0]
        arrays: dict[str, np.ndarray] = {}
        for key, (kind, shape) in (PER_ATOM | PER_STRUCTURE).items():
            if any(getattr(part, key) is not None for part in parts):
                arrays[key] = np.concatenate([part._filled(key, kind, shape) for part in parts])
        sizes = np.concatenate([np.diff(part.offsets) for part in parts])
        text = {key: np.concatenate([getattr(part, key) for part in parts]) for key in TEXT}
        return cls(offsets=np.concatenate([[0], np.cumsum(sizes)]), **arrays, **text)

    def _filled(self, key: str, kind: type, shape: tuple[int, ...]) -> np.ndarray:
        """A column with its default, or NaN, where there is none."""
        column = getattr(self, key)
        if column is not None:
            return column
        count = len(self.numbers) if key in PER_ATOM else len(self.offsets) - 1
        return np.full((count, *shape), DEFAULTS.get(key, np.nan), dtype=kind)

    @classmethod
    def load(cls, folder: Path) -> Columns:
        """Columns mapped from a folder that `write_columns` filled; nothing is read yet."""
        arrays = {}
        for item in fields(cls):
            file = folder / f"{item.name}.npy"
            if file.exists():
                # A plain view: slicing numpy's memmap class costs several times as much.
                arrays[item.name] = np.load(file, mmap_mode="r", allow_pickle=False).view(np.ndarray)
        return cls(**arrays)


def write_columns(structures: Iterable[Structure], folder: Path, *, chunk: int = 1000) -> int:
    """Stream structures into .npy files of a folder, `chunk` at a time in memory; gives their number."""
    needed = {"numbers", "positions"}
    sizes: list[int] = []
    text: dict[str, list[str]] = {key: [] for key in TEXT}
    with ExitStack() as stack:
        files = {
            key: stack.enter_context(_Growing(folder / f"{key}.npy", kind, shape))
            for key, (kind, shape) in (PER_ATOM | PER_STRUCTURE).items()
        }
        for items in _chunks(structures, chunk):
            for key, file in files.items():
                column = _column(key, items)
                file.append(column)
                if key not in needed and is_needed(key, column):
                    needed.add(key)
            sizes += [len(item) for item in items]
            for key in TEXT:
                text[key] += [getattr(item, key) for item in items]
        for file in files.values():
            file.finish()
    for key in files.keys() - needed:
        files[key].path.unlink()
    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    for key, array in {"offsets": offsets, **{key: np.array(text[key], dtype=str) for key in TEXT}}.items():
        with (folder / f"{key}.npy").open("wb") as stream:
            np.save(stream, array, allow_pickle=False)
            _flush(stream)
    return len(sizes)


def is_needed(key: str, column: np.ndarray) -> bool:
    """Whether a column says anything: a label that is there, or a value that is not the default."""
    if key in DEFAULTS:
        return bool(np.any(column != DEFAULTS[key]))
    return not bool(np.isnan(column).all())


def _column(key: str, items: list[Structure]) -> np.ndarray:
    if key in PER_STRUCTURE:
        kind, shape = PER_STRUCTURE[key]
        values = [np.full(shape, np.nan) if getattr(s, key) is None else getattr(s, key) for s in items]
        return np.array(values, dtype=kind).reshape(len(items), *shape)
    kind, shape = PER_ATOM[key]
    parts = [np.full((len(s), *shape), np.nan) if getattr(s, key) is None else getattr(s, key) for s in items]
    return np.concatenate([np.zeros((0, *shape)), *parts]).astype(kind)


def _chunks(structures: Iterable[Structure], size: int) -> Iterable[list[Structure]]:
    items: list[Structure] = []
    for structure in structures:
        items.append(structure)
        if len(items) == size:
            yield items
            items = []
    if items:
        yield items


def _number(value: np.ndarray) -> float | None:
    return None if np.isnan(value) else float(value)


def _label(value: np.ndarray) -> np.ndarray | None:
    return None if np.isnan(value.flat[0]) else value.copy()


class _Growing:
    """An .npy file that is appended to. Its header is rewritten at the end: numpy pads it for the length to grow."""

    def __init__(self, path: Path, kind: type, shape: tuple[int, ...]) -> None:
        self.path, self.kind, self.shape, self.length = path, np.dtype(kind), shape, 0
        self.stream = path.open("wb")
        self._header()

    def _header(self) -> None:
        description = np.lib.format.dtype_to_descr(self.kind)
        header = {"descr": description, "fortran_order": False, "shape": (self.length, *self.shape)}
        np.lib.format.write_array_header_1_0(self.stream, header)

    def append(self, array: np.ndarray) -> None:
        self.length += len(array)
        self.stream.write(np.ascontiguousarray(array).tobytes())

    def finish(self) -> None:
        self.stream.seek(0)
        self._header()
        _flush(self.stream)

    def __enter__(self) -> _Growing:
        return self

    def __exit__(self, *error: object) -> None:
        self.stream.close()


def _flush(stream: BufferedWriter) -> None:
    stream.flush()
    os.fsync(stream.fileno())
