"""An output that is being written: a folder beside it, with a journal of what is finished, from which it is resumed."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from mcgm.errors import ConfigError, DataError, OutputError
from mcgm.files import claimed, replacing
from mcgm.prediction.sinks import SINKS, WHOLE
from mcgm.prediction.stream import Predicted

FORMAT = 1
JOURNAL, LOCK = "journal.json", "lock"

SAVE_EVERY = 5.0
"""s; the most that a kill loses."""

MEANING = {
    "structures": "the structures are others",
    "model": "the model is another one",
    "batch_atoms": "--batch-atoms is another one",
    "labels": "keys or units (--labels) are others",
}


@dataclass(frozen=True)
class Journal:
    """Structures that are finished, and how many of them are out of domain; the lengths of the files then, and all
    that the next batch depends on.

    `inputs` says what was asked for, so that nothing else is gone on with; `limit` is the number of atoms that was
    found to fit into memory; `complete` that nothing was missing but the output's name.
    """

    inputs: dict[str, Any]
    done: int = 0
    out_of_domain: int = 0
    lengths: dict[str, int] = field(default_factory=dict)
    sink: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None
    complete: bool = False
    format: int = FORMAT


class Unfinished:
    """The folder `OUTPUT.part`: opened to begin, or with `resume` to go on after the last batch in its journal.

    A context manager. Left by an exception it keeps what is finished; `discard` removes everything. Where it is
    resumed, what a killed process wrote after its last entry in the journal is cut off.

    Raises:
        ConfigError: an interrupted output that is not to be resumed, or of other inputs; or another process writes it.
        DataError: the journal cannot be read, or files are shorter than it says.
        OutputError: the folder cannot be made.
    """

    def __init__(self, output: Path, inputs: dict[str, Any], *, resume: bool) -> None:
        self.output = output
        self.folder = output.with_name(output.name + ".part")
        with ExitStack() as stack:
            stack.enter_context(claimed(self.folder / LOCK, str(self.output)))
            earlier = self._journal()
            if earlier is not None:
                self._check(earlier, inputs, resume)
            self.journal = earlier or Journal(inputs)
            self.is_named = self.journal.complete and not (self.folder / WHOLE).exists() and output.exists()
            lengths = {} if self.is_named else self.journal.lengths
            self.sink = SINKS[output.suffix](self.folder, self.journal.sink, lengths)
            self._open = stack.pop_all()
        self.saved = time.monotonic()
        self.between_batches = True

    def _journal(self) -> Journal | None:
        path = self.folder / JOURNAL
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found = Journal(**content)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{path}: is no journal of a prediction ({error}). Remove {self.folder}.") from error
        if found.format != FORMAT:
            raise DataError(f"{path}: has format {found.format}, this version reads {FORMAT}. Remove {self.folder}.")
        return found

    def _check(self, earlier: Journal, inputs: dict[str, Any], resume: bool) -> None:
        if not resume:
            raise ConfigError(
                f"{self.folder}: an interrupted prediction, {earlier.done} structures are done. Go on with --resume, "
                "or remove this folder to begin again."
            )
        for key in MEANING:
            then, now = earlier.inputs.get(key, inputs.get(key)), inputs.get(key)
            if then != now:
                raise ConfigError(
                    f"{self.folder}: cannot be gone on with, {MEANING[key]} ({then} then, {now} now). Remove this "
                    "folder to begin again."
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # a full disk has been told already
            self.sink.close()
        self._open.close()

    @property
    def is_kept(self) -> bool:
        """Whether there is anything to go on from."""
        return (self.folder / JOURNAL).exists()

    def append(self, items: Sequence[Predicted], limit: int | None) -> None:
        """The next batch; it counts once the journal has it, which is after `SAVE_EVERY` seconds at the latest."""
        try:
            self.between_batches = False
            self.sink.append(items)
            done = self.journal.done + len(items)
            outside = self.journal.out_of_domain + sum(bool(item.parts.get("out_of_domain")) for item in items)
            self.journal = replace(self.journal, done=done, out_of_domain=outside, limit=limit)
            self.between_batches = True
            if time.monotonic() - self.saved >= SAVE_EVERY:
                self.save()
        except OutputError:
            raise
        except OSError as error:
            raise self._unwritable(error) from error

    def save(self) -> None:
        """Bring all whole batches so far to the disk, and say so in the journal."""
        if self.between_batches:
            self._note(lengths=self.sink.lengths(), sink=self.sink.state)

    def _note(self, **changes: Any) -> None:
        self.journal = replace(self.journal, **changes)
        with replacing(self.folder / JOURNAL) as path:
            path.write_text(json.dumps(asdict(self.journal)) + "\n", encoding="utf-8")
        self.saved = time.monotonic()

    def finish(self) -> None:
        """Give the output its name; it appears whole or not at all."""
        if not self.is_named:
            try:
                self.save()
                whole = self.sink.whole()
                self._note(complete=True)
                whole.replace(self.output)
            except OutputError:
                raise
            except OSError as error:
                raise self._unwritable(error) from error
        self.discard()

    def discard(self) -> None:
        """Remove the folder."""
        with contextlib.suppress(OSError):
            self.sink.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _unwritable(self, error: OSError) -> OutputError:
        kept = f" What is finished is in {self.folder}: go on with --resume." if self.is_kept else ""
        return OutputError(
            f"{self.output}: cannot be written ({error.strerror or error}). Is there space, and may this folder be "
            f"written to?{kept}"
        )
