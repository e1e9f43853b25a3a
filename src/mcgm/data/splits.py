"""Which structures train, validate and test: by fraction, by group, from a file, or as the literature does it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import numpy as np

from mcgm.data.dataset import Dataset
from mcgm.data.labels import said
from mcgm.errors import ConfigError, DataError, unknown_name

PARTS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """Indices of the three parts; no structure is in two of them.

    Raises:
        DataError: an index appears twice, or the training part is empty.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray

    def __post_init__(self) -> None:
        for part in PARTS:
            object.__setattr__(self, part, np.asarray(getattr(self, part), dtype=np.int64).reshape(-1))
        every = np.concatenate([self.train, self.val, self.test])
        values, counts = np.unique(every, return_counts=True)
        if len(values) < len(every):
            raise DataError(f"split: structure {values[counts > 1][0]} appears more than once; required: once.")
        if len(self.train) == 0:
            raise DataError("split: the training part is empty. Ask for fewer validation and test structures.")

    def subsets(self, dataset: Dataset) -> tuple[Dataset, Dataset, Dataset]:
        """The three parts of a data set."""
        return dataset.subset(self.train), dataset.subset(self.val), dataset.subset(self.test)

    def __repr__(self) -> str:
        return f"Split(train={len(self.train)}, val={len(self.val)}, test={len(self.test)})"


class SplitRule(Protocol):
    """Anything that divides a data set.

    `is_shuffled` says that the parts are in an order drawn at random, so that the first ones are like all;
    `counts_all` that it is of all structures of a file, whichever of them are used.
    """

    is_shuffled: ClassVar[bool]
    counts_all: ClassVar[bool]

    def split(self, dataset: Dataset) -> Split:
        """The parts of this data set."""
        ...


@dataclass(frozen=True)
class ByFraction:
    """Structures at random. A whole number is a count, a fraction (below or equal 1.0) a part of all.

    `test=None` takes what is left.
    """

    train: int | float = 0.8
    val: int | float = 0.1
    test: int | float | None = None
    seed: int = 0

    is_shuffled: ClassVar[bool] = True
    counts_all: ClassVar[bool] = False

    def split(self, dataset: Dataset) -> Split:
        """The parts of this data set.

        Raises:
            ConfigError: more is asked for than there is.
        """
        return _cut(np.random.default_rng(self.seed).permutation(len(dataset)), self.train, self.val, self.test)


@dataclass(frozen=True)
class ByGroup:
    """Whole groups (molecules) at random: no group is in two parts. Fractions and counts are of groups."""

    train: int | float = 0.8
    val: int | float = 0.1
    test: int | float | None = None
    seed: int = 0

    is_shuffled: ClassVar[bool] = False
    counts_all: ClassVar[bool] = False

    def split(self, dataset: Dataset) -> Split:
        """The parts of this data set.

        Raises:
            DataError: some structures have no group.
            ConfigError: more groups are asked for than there are.
        """
        groups = dataset.groups
        if np.any(groups == ""):
            raise DataError(
                f"{dataset}: structure {np.flatnonzero(groups == '')[0]} has no group; a split by group needs one for "
                f"each. Declare the key that holds the molecule: {said('group')}."
            )
        names, member = np.unique(groups, return_inverse=True)
        order = np.random.default_rng(self.seed).permutation(len(names))
        chosen = _cut(order, self.train, self.val, self.test)
        return Split(*(np.flatnonzero(np.isin(member, getattr(chosen, part))) for part in PARTS))


@dataclass(frozen=True)
class ByFile:
    """Indices from a file: .npz or .json with entries train, val (or valid, validation) and perhaps test.

    A .txt has one word per structure instead: train, val, test, or - for a structure that is left out.
    """

    path: Path

    is_shuffled: ClassVar[bool] = False
    counts_all: ClassVar[bool] = True

    def split(self, dataset: Dataset) -> Split:
        """The parts of this data set.

        Raises:
            DataError: the file cannot be read, lacks a part, or names a structure that is not there.
        """
        path = Path(self.path)
        try:
            parts = _read_words(path, len(dataset)) if path.suffix == ".txt" else _read_indices(path)
        except (OSError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path}: cannot be read as a split: {error}.") from error
        for name, indices in parts.items():
            wrong = indices[(indices < 0) | (indices >= len(dataset))]
            if len(wrong):
                raise DataError(f"{path}: {name} has index {wrong[0]}, but the data set has {len(dataset)} structures.")
        return Split(parts["train"], parts["val"], parts["test"])


@dataclass(frozen=True)
class OE62Split:
    """The split of the OE62 literature: rows shuffled as `DataFrame.sample(frac=1, random_state=42)`.

    50,000 / 6,000 / 5,489 of all 61,489 rows (Ewald MP, arXiv:2303.04791).
    """

    train: int = 50_000
    val: int = 6_000
    rows: int = 61_489

    is_shuffled: ClassVar[bool] = True
    counts_all: ClassVar[bool] = True

    def split(self, dataset: Dataset) -> Split:
        """The parts of this data set.

        Raises:
            DataError: it does not have all rows.
        """
        if len(dataset) != self.rows:
            raise DataError(f"{dataset}: the OE62 split is of all {self.rows:,} rows of df_62k.json in their order.")
        order = np.random.RandomState(42).permutation(len(dataset))
        return Split(order[: self.train], order[self.train : self.train + self.val], order[self.train + self.val :])


NAMED: Mapping[str, SplitRule] = MappingProxyType(
    {
        "sample": ByFraction(train=1600, val=200, test=200, seed=0),
        "sample-by-molecule": ByGroup(train=0.8, val=0.1, seed=0),
        "oe62": OE62Split(),
        "aqm": ByFraction(train=0.85, val=0.10, seed=0),
        "aqm-by-molecule": ByGroup(train=0.85, val=0.10, seed=0),
    }
)
"""Splits by name; "aqm" (85/10/5 by conformer) leaks molecules into the test part, "aqm-by-molecule" does not."""


def split_rule(rule: SplitRule | str) -> SplitRule:
    """A rule, the named one, or the file (.npz, .json, .txt) of that name.

    Raises:
        ConfigError: unknown name.
    """
    if not isinstance(rule, str):
        return rule
    if rule in NAMED:
        return NAMED[rule]
    if Path(rule).suffix in (".npz", ".json", ".txt"):
        return ByFile(Path(rule))
    raise ConfigError(unknown_name("split", rule, NAMED) + " Or a file: .npz, .json, .txt.")


def _cut(order: np.ndarray, train: int | float, val: int | float, test: int | float | None) -> Split:
    total = len(order)
    n_train, n_val = _size(train, total, "train"), _size(val, total, "val")
    n_test = total - n_train - n_val if test is None else _size(test, total, "test")
    if n_test < 0 or n_train + n_val + n_test > total:
        raise ConfigError(f"split: train={train}, val={val}, test={test} ask for more than the {total} there are.")
    return Split(*np.split(order[: n_train + n_val + n_test], [n_train, n_train + n_val]))


def _size(amount: int | float, total: int, part: str) -> int:
    if amount < 0 or (isinstance(amount, float) and amount > 1):
        raise ConfigError(f"split: {part}={amount}; required: a count (integer) or a fraction from 0.0 to 1.0.")
    return amount if isinstance(amount, int) else int(np.floor(amount * total + 1e-9))


def _read_indices(path: Path) -> dict[str, np.ndarray]:
    entries: Mapping[str, Any]
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            entries = {name: file[name] for name in file.files}
    else:
        entries = json.loads(path.read_text())
        if not isinstance(entries, dict):
            raise DataError(f"{path}: required: an object with train, val and test.")
    parts: dict[str, np.ndarray] = {"test": np.zeros(0, dtype=np.int64)}
    names = {"val": ("val", "valid", "validation"), "train": ("train",), "test": ("test",)}
    for part, spellings in names.items():
        found = next((name for name in spellings if name in entries), None)
        if found is not None:
            parts[part] = _integers(path, found, entries[found])
        elif part != "test":
            raise DataError(f"{path}: has no entry {part!r}. Entries found: {', '.join(sorted(entries)) or 'none'}.")
    return parts


def _integers(path: Path, part: str, values: Any) -> np.ndarray:
    array = np.asarray(values).reshape(-1)
    if array.size and array.dtype.kind not in "iu":
        raise DataError(f"{path}: {part} has values of type {array.dtype}; required: integers counted from 0.")
    return array.astype(np.int64)


def _read_words(path: Path, count: int) -> dict[str, np.ndarray]:
    words = np.array(path.read_text().split())
    known = (*PARTS, "-")
    unknown = [word for word in words if word not in known]
    if unknown:
        raise DataError(f"{path}: {unknown_name('part', str(unknown[0]), known)}")
    if len(words) != count:
        raise DataError(f"{path}: {len(words)} words; required: one for each of {count} structures.")
    return {part: np.flatnonzero(words == part) for part in PARTS}
