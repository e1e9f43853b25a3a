"""Structures that a command gives to a model: read as the data of its training were, unless told otherwise."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcgm.data.labels import Labels


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
        help="keys and units: a named declaration, or 'energy=E_dft, energy_unit=kcal/mol' (default: the training's, or "
        "the format's)",
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
    trained = None if labels else as_trained(path, read_header(model).get("extra", {}).get("recipe"))
    chosen = declared(spoken(path, labels)) if labels else trained
    with read_as_trained(trained):
        yield Inputs(path, chosen)
