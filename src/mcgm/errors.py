"""Errors that say what was required, what came and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager


class MCGMError(Exception):
    """Base of every error that this package raises on purpose."""


class StructureError(MCGMError, ValueError):
    """A structure cannot be used; the message names the structure and the atom."""

    where: tuple[int, str] | None = None
    """Place in a batch, and what is wrong there."""

    @classmethod
    def in_batch(cls, place: int, problem: str) -> StructureError:
        """Of a structure in a batch, where it has no name but its place; see `named`."""
        error = cls(f"structure {place} of the batch: {problem}")
        error.where = place, problem
        return error


@contextmanager
def named(structures: Sequence[object]) -> Iterator[None]:
    """Errors inside call structures of a batch by these names."""
    try:
        yield
    except StructureError as error:
        if error.where is None:
            raise
        place, problem = error.where
        raise StructureError(f"{structures[place]}: {problem}") from error


class DataError(MCGMError, ValueError):
    """A data file cannot be used; the message names the file and the entry."""


class ConfigError(MCGMError, ValueError):
    """A setting is unknown or has a wrong value; the message names the key."""


class CheckpointError(MCGMError, ValueError):
    """A model file cannot be read; the message names the file."""


class TooLargeError(MCGMError, MemoryError):
    """A structure does not fit into memory even alone; the message has its size and about what would fit."""


class OutputError(MCGMError, OSError):
    """A file cannot be written; the message names the file and what the system said."""


class TrainingError(MCGMError, RuntimeError):
    """Training cannot go on; the message names the step and the structures."""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """Sentence for a name that is in no table, with the nearest one that is."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}.{hint} Known: {', '.join(names)}."
