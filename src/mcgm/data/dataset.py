"""Structures by index: what training, evaluation and statistics read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
from jaxtyping import Bool, Float, Int

from mcgm.data.cache import cached
from mcgm.data.columns import PER_ATOM, Columns
from mcgm.data.labels import Labels, said
from mcgm.data.readers import keys_found, matching
from mcgm.data.sample import sample_path
from mcgm.errors import ConfigError, DataError
from mcgm.structure import Structure

_KINDS = 256
"""Atomic numbers that a byte can hold."""


class Composition(NamedTuple):
    """How many atoms of each element each structure has."""

    elements: Int[np.ndarray, "element"]
    counts: Int[np.ndarray, "structure element"]


class Dataset(Sequence[Structure]):
    """A map from index to `Structure` over mapped arrays; a subset shares them.

    Open one with `Dataset.open("train.extxyz")`, the bundled one with `Dataset.open("sample")`, or make one in memory
    with `Dataset.from_structures([...])`. Opened from a file it is cheap to pickle: the arrays are mapped again.
    """

    def __init__(self, columns: Columns, *, indices: np.ndarray | None = None, source: _Source | None = None) -> None:
        self._columns = columns
        self._source = source
        self.indices = np.arange(len(columns.offsets) - 1) if indices is None else indices

    @classmethod
    def open(cls, path: Path | str, labels: Labels | str | None = None, *, format: str | None = None) -> Dataset:
        """A file as a data set, converted into a memory-mapped cache at the first time; "sample" is the bundled one.

        A pattern such as "train-*.xyz" opens all files that fit, in the order of their names, in memory.

        Raises:
            DataError: the file cannot be read, lacks a declared key or has no structure; or no file fits the pattern.
            ConfigError: unknown format, preset or unit.
        """
        source = _Source(sample_path() if str(path) == "sample" else Path(path), labels, format)
        dataset = cls(source.columns(), source=source)
        if isinstance(labels, Labels):
            dataset._require_somewhere(labels, str(path))
        return dataset

    def _require_somewhere(self, labels: Labels, path: str) -> None:
        for quantity in labels.somewhere:
            if self.lacks(quantity).all():
                found = [] if self._source is None else keys_found(self._source.files[0], format=self._source.format)
                error = replace(labels, optional=(), somewhere=()).missing(quantity, path, found)
                assert error is not None, "what is not optional is missed."
                raise error

    @classmethod
    def joined(cls, datasets: Sequence[Dataset]) -> Dataset:
        """Data sets one after another, in memory."""
        indices = []
        before = 0
        for dataset in datasets:
            indices.append(dataset.indices + before)
            before += len(dataset._columns.offsets) - 1
        columns = Columns.joined([dataset._columns for dataset in datasets])
        return cls(columns, indices=np.concatenate(indices))

    @classmethod
    def from_structures(cls, structures: Iterable[Structure]) -> Dataset:
        """A data set in memory."""
        return cls(Columns.of(structures))

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Structure: ...
    @overload
    def __getitem__(self, index: slice) -> Dataset: ...
    def __getitem__(self, index: int | slice) -> Structure | Dataset:
        """The structure at an index; a slice is a subset."""
        if isinstance(index, slice):
            return self._with(self.indices[index])
        return self._columns.structure(int(self.indices[index]))

    def __iter__(self) -> Iterator[Structure]:
        return (self[k] for k in range(len(self)))

    def subset(self, indices: Sequence[int] | Int[np.ndarray, "chosen"]) -> Dataset:
        """The structures at these places of this data set, in this order; no array is copied.

        Raises:
            ConfigError: an index outside the data set.
        """
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(chosen) and (chosen.min() < 0 or chosen.max() >= len(self)):
            wrong = chosen[(chosen < 0) | (chosen >= len(self))][0]
            raise ConfigError(f"index {wrong} is outside {self}.")
        return self._with(self.indices[chosen])

    def _with(self, indices: np.ndarray) -> Dataset:
        return Dataset(self._columns, indices=indices, source=self._source)

    @property
    def sizes(self) -> Int[np.ndarray, "structure"]:
        """Atoms of each structure."""
        return np.diff(self._columns.offsets)[self.indices]

    @property
    def groups(self) -> np.ndarray:
        """Group of each structure (the molecule that conformers share), as text; empty where the file has none."""
        return self._columns.group[self.indices]

    @property
    def names(self) -> np.ndarray:
        """Name of each structure."""
        return self._columns.name[self.indices]

    @property
    def energies(self) -> Float[np.ndarray, "structure"]:
        """Energy of each structure in eV, NaN where it has none."""
        column = self._columns.energy
        return np.full(len(self), np.nan) if column is None else column[self.indices]

    @property
    def total_charges(self) -> Float[np.ndarray, "structure"]:
        """Total charge of each structure, e; zero where the file says nothing."""
        column = self._columns.charge
        return np.zeros(len(self)) if column is None else column[self.indices]

    def lacks(self, quantity: str) -> Bool[np.ndarray, "structure"]:
        """Which structures have no such label: "energy", "forces", "stress", "dipole" or "charges"."""
        column = getattr(self._columns, quantity)
        if column is None:
            return np.ones(len(self), dtype=bool)
        rows = self._columns.offsets[self.indices] if quantity in PER_ATOM else self.indices
        return np.isnan(column[rows]).reshape(len(self), -1).any(axis=1)

    @property
    def has_energy(self) -> bool:
        """Whether every structure has an energy (and there is one)."""
        return len(self) > 0 and not self.lacks("energy").any()

    @property
    def has_forces(self) -> bool:
        """Whether every structure has forces (and there is one)."""
        return len(self) > 0 and not self.lacks("forces").any()

    @property
    def has_stress(self) -> bool:
        """Whether every structure has a stress (and there is one)."""
        return len(self) > 0 and not self.lacks("stress").any()

    @property
    def composition(self) -> Composition:
        """Elements present and their counts in each structure."""
        present = np.zeros(_KINDS, dtype=bool)
        for block in _blocks(self.indices):
            present |= self._counts(block).any(axis=0)
        elements = np.flatnonzero(present)
        counts = np.zeros((len(self), len(elements)), dtype=np.int64)
        for block, rows in zip(_blocks(self.indices), _blocks(np.arange(len(self))), strict=True):
            counts[rows] = self._counts(block)[:, elements]
        return Composition(elements, counts)

    def _counts(self, indices: np.ndarray) -> Int[np.ndarray, "structure kind"]:
        """Atoms of each atomic number up to 255."""
        start, stop = self._columns.offsets[indices], self._columns.offsets[indices + 1]
        row = np.repeat(np.arange(len(indices)), stop - start)
        first = np.cumsum(stop - start) - (stop - start)
        atom = np.arange(len(row)) + np.repeat(start - first, stop - start)
        kind = row * _KINDS + self._columns.numbers[atom]
        return np.bincount(kind, minlength=len(indices) * _KINDS).reshape(-1, _KINDS)

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers present, ascending."""
        return tuple(int(z) for z in self.composition.elements)

    def require(self, *quantities: str) -> None:
        """Check that every structure has these labels: "energy", "forces", "stress", "dipole", "charges".

        Raises:
            DataError: some have not; the message has the structure and the keys found in the file.
        """
        for quantity in quantities:
            if len(self) == 0:
                raise DataError(f"{self}: required: at least one structure with {quantity}.")
            lacking = np.flatnonzero(self.lacks(quantity))
            if len(lacking) == 0:
                continue
            found = ""
            if self._source is not None:
                keys = ", ".join(keys_found(self._source.files[0], format=self._source.format)) or "none"
                found = f" Keys found in the file: {keys}. Declare the one that holds it: {said(quantity)}."
            raise DataError(
                f"{self}: {quantity} required for every structure, but {len(lacking)} have none; the first is "
                f"{lacking[0]} ({self.names[lacking[0]]}).{found}"
            )

    def __repr__(self) -> str:
        where = f"{self._source.path}: " if self._source else ""
        return f"Dataset({where}{len(self)} structures, {int(self.sizes.sum())} atoms)"

    def __reduce__(self) -> tuple[object, ...]:
        if self._source is None:
            return _in_memory, (self._columns, self.indices)
        return _reopened, (self._source, self.indices)


class _Source(NamedTuple):
    path: Path
    labels: Labels | str | None
    format: str | None

    @property
    def files(self) -> list[Path]:
        return matching(self.path)

    def columns(self) -> Columns:
        return Columns.joined([cached(file, self.labels, format=self.format) for file in self.files])


def _in_memory(columns: Columns, indices: np.ndarray) -> Dataset:
    return Dataset(replace(columns), indices=indices)


def _reopened(source: _Source, indices: np.ndarray) -> Dataset:
    return Dataset(source.columns(), indices=indices, source=source)


def _blocks(indices: np.ndarray, size: int = 10_000) -> Iterator[np.ndarray]:
    return (indices[start : start + size] for start in range(0, len(indices), size))
