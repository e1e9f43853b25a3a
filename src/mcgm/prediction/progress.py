"""How a running prediction shows itself: a bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mcgm.prediction.stream import Predicted

MINUTE = 60.0


class Watcher:
    """Shows how many structures are done, how many a second, and how long the rest takes; a context manager.

    `total` is `None` where a format does not tell.
    """

    def __init__(self, total: int | None) -> None:
        self.total = total
        self.console = Console(stderr=True)
        columns = (TextColumn("predicting"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
        hidden = not self.console.is_terminal
        self.progress = Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True, disable=hidden)
        self.task = self.progress.add_task("", total=total, rate="")
        self.started = self.told = time.monotonic()
        self.begun: int | None = None
        self.done = 0

    def __enter__(self) -> Watcher:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, done: int, batch: list[Predicted]) -> None:
        """A batch was written; `done` structures are."""
        if self.begun is None:
            self.begun = done - len(batch)
        self.done = done
        self.progress.update(self.task, completed=done, rate=f"{self.rate:.3g}/s")
        now = time.monotonic()
        if self.progress.disable and now - self.told >= MINUTE:
            self.told = now
            self.console.print(self._line(), highlight=False)

    @property
    def rate(self) -> float:
        """Structures per second of this process."""
        return (self.done - (self.begun or 0)) / max(time.monotonic() - self.started, 1e-9)

    def _line(self) -> str:
        if self.total is None:
            return f"{self.done:,} structures · {self.rate:.3g}/s"
        left = timedelta(seconds=round((self.total - self.done) / self.rate))
        return f"{self.done:,} of {self.total:,} structures · {self.rate:.3g}/s · {left} left"
