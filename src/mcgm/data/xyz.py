"""xyz and extended xyz, one structure at a time, with the line on which something is wrong."""

from __future__ import annotations

import io
import re
from collections import deque
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ase import Atoms
from ase.data import atomic_numbers
from ase.io.extxyz import read_xyz

from mcgm.errors import DataError

BYTE_ORDER_MARK = "\ufeff"
MOST_VECTORS = 3

ENTRY = re.compile(r"""([^\s="']+)\s*=\s*("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\{[^}]*\}|\[[^\]]*\]|\S+)""")
"""Key and value in a comment line, the value with what encloses it."""


class Frame(NamedTuple):
    """Lines of one structure: a count, a comment, one line per atom; `first` is the number of the count's line."""

    first: int
    lines: list[str]


def read_frames(stream: BinaryIO, path: Path, words: Collection[str | None] = ()) -> Iterator[tuple[int, Atoms]]:
    """Structures of an xyz text with the number of their first line; ASE reads each, in its conventions.

    Entries under the keys `words` stay as they are written where ASE makes numbers of them: 001, or 1_2.

    Raises:
        DataError: the text ends early, is not UTF-8, or has a line that cannot be read; the message has the line.
    """
    for frame in _frames(stream, path):
        text = io.StringIO("\n".join(frame.lines) + "\n")
        try:
            atoms = next(read_xyz(text, 0))
        except Exception as error:  # ASE's parser raises whatever it meets
            raise DataError(_explanation(frame, path, error)) from error
        written = {key: value for key, value in ENTRY.findall(frame.lines[1]) if key in words and key in atoms.info}
        for key, value in written.items():
            if not isinstance(atoms.info[key], str):
                atoms.info[key] = value[1:-1] if value[0] in "\"'{[" else value
        yield frame.first, atoms


def count_frames(path: Path) -> int | None:
    """How many structures an xyz text has, without reading them; `None` where it is not one."""
    count = 0
    with path.open("rb") as stream:
        for line in stream:
            if not line.strip() or line.lstrip().startswith(b"VEC"):
                continue
            try:
                atoms = int(line)
            except ValueError:
                return None
            deque(islice(stream, max(0, atoms + 1)), maxlen=0)
            count += 1
    return count


def _frames(stream: BinaryIO, path: Path) -> Iterator[Frame]:
    lines = _decoded(stream, path)
    held: tuple[int, str] | None = None
    while True:
        first, line = held or next(lines, (0, ""))
        held = None
        if first == 0:
            return
        if not line.strip():
            continue
        count = _count(line, first, path)
        rest = [line for _, line in islice(lines, count + 1)]
        if len(rest) < count + 1:
            raise DataError(
                f"{path}, line {first}: announces {count} atoms, but the file ends after {max(len(rest) - 1, 0)} of "
                "them. Was it copied completely?"
            )
        held = next(lines, None)
        while held is not None and held[1].lstrip().startswith("VEC") and len(rest) <= count + MOST_VECTORS:
            rest.append(held[1])
            held = next(lines, None)
        yield Frame(first, [line, *rest])


def _decoded(stream: BinaryIO, path: Path) -> Iterator[tuple[int, str]]:
    for number, raw in enumerate(stream, start=1):
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}, line {number}: byte {error.start + 1} (0x{raw[error.start]:02x}) is not UTF-8 text. "
                "Save the file as UTF-8 (it may be UTF-16 or Latin-1, or no text at all)."
            ) from error
        yield number, (line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line).rstrip("\r\n")


def _count(line: str, number: int, path: Path) -> int:
    try:
        count = int(line)
    except ValueError:
        count = -1
    if count < 0:
        raise DataError(f"{path}, line {number}: required: the number of atoms that follow; got {line[:60]!r}.")
    return count


def _explanation(frame: Frame, path: Path, error: Exception) -> str:
    """The line that ASE could not read, where it can be told."""
    words = [line.split() for line in frame.lines[2 : 2 + int(frame.lines[0])]]
    plain = "species:S:1:pos:R:3" in frame.lines[1] or "Properties=" not in frame.lines[1]
    for number, entries in enumerate(words, start=frame.first + 2):
        if len(entries) != len(words[0]):
            return f"{path}, line {number}: has {len(entries)} entries; the structure's first atom has {len(words[0])}."
        if plain and len(entries) < 4:
            return f"{path}, line {number}: has {len(entries)} entries; required: an element and three coordinates."
        if plain and not (entries[0].isdigit() or entries[0].capitalize() in atomic_numbers):
            return f"{path}, line {number}: {entries[0]!r} is no element."
        wrong = next((entry for entry in entries[1:4] if plain and not _is_number(entry)), None)
        if wrong is not None:
            return f"{path}, line {number}: {wrong!r} is no number; required: three coordinates after the element."
    return (
        f"{path}, line {frame.first}: ASE cannot read the structure that starts here "
        f"({type(error).__name__}: {error}). Do its atoms have the columns that line {frame.first + 1} announces?"
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
