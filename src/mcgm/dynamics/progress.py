"""How a running simulation shows itself: a bar on a terminal, about ten lines elsewhere."""

from __future__ import annotations

import time

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mcgm.dynamics.record import Row
from mcgm.dynamics.summary import drift

DAY = 86400.0
RECENT = 1000
"""Frames that the shown drift is fitted to."""


class Watcher:
    """Shows temperature, drift of the total energy where it is conserved, and ns per day; a context manager."""

    def __init__(self, steps: int, n_atoms: int, *, conserves_energy: bool) -> None:
        self.steps, self.n_atoms, self.conserves_energy = steps, n_atoms, conserves_energy
        self.rows: list[Row] = []
        self.begun: tuple[float, float] | None = None
        self.console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        hidden = not self.console.is_terminal
        self.progress = Progress(*columns, console=self.console, transient=True, disable=hidden)
        self.task = self.progress.add_task("dynamics", total=steps)
        self.next_line = 0.0

    def __enter__(self) -> Watcher:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, step: int, row: Row) -> None:
        """A frame was recorded."""
        now = time.monotonic()
        self.begun = self.begun or (now, row.time_fs)
        self.rows = [*self.rows[-RECENT + 1 :], row]
        text = f"{row.temperature_K:4.0f} K"
        slope = self._drift()
        if slope is not None:
            text += f" · drift {slope:+.2g} meV/atom/ps"
        if row.force_spread_eV_per_A is not None:
            text += f" · spread {row.force_spread_eV_per_A:.2g} eV/Å"
        if now > self.begun[0]:
            text += f" · {DAY * 1e-6 * (row.time_fs - self.begun[1]) / (now - self.begun[0]):.3g} ns/day"
        self.progress.update(self.task, completed=step, description=text)
        if self.progress.disable and step >= self.next_line:
            self.next_line = step + self.steps / 10
            self.console.print(f"step {step}/{self.steps} · {text}", highlight=False)

    def _drift(self) -> float | None:
        if not self.conserves_energy:
            return None
        time_fs = np.array([row.time_fs for row in self.rows])
        return drift(time_fs, np.array([row.total_eV for row in self.rows]), self.n_atoms)
