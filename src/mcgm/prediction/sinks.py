"""What predictions are written to: files that grow, are cut back to what was finished, and become the output."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from ase.io.extxyz import write_xyz

from mcgm.data.columns import DEFAULTS, PER_ATOM, PER_STRUCTURE, is_needed
from mcgm.errors import DataError
from mcgm.prediction.stream import Predicted

WHOLE = "whole"
"""Name of the finished file until it is moved to its place."""

COPIED = 1 << 20
"""Bytes, and 1/64 as many names, in memory at a time when columns are put together."""


class Sink(ABC):
    """Growing files in a folder. `state` is what it must be given to go on, beside the lengths of its files."""

    def __init__(self, folder: Path, names: Sequence[str], lengths: Mapping[str, int]) -> None:
        self.folder = folder
        with ExitStack() as stack:
            self.files = {
                name: stack.enter_context(_cut(folder / name, lengths.get(name, 0)).open("ab")) for name in names
            }
            self._open = stack.pop_all()

    @abstractmethod
    def append(self, items: Sequence[Predicted]) -> None:
        """Write them behind the others."""

    @abstractmethod
    def whole(self) -> Path:
        """One file with everything, in the folder; nothing can be appended any more."""

    @property
    def state(self) -> dict[str, Any]:
        """Plain values."""
        return {}

    def lengths(self) -> dict[str, int]:
        """Bytes of the files, all of them on the disk."""
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
        return {name: file.tell() for name, file in self.files.items()}

    def close(self) -> None:
        """Close the files."""
        self._open.close()


class ExtxyzSink(Sink):
    """Frames of extended xyz, as ASE writes them."""

    def __init__(self, folder: Path, state: Mapping[str, Any], lengths: Mapping[str, int]) -> None:
        super().__init__(folder, [WHOLE], lengths)

    def append(self, items: Sequence[Predicted]) -> None:
        """See the base class."""
        text = io.StringIO()
        for item in items:
            write_xyz(text, [item.to_atoms()])
        self.files[WHOLE].write(text.getvalue().encode())

    def whole(self) -> Path:
        """See the base class."""
        self.close()
        return self.folder / WHOLE


STRUCTURE_COLUMNS: Mapping[str, tuple[type, tuple[int, ...]]] = MappingProxyType(
    {
        "n_atoms": (np.int32, ()),
        **PER_STRUCTURE,
        "cluster_energy": (np.float64, ()),
        "electrostatic_energy": (np.float64, ()),
        "energy_spread": (np.float64, ()),
        "out_of_domain": (np.bool_, ()),
    }
)
ATOM_COLUMNS: Mapping[str, tuple[type, tuple[int, ...]]] = MappingProxyType(
    {**PER_ATOM, "forces_spread": (np.float64, (3,))}
)
TEXT_COLUMNS = MappingProxyType({"name": "name", "group": "cid"})
"""Text of a structure -> array in the file."""


class NpzSink(Sink):
    """Flat arrays and `n_atoms`, as the preset "npz" reads them; columns that say nothing are left out."""

    def __init__(self, folder: Path, state: Mapping[str, Any], lengths: Mapping[str, int]) -> None:
        super().__init__(folder, [*ATOM_COLUMNS, *STRUCTURE_COLUMNS, *TEXT_COLUMNS], lengths)
        self.needed = set(state.get("needed", ("n_atoms", "numbers", "positions")))
        self.longest = dict(state.get("longest", dict.fromkeys(TEXT_COLUMNS, 1)))

    @property
    def state(self) -> dict[str, Any]:
        """Which columns say anything, and how long the longest texts are."""
        return {"needed": sorted(self.needed), "longest": self.longest}

    def append(self, items: Sequence[Predicted]) -> None:
        """See the base class."""
        for key, (dtype, axes) in ATOM_COLUMNS.items():
            values = [_of_atoms(item, key) for item in items]
            sizes = [len(item.structure) for item in items]
            parts = [_or_absent(value, dtype, (n, *axes)) for value, n in zip(values, sizes, strict=True)]
            self._add(key, np.concatenate(parts).astype(dtype), values)
        for key, (dtype, axes) in STRUCTURE_COLUMNS.items():
            values = [_value(item, key) for item in items]
            column = np.array([_or_absent(value, dtype, axes) for value in values])
            self._add(key, column.astype(dtype), values)
        for key in TEXT_COLUMNS:
            texts = [getattr(item.structure, key) for item in items]
            self.longest[key] = max(self.longest[key], *map(len, texts))
            self.files[key].write("".join(json.dumps(text) + "\n" for text in texts).encode())

    def _add(self, key: str, column: np.ndarray, values: Sequence[Any]) -> None:
        says_something = is_needed(key, column) if key in DEFAULTS else any(value is not None for value in values)
        if says_something:
            self.needed.add(key)
        self.files[key].write(np.ascontiguousarray(column).tobytes())

    def whole(self) -> Path:
        """See the base class."""
        self.close()
        path = self.folder / WHOLE
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            columns: dict[str, tuple[Any, tuple[int, ...]]] = {**ATOM_COLUMNS, **STRUCTURE_COLUMNS}
            for key in [key for key in columns if key in self.needed]:
                self._pack(archive, key, np.dtype(columns[key][0]), columns[key][1])
            for key, name in TEXT_COLUMNS.items():
                self._pack_text(archive, key, name)
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        return path

    def _pack(self, archive: zipfile.ZipFile, key: str, kind: np.dtype, shape: tuple[int, ...]) -> None:
        size = kind.itemsize * int(np.prod(shape, dtype=int))
        rows = (self.folder / key).stat().st_size // size
        with (self.folder / key).open("rb") as source, _member(archive, key, kind, (rows, *shape)) as member:
            shutil.copyfileobj(source, member, COPIED)

    def _pack_text(self, archive: zipfile.ZipFile, key: str, name: str) -> None:
        kind = np.dtype(f"<U{self.longest[key]}")
        with (self.folder / key).open("rb") as source:
            rows = sum(1 for _ in source)
        with (self.folder / key).open(encoding="utf-8") as source, _member(archive, name, kind, (rows,)) as member:
            while lines := list(islice(source, COPIED // 64)):
                member.write(np.array([json.loads(line) for line in lines], dtype=kind).tobytes())


SINKS: Mapping[str, type[ExtxyzSink] | type[NpzSink]] = MappingProxyType(
    {".extxyz": ExtxyzSink, ".xyz": ExtxyzSink, ".npz": NpzSink}
)
"""Suffix -> what writes it."""


def _cut(path: Path, length: int) -> Path:
    """The file, cut back to what was finished."""
    path.touch()
    if path.stat().st_size < length:
        raise DataError(
            f"{path}: has {path.stat().st_size} bytes, fewer than the {length} that were finished. Was it changed? "
            f"Remove {path.parent} to begin again."
        )
    os.truncate(path, length)
    return path


def _value(item: Predicted, key: str) -> Any:
    if key == "n_atoms":
        return len(item.structure)
    return item.parts.get(key) if key not in PER_STRUCTURE else getattr(item.structure, key)


def _of_atoms(item: Predicted, key: str) -> Any:
    return getattr(item.structure, key) if key in PER_ATOM else item.per_atom.get(key)


def _or_absent(value: Any, dtype: type, shape: tuple[int, ...]) -> Any:
    return np.full(shape, False if dtype is np.bool_ else np.nan) if value is None else value


def _member(archive: zipfile.ZipFile, name: str, kind: np.dtype, shape: tuple[int, ...]) -> Any:
    # the date is ZipInfo's own, so that the same content gives the same bytes
    member = archive.open(_info(name), "w", force_zip64=True)
    header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, header)
    return member


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(f"{name}.npy")
    info.compress_type = zipfile.ZIP_DEFLATED
    return info
