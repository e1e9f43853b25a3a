"""A file converted once into mapped arrays beside it, so that data larger than memory trains."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mcgm.data.columns import Columns, write_columns
from mcgm.data.labels import Labels, declared
from mcgm.data.readers import Reader, reader_of
from mcgm.errors import DataError, OutputError
from mcgm.structure import Structure

VERSION = 2
STAMP = "stamp.json"
LARGE = 5_000_000
"""bytes; converting a file above this shows a progress bar."""


def cached(path: Path, labels: Labels | str | None = None, *, format: str | None = None) -> Columns:
    """The mapped columns of a file, converted now if they are not there or the file or the declaration changed.

    The cache is a folder `<file>.<declaration>.mcgm-cache` beside the file; where that cannot be written, in the
    user's cache folder; in `MCGM_CACHE` if that is set.

    Raises:
        DataError: the file cannot be read, or has no structure.
        OutputError: the cache cannot be written.
    """
    reader = reader_of(path, format)
    declaration = reader.labels if labels is None else declared(labels)
    stamp = _stamp(path, declaration, format)
    homes = _homes(path)
    for home in homes:
        if _read_stamp(folder := home / _folder_name(path, declaration, format)) == stamp:
            try:
                return Columns.load(folder)
            except (OSError, ValueError):  # damaged since: made again
                shutil.rmtree(folder, ignore_errors=True)
    writable = [home for home in homes if _is_writable(home)]
    if not writable:
        raise DataError(f"{path}: no folder to write its cache to; tried {', '.join(map(str, homes))}. Set MCGM_CACHE.")
    folder = writable[0] / _folder_name(path, declaration, format)
    try:
        _convert(path, reader, declaration, folder, stamp)
    except DataError:
        raise
    except OSError as error:
        raise OutputError(
            f"{folder}: the cache of {path} cannot be written ({error.strerror or error}). Make space, or set "
            "MCGM_CACHE to a folder that has it."
        ) from error
    return Columns.load(folder)


def _convert(path: Path, reader: Reader, labels: Labels, folder: Path, stamp: dict[str, Any]) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        if write_columns(_with_progress(reader.structures(path, labels), path, reader, labels), temporary) == 0:
            raise DataError(f"{path}: has no structure.")
        with (temporary / STAMP).open("w") as stream:
            json.dump(stamp, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        _move(temporary, folder, stamp)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move(temporary: Path, folder: Path, stamp: dict[str, Any]) -> None:
    """Put a finished cache in its place; another process may have done the same meanwhile."""
    temporary.chmod(0o755)
    for _ in range(3):
        try:
            temporary.replace(folder)  # refused by the system while there is a cache that is not empty
            return
        except OSError:
            if _read_stamp(folder) == stamp:
                return
            shutil.rmtree(folder, ignore_errors=True)
    raise DataError(f"{folder}: cannot be replaced. Remove it and try again.")


def _stamp(path: Path, labels: Labels, format: str | None) -> dict[str, Any]:
    status = path.stat()
    return {
        "version": VERSION,
        "size": status.st_size,
        "modified_ns": status.st_mtime_ns,
        "labels": labels.fingerprint,
        "format": format,
    }


def _read_stamp(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / STAMP).read_text())
    except (OSError, ValueError):
        return None


def _folder_name(path: Path, labels: Labels, format: str | None) -> str:
    return f"{path.name}.{labels.fingerprint}{f'.{format}' if format else ''}.mcgm-cache"


def _homes(path: Path) -> list[Path]:
    """Folders for the cache, best first."""
    beside = path.resolve().parent
    unique = hashlib.sha256(str(beside).encode()).hexdigest()[:8]
    if chosen := os.environ.get("MCGM_CACHE"):
        return [Path(chosen) / unique]
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [beside, user / "mcgm" / unique]


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not folder.stat().st_mode & 0o222:
            return False  # meant to be read-only, even where this process is the superuser
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _with_progress(structures: Iterable[Structure], path: Path, reader: Reader, labels: Labels) -> Iterator[Structure]:
    if path.stat().st_size < LARGE or not sys.stderr.isatty():
        yield from structures
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        yield from bar.track(structures, total=reader.entries(path, labels), description=f"Converting {path.name}")
