"""Writing files so that a reader sees the old one or the new one, never half of it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mcgm.errors import ConfigError, OutputError

PREFIX = ".mcgm-partial-"
"""How temporary names begin, so that what a killed process left is known by its name."""

LEFT_BEHIND = 3600.0
"""s; a temporary file that nobody has written to for so long has lost its writer."""


LOCK = ".lock"
"""In a folder that a process writes; see `claimed`."""

ENDS = 1 << 20
"""Bytes at the beginning and at the end of a file that its fingerprint covers."""


def fingerprint(path: Path) -> dict[str, Any]:
    """Size of a file and digest of its two ends: enough to notice another file, whatever its size."""
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(ENDS))
        file.seek(max(0, size - ENDS))
        digest.update(file.read(ENDS))
    return {"size": size, "ends": digest.hexdigest()}


def require_another(output: Path, *inputs: str | Path) -> None:
    """Refuse to write over what is read.

    Raises:
        ConfigError: the output is one of the inputs.
    """
    for source in inputs:
        if output.exists() and Path(source).exists() and output.samefile(source):
            raise ConfigError(f"-o {output}: is what is read from; required: another file.")


@contextmanager
def claimed(lock: Path, what: str) -> Iterator[None]:
    """Hold a lock file, which the system takes back from a killed process; where there are no such locks, nothing.

    Raises:
        ConfigError: another process has it.
        OutputError: it cannot be written.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        stream = lock.open("ab")
    except OSError as error:
        raise OutputError(f"{what}: cannot be written ({error.strerror or error}).") from error
    with stream:
        if importlib.util.find_spec("fcntl") is not None:
            import fcntl

            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(f"{what}: another process is writing it.") from error
            except OSError:
                pass  # this file system has no locks
        yield


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path in the same folder: synced and renamed to `path` on success, removed on failure.

    A process that is killed meanwhile leaves the temporary file, hidden and harmless; a later call for the same path
    removes it.

    Raises:
        OutputError: the folder cannot be made or written to, or the disk is full; an old file stays as it was.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=PREFIX, suffix=f"-{path.name}")
        temporary = Path(name)
        os.close(handle)
        _remove_left_behind(path, now=temporary.stat().st_mtime)
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}). Is there space, and may this folder be written to?"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _remove_left_behind(path: Path, *, now: float) -> None:
    """`now` is the clock of the file system, which need not be ours."""
    for item in path.parent.iterdir():
        if item.name.startswith(PREFIX) and item.name.endswith(f"-{path.name}"):
            try:
                if item.stat().st_mtime < now - LEFT_BEHIND:
                    item.unlink()
            except OSError:  # another process was faster, or it is not ours to remove
                continue


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
