"""Structures that a command gives to a model: read as the data of its training were, unless told otherwise."""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcgm.data.labels import Labels


_log = logging.getLogger("mcgm")


@dataclass(frozen=True)
class Inputs:
    """A file, and the keys and units it is read with; `None`: the format's own."""

    path: Path
    labels: Labels | None


def labels_argument(parser: argparse.ArgumentParser) -> None:
    """`--labels`."""
    parser.add_argument(
        "--labels",
        metavar="LABELS",
        help="keys and units: a named declaration, or 'energy=E_dft, energy_unit=kcal/mol' "
        "(default: the training's, or the format's); predictions are made of every structure, whatever `where` says",
    )


@contextlib.contextmanager
def inputs(model: Path, structures: str, labels: str | None) -> Iterator[Inputs]:
    """As `labelled`, for predictions: of the declaration what they read alone."""
    from mcgm.data.declaration import inputs_alone
    from mcgm.data.readers import FORMATS, format_of

    with labelled(model, structures, labels) as found:
        declared = FORMATS[format_of(found.path)].labels if found.labels is None else found.labels
        yield replace(found, labels=inputs_alone(declared))


@contextlib.contextmanager
def labelled(model: Path, structures: str, labels: str | None) -> Iterator[Inputs]:
    """What is to be read; errors in the data say so where the training decided how.

    Args:
        model: model file, whose header has the recipe of the training.
        structures: a file, or "sample": the bundled one.
        labels: what `--labels` says.

    Raises:
        CheckpointError: not a model file.
        ConfigError: no declaration of this name.
    """
    from mcgm.checkpoint import read_header
    from mcgm.data import sample_path
    from mcgm.data.declaration import as_trained, read_as_trained, spoken
    from mcgm.data.labels import declared

    path = sample_path() if structures == "sample" else Path(structures)
    extra = read_header(model).get("extra", {})
    trained = None if labels else as_trained(path, extra.get("recipe"))
    chosen = declared(spoken(path, labels)) if labels else trained
    _tell_of_charges(path, chosen, extra.get("total_charges") or [])
    with read_as_trained(trained):
        yield Inputs(path, chosen)


def _tell_of_charges(path: Path, labels: Labels | None, known: Sequence[float]) -> None:
    """Warn where a model knows ions and a file does not say which of its structures are."""
    from mcgm.data.labels import summands
    from mcgm.data.readers import keys_found, matching, reader_of

    if not any(known):
        return
    key = (reader_of(matching(path)[0]).labels if labels is None else labels).charge
    if key is not None and {name for _, name in summands(key)} <= set(keys_found(path)):
        return
    told = ", ".join(f"{charge:+g}" if charge else "0" for charge in known)
    _log.warning(
        "%s: has no entry %r: all structures are taken for neutral; the model was trained on total charges of %s e. "
        "Name the entry that has them: --labels 'charge=KEY'.",
        path,
        key or "charge",
        told,
    )
