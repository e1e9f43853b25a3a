"""How a running training shows itself: a bar with the running errors, a line per epoch, or JSON lines for a parent."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@dataclass(frozen=True)
class State:
    """Where a training stands; errors in meV and meV/Å, of the running epoch for steps, of validation for epochs."""

    epoch: int
    step: int
    total_steps: int
    energy_mae_mev: float
    force_mae_mev_per_A: float | None
    seconds: float
    member: str = ""

    @property
    def where(self) -> str:
        """Member, if there are several, and epoch."""
        return f"{self.member} · epoch {self.epoch}" if self.member else f"epoch {self.epoch}"

    @property
    def errors(self) -> str:
        """The errors as text."""
        force = self.force_mae_mev_per_A
        return f"E {self.energy_mae_mev:.1f} meV" + (f", F {force:.1f} meV/Å" if force is not None else "")


class Reporter(Protocol):
    """Told about steps (`wants_steps`) and validated epochs; `close` is called once at the end."""

    wants_steps: bool

    def step(self, state: State) -> None:
        """A training step was taken."""

    def epoch(self, state: State) -> None:
        """An epoch was validated."""

    def close(self) -> None:
        """Training is over."""


class BarReporter:
    """A bar that shows the running training errors and the last validation errors."""

    wants_steps = True

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, TimeRemainingColumn(), console=console)
        self.progress.start()
        self.task = self.progress.add_task("starting", total=None)
        self.validated = ""

    def step(self, state: State) -> None:
        """See `Reporter`."""
        text = f"{state.where} · train {state.errors}{self.validated}"
        self.progress.update(self.task, completed=state.step, total=state.total_steps, description=text)

    def epoch(self, state: State) -> None:
        """See `Reporter`."""
        self.validated = f" · val {state.errors}"
        self.progress.update(self.task, description=f"{state.where}{self.validated}")

    def close(self) -> None:
        """See `Reporter`."""
        self.progress.stop()


class LineReporter:
    """One line per epoch, for logs."""

    wants_steps = False

    def __init__(self, console: Console) -> None:
        self.console = console

    def step(self, state: State) -> None:
        """See `Reporter`."""
        return None

    def epoch(self, state: State) -> None:
        """See `Reporter`."""
        text = f"{state.where}  step {state.step}/{state.total_steps}  val {state.errors}  {state.seconds:.0f} s"
        self.console.print(text, highlight=False)

    def close(self) -> None:
        """See `Reporter`."""
        return None


class JsonReporter:
    """One JSON line per epoch on standard output, for the process that started this one."""

    wants_steps = False

    def step(self, state: State) -> None:
        """See `Reporter`."""
        return None

    def epoch(self, state: State) -> None:
        """See `Reporter`."""
        sys.stdout.write(json.dumps(asdict(state)) + "\n")
        sys.stdout.flush()

    def close(self) -> None:
        """See `Reporter`."""
        return None


class MemberReporter:
    """Passes on what one member of a committee says; the committee closes the reporter."""

    def __init__(self, reporter: Reporter, name: str) -> None:
        self.reporter, self.name = reporter, name
        self.wants_steps = reporter.wants_steps

    def step(self, state: State) -> None:
        """See `Reporter`."""
        self.reporter.step(replace(state, member=self.name))

    def epoch(self, state: State) -> None:
        """See `Reporter`."""
        self.reporter.epoch(replace(state, member=self.name))

    def close(self) -> None:
        """See `Reporter`."""
        return None


def terminal_reporter() -> Reporter:
    """A bar on a terminal, lines elsewhere; both on standard error."""
    console = Console(stderr=True)
    return BarReporter(console) if console.is_terminal else LineReporter(console)
