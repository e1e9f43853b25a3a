"""Which keys and units a file is read with: a named declaration, the format's own, or that of a model's training."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mcgm.data.labels import PREDICTED, Labels, declared
from mcgm.data.readers import FORMATS, format_of
from mcgm.errors import ConfigError, DataError, unknown_name

HINT = (
    "It is read as the data of the training were; another declaration: --labels, e.g. ase, npz, or keys as in "
    "'energy=E_dft, charge=q'."
)


def declaration(path: Path, labels: str | None, keys: Mapping[str, Any] | None) -> Labels | str | None:
    """The declaration with this name or, for `None`, the format's own, with single entries changed.

    Raises:
        ConfigError: an entry that a declaration does not have, or no declaration of this name.
    """
    if not keys:
        return labels
    base = FORMATS[format_of(path)].labels if labels is None else declared(labels)
    names = [item.name for item in dataclasses.fields(Labels)]
    for key in keys:
        if key not in names:
            raise ConfigError(unknown_name("setting", f"data.keys.{key}", [f"data.keys.{name}" for name in names]))
    changes: dict[str, Any] = dict(keys)
    changes.setdefault("optional", tuple(name for name in base.optional if name not in keys))
    changes.setdefault("somewhere", tuple(name for name in PREDICTED if keys.get(name) is not None))
    for name in ("optional", "somewhere"):
        if isinstance(changes[name], str):
            changes[name] = tuple(word.strip() for word in changes[name].strip("[]() ").split(",") if word.strip())
    return dataclasses.replace(base, **changes)


def spoken(path: Path, words: str) -> Labels | str:
    """What `--labels` says: the name of a declaration, or entries of one for this file's format, "energy=E, forces=F".

    Raises:
        ConfigError: no declaration of this name, or an entry that declarations do not have.
    """
    if "=" not in words:
        return declared(words)
    entries = [word.partition("=") for word in words.split(",")]
    found = declaration(path, None, {key.strip(): value.strip() for key, _, value in entries})
    assert found is not None
    return found


def as_trained(path: Path, recipe: Mapping[str, Any] | None) -> Labels | None:
    """How the data of a training were read, for another file of the same format; `None`: by the format's own keys.

    Keys and units of a file are those of its source: errors in eV of energies in kcal/mol would mean nothing.

    Args:
        path: the other file.
        recipe: of the training, as model files keep it (`extra["recipe"]`).
    """
    data: Mapping[str, Any] = (recipe or {}).get("data") or {}
    if not (data.get("labels") or data.get("keys")) or format_of(Path(data["path"])) != format_of(path):
        return None
    found = declaration(path, data.get("labels"), data.get("keys"))
    return None if found is None else dataclasses.replace(declared(found), somewhere=())


def inputs_alone(labels: Labels) -> Labels:
    """What a prediction reads: elements, positions, cell, charge and spin; no labels, and every structure."""
    return dataclasses.replace(
        labels,
        energy=None,
        forces=None,
        stress=None,
        dipole=None,
        charges=None,
        group=None,
        where=None,
        somewhere=(),
    )


@contextlib.contextmanager
def read_as_trained(labels: Labels | None) -> Iterator[None]:
    """Errors in the data say how they are read, where `as_trained` decided it."""
    try:
        yield
    except DataError as error:
        if labels is None:
            raise
        raise DataError(f"{error} {HINT}") from error
