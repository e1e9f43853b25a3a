"""Arrays of an npz archive, row after row, so that one larger than memory is read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from mcgm.errors import DataError

BLOCK = 1 << 18
"""Bytes of one array in memory at a time, but at least one row."""

READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
"""Headers of numpy's format by version."""


class Rows:
    """An array in an open archive, compressed or not, that is read once from its first row to its last.

    One that is stored column by column is in memory as a whole.

    Raises:
        DataError: not an array of plain values, or damaged; also when rows are taken.
    """

    def __init__(self, archive: Any, key: str, where: str) -> None:
        self.where = where
        try:
            names = archive.zip.namelist()
            self.stream = archive.zip.open(f"{key}.npy" if f"{key}.npy" in names else key)
            version = np.lib.format.read_magic(self.stream)
            self.shape, in_columns, self.dtype = READERS[version](self.stream)
            if self.dtype.hasobject:
                raise ValueError("it holds Python objects, which are never unpickled")
            self.block = archive[key] if in_columns else np.empty((0, *self.shape[1:]), dtype=self.dtype)
        except Exception as error:  # zipfile and numpy raise whatever a damaged byte leads to
            raise self._unreadable(error) from error
        self.left = 0 if in_columns else math.prod(self.shape[:1])

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def flat(self) -> Rows:
        """The same entries along one axis; before any are taken."""
        self.left = 0 if len(self.block) else math.prod(self.shape)
        self.shape, self.block = (math.prod(self.shape),), self.block.reshape(-1)
        return self

    def take(self, count: int) -> np.ndarray:
        """The next so many rows."""
        if len(self.block) < count:
            try:
                self.block = np.concatenate([self.block, self._read(count - len(self.block))])
            except Exception as error:  # as above
                raise self._unreadable(error) from error
        taken, self.block = self.block[:count], self.block[count:]
        return taken

    def blocks(self) -> Iterator[np.ndarray]:
        """All rows that are left, a block at a time."""
        left = len(self)
        size = max(1, BLOCK // max(1, self.dtype.itemsize * math.prod(self.shape[1:])))
        while left:
            count = min(left, size)
            left -= count
            yield self.take(count)

    def _read(self, least: int) -> np.ndarray:
        row = self.shape[1:]
        size = self.dtype.itemsize * math.prod(row)
        rows = min(self.left, max(least, BLOCK // max(1, size)))
        content = self.stream.read(rows * size)
        if rows < least or len(content) < rows * size:
            raise ValueError("it ends early")
        self.left -= rows
        if size == 0:
            return np.zeros((rows, *row), dtype=self.dtype)
        return np.frombuffer(content, dtype=self.dtype).reshape(rows, *row)

    def _unreadable(self, error: Exception) -> DataError:
        return DataError(f"{self.where} cannot be read ({error}). Was it copied completely?")
