"""xyz and extended xyz files in a zip archive, read in place: nothing is unpacked onto the disk."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from ase import Atoms

from mcgm.data.ase import LINES, entries_of, is_asked_for, labelled
from mcgm.data.labels import Labels
from mcgm.data.xyz import read_frames
from mcgm.errors import DataError
from mcgm.structure import Structure

SKIPPED = "__MACOSX"
"""Folder that some systems add to archives."""


def read_zip(path: Path, labels: Labels) -> Iterator[Structure]:
    """Structures of all xyz files, in the order of their names; each also has the entries `member` and `system`.

    `member` is the name of its file without folders and suffix, `system` the archive and that name up to its last `_`.

    Raises:
        DataError: not a zip, damaged, or without such files; a frame cannot be read or lacks a declared key.
    """
    for where, default_name, atoms in _frames(path, (labels.name, labels.group)):
        if is_asked_for(atoms, labels, where):
            yield labelled(atoms, labels, where, default_name)


def keys_zip(path: Path) -> list[str]:
    """Keys of the first structure."""
    _, _, first = next(_frames(path))
    return sorted(set(entries_of(first)) - {"numbers", "positions"})


def count_zip(path: Path, labels: Labels) -> None:
    """Unknown without reading the archive."""


def _frames(path: Path, words: Collection[str | None] = ()) -> Iterator[tuple[str, str, Atoms]]:
    """Each structure with where it stands and a name for it; `words` are keys of text."""
    with _open(path) as archive:
        members = sorted(name for name in archive.namelist() if _is_xyz(name))
        if not members:
            raise DataError(f"{path}: has no {' or '.join(LINES)} file in it.")
        for member in members:
            stem = PurePosixPath(member).stem
            with archive.open(member) as stream:
                for index, (line, atoms) in enumerate(read_frames(cast(BinaryIO, stream), path / member, words)):
                    atoms.info |= {"member": stem, "system": f"{path.stem}/{stem.rpartition('_')[0] or stem}"}
                    yield f"{path / member}, line {line}, entry {index}", f"{stem}[{index}]", atoms


def _is_xyz(name: str) -> bool:
    parts = PurePosixPath(name)
    return parts.suffix in LINES and SKIPPED not in parts.parts and not parts.name.startswith("._")


@contextmanager
def _open(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except DataError:
        raise
    except Exception as error:  # zipfile raises whatever a damaged byte leads to, also while a member is read
        raise DataError(f"{path}: not a readable zip archive ({error}). Was it copied completely?") from error
