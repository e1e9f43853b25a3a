"""A file of structures to a file of predictions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mcgm.data.labels import Labels
from mcgm.data.readers import matching, open_structures
from mcgm.errors import ConfigError, DataError, StructureError, unknown_name
from mcgm.files import fingerprint
from mcgm.potential import Potential
from mcgm.prediction.sinks import SINKS
from mcgm.prediction.stream import BATCH_ATOMS, Predicted, filled, predict_batch
from mcgm.prediction.unfinished import Unfinished
from mcgm.splitting import Splitter

Watch = Callable[[int, list[Predicted]], None]
"""Told after every batch: structures done in all, and the batch."""


@dataclass(frozen=True)
class Outcome:
    """Structures in the output, how many of them another process had done before, and how many are out of domain."""

    structures: int
    resumed_at: int
    out_of_domain: int


def predict_file(
    potential: Potential,
    source: Path,
    output: Path,
    *,
    labels: Labels | None = None,
    model: str = "",
    batch_atoms: int = BATCH_ATOMS,
    resume: bool = False,
    watch: Watch = lambda done, batch: None,
) -> Outcome:
    """Predict all structures of a file, in their order, one batch in memory at a time; the output appears when whole.

    With `resume`, go on after the last batch that an interrupted process finished, if there was one: the output is that
    of a process that was left alone, bit for bit with the same number of threads.

    Args:
        output: .extxyz, .xyz or .npz.
        labels: keys and units of the source; `None`: the format's own.
        model: what identifies the potential; another one is not gone on with.
        batch_atoms: atoms in a batch, unless it is a single structure.

    Raises:
        ConfigError: another suffix, no atoms, or an interrupted output that is not to be resumed or of other inputs.
        DataError: the structures cannot be read.
        StructureError: an element that the potential does not know, or no finite prediction.
        TooLargeError: a structure does not fit, even alone.
        OutputError: the output cannot be written.
    """
    require_writable(output)
    if batch_atoms < 1:
        raise ConfigError(f"--batch-atoms {batch_atoms}: required: at least 1.")
    structures = open_structures(source, labels)
    read_by = None if labels is None else labels.fingerprint
    files = [fingerprint(file) for file in matching(source)]
    inputs = {"structures": files, "model": model, "batch_atoms": batch_atoms, "labels": read_by}
    with Unfinished(output, inputs, resume=resume) as unfinished:
        begun = unfinished.journal.done
        rest = () if unfinished.journal.complete else islice(structures, begun, None)
        splitter = Splitter("prediction", unfinished.journal.limit)
        try:
            for batch in filled(rest, batch_atoms):
                predicted = predict_batch(potential, batch, splitter)
                unfinished.append(predicted, splitter.limit)
                watch(unfinished.journal.done, predicted)
        except (DataError, StructureError):
            unfinished.discard()  # the input has to change
            raise
        except BaseException:
            with contextlib.suppress(Exception):  # what happened matters more
                unfinished.save()
            if not unfinished.is_kept:
                unfinished.discard()
            raise
        unfinished.finish()
        return Outcome(unfinished.journal.done, begun, unfinished.journal.out_of_domain)


def require_writable(output: Path) -> None:
    """Refuse what no sink writes.

    Raises:
        ConfigError: another suffix.
    """
    if output.suffix not in SINKS:
        raise ConfigError(f"-o {output}: {unknown_name('suffix', output.suffix, SINKS)}")
