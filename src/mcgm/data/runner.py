"""RuNNer's `input.data`, which n2p2 reads too: blocks of lines from `begin` to `end`, in bohr and hartree."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase.data import atomic_numbers

from mcgm.data.labels import Labels
from mcgm.errors import DataError, StructureError, unknown_name
from mcgm.structure import Structure

KEYWORDS = ("begin", "comment", "lattice", "atom", "energy", "charge", "end")
COLUMNS = {"charges": slice(4, 5), "forces": slice(6, 9)}
"""Places in the line of an atom: x y z symbol charge energy fx fy fz."""


class Block(NamedTuple):
    """What stands between `begin` and `end`; `first` is the number of the line with `begin`."""

    first: int
    symbols: list[str]
    atoms: list[list[float]]
    lattice: list[list[float]]
    entries: dict[str, float]


def read_runner(path: Path, labels: Labels) -> Iterator[Structure]:
    """Structures one at a time. Entries are `energy` and `charge`, and of the atoms `charges` and `forces`.

    Atoms' own energies, which RuNNer ignores, are not read.

    Raises:
        DataError: a line cannot be read, the file ends within a structure, or a declared entry is missing.
    """
    for index, block in enumerate(_blocks(path)):
        where = f"{path}, line {block.first}, entry {index}"
        try:
            yield _structure(block, labels, where, f"{path.name}[{index}]")
        except StructureError as error:
            raise DataError(f"{where}: {error}") from error


def keys_runner(path: Path) -> list[str]:
    """Entries of the first structure."""
    first = next(_blocks(path), None)
    return [] if first is None else sorted(_found(first))


def count_runner(path: Path, labels: Labels) -> None:
    """Unknown without reading the file."""
    return None


def _blocks(path: Path) -> Iterator[Block]:
    block: Block | None = None
    number = 0
    with path.open(encoding="utf-8", errors="replace") as stream:
        for number, line in enumerate(stream, start=1):
            keyword, *words = line.split() or ("",)
            if keyword in ("", "comment"):
                continue
            where = f"{path}, line {number}"
            if keyword not in KEYWORDS:
                raise DataError(f"{where}: {unknown_name('keyword', keyword[:20], KEYWORDS)}")
            if (keyword == "begin") is not (block is None):
                raise DataError(f"{where}: {keyword!r} {'within' if block else 'outside'} a structure (begin … end).")
            if block is None:
                block = Block(number, [], [], [], {})
            elif keyword == "end":
                yield block
                block = None
            else:
                _add(block, keyword, words, where)
    if block is not None:
        raise DataError(
            f"{path}: ends within the structure that begins in line {block.first}. Was it copied completely?"
        )


def _add(block: Block, keyword: str, words: list[str], where: str) -> None:
    if keyword == "atom":
        if len(words) not in (4, 5, 9) or words[3] not in atomic_numbers:
            raise DataError(
                f"{where}: required: atom x y z symbol charge energy fx fy fz; got {' '.join(words)!r:.80}."
            )
        block.symbols.append(words[3])
        numbers = [*_numbers(words[:3], where), math.nan, *_numbers(words[4:], where)]
        if block.atoms and len(numbers) != len(block.atoms[0]):
            raise DataError(f"{where}: {len(words)} columns; required: {len(block.atoms[0])} as in the atom before.")
        block.atoms.append(numbers)
    elif keyword == "lattice":
        block.lattice.append(_numbers(words, where, count=3))
    else:
        (block.entries[keyword],) = _numbers(words, where, count=1)


def _numbers(words: list[str], where: str, count: int | None = None) -> list[float]:
    if count is not None and len(words) != count:
        raise DataError(f"{where}: {len(words)} values; required: {count}.")
    try:
        return [float(word) for word in words]
    except ValueError as error:
        raise DataError(f"{where}: {error}.") from error


def _found(block: Block) -> dict[str, np.ndarray]:
    table = np.array(block.atoms)
    columns = {name: table[:, place] for name, place in COLUMNS.items() if table.shape[1] >= place.stop}
    return {name: np.array(value) for name, value in block.entries.items()} | columns


def _structure(block: Block, labels: Labels, where: str, name: str) -> Structure:
    if not block.atoms or len(block.lattice) not in (0, 3):
        raise DataError(f"{where}: {len(block.atoms)} atoms, {len(block.lattice)} lattice vectors; required: 0 or 3.")
    found = _found(block)
    values: dict[str, Any] = {}
    for quantity in ("energy", "forces", "charges", "charge"):
        key = getattr(labels, quantity)
        if key in found:
            values[quantity] = found[key] * (1.0 if quantity in ("charge", "charges") else labels.factor(quantity))
        elif key is not None and (missing := labels.missing(quantity, where, found)) is not None:
            raise missing
    if "charges" in values:
        values["charges"] = values["charges"][:, 0]
    length = labels.factor("length")
    return Structure(
        numbers=np.array([atomic_numbers[symbol] for symbol in block.symbols]),
        positions=np.array(block.atoms)[:, :3] * length,
        cell=np.array(block.lattice or np.zeros((3, 3))) * length,
        pbc=np.full(3, bool(block.lattice)),
        name=name,
        **values,
    )
