"""The contract of a potential as a function: every claim measured, with its limit and verdict."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from mcgm.structure import Structure
from mcgm.testing.claims import CHECKS, Check, Figures
from mcgm.testing.effort import FULL, Effort
from mcgm.testing.predict import Predictor
from mcgm.testing.subject import Subject
from mcgm.testing.zoo import known, zoo


@dataclass(frozen=True)
class Row:
    """One claim as measured; `limit` is `None` where the figure is reported and no limit is promised.

    `error` says why there is no figure, `note` where it was largest or how it was taken; `seconds` are those of the
    check, which may decide several rows.
    """

    number: int
    claim: str
    unit: str
    measured: float | None
    limit: float | None
    error: str = ""
    note: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether the figure keeps the limit; a figure that could not be taken does not."""
        if self.error:
            return False
        return self.measured is None or self.limit is None or self.measured <= self.limit

    @property
    def verdict(self) -> str:
        """One or two words."""
        if self.error:
            return "error"
        if self.measured is None:
            return "nothing to measure"
        if self.limit is None:
            return "reported"
        return "passed" if self.passed else "FAILED"

    def __str__(self) -> str:
        measured = "-" if self.measured is None else f"{self.measured:.1e}"
        limit = "-" if self.limit is None else f"{self.limit:.0e}"
        said = self.error or self.note
        return f"{self.number:>2}  {self.claim:<42} {measured:>8} {limit:>6} {self.unit:<11} {self.verdict}: {said}"


@dataclass(frozen=True)
class Validation:
    """Rows of a validation, with how much was measured on what; prints as a table."""

    rows: tuple[Row, ...]
    effort: Effort = FULL
    structures: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every row passed."""
        return all(row.passed for row in self.rows)

    @property
    def failures(self) -> tuple[Row, ...]:
        """Rows that did not pass."""
        return tuple(row for row in self.rows if not row.passed)

    def plain(self) -> dict[str, Any]:
        """As JSON values; a figure that is not finite is text."""
        return {
            "passed": self.passed,
            "effort": dataclasses.asdict(self.effort),
            "structures": list(self.structures),
            "left_out": list(self.left_out),
            "rows": [
                dataclasses.asdict(row) | {"measured": _finite(row.measured), "verdict": row.verdict}
                for row in self.rows
            ],
        }

    def __str__(self) -> str:
        head = f"{'#':>2}  {'claim':<42} {'measured':>8} {'limit':>6} {'unit':<11} verdict"
        return "\n".join([head, *map(str, self.rows), f"{len(self.structures)} structures; {self.effort}"])


def _finite(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)


Watch = Callable[[Check, Sequence[Any]], Iterable[Any]]
"""Passes on the items of a check, and may draw a progress bar meanwhile."""


def validate_potential(
    potential: Predictor,
    structures: Sequence[Structure | Atoms] | None = None,
    *,
    effort: Effort = FULL,
    rows: Collection[int] | None = None,
    watch: Watch = lambda check, items: items,
) -> Validation:
    """Measure every claim over the structures (default: the zoo) and compare with the limits of its precision.

    Raises nothing for a bad potential: what could not be measured is a row that failed and says why. For a potential
    whose `is_smooth` is false path, drift and copies are reported without a limit, and so is what it says that it does
    not promise (`not_promised`). Structures with elements that the potential does not know are left out. `rows` are
    numbers of the table, default all; `FULL` simulates 20 ps, `QUICK` a quarter. Limits: `mcgm.testing.DOUBLE` and
    `SINGLE`.
    """
    kept, left_out = known(
        Subject.of(potential, list(zoo().values()) if structures is None else structures).structures,
        getattr(potential, "elements", None),
    )
    subject = Subject.of(potential, kept, effort)
    chosen = [check for check in CHECKS if rows is None or check.number in rows]
    return Validation(
        rows=tuple(row for check in chosen for row in measured(check, subject, watch)),
        effort=effort,
        structures=tuple(structure.name for structure in kept),
        left_out=tuple(structure.name for structure in left_out),
    )


def measured(check: Check, subject: Subject, watch: Watch) -> Iterator[Row]:
    """The rows that a check decides."""
    found: list[Figures] = []
    error = ""
    start = time.perf_counter()
    try:
        found = [check.measure(subject, item) for item in watch(check, check.items(subject))]
    except Exception as problem:
        # The contract is to report: whatever a potential raises belongs into the table.
        error = f"{type(problem).__name__}: {problem}"
    seconds = time.perf_counter() - start
    for place, claim in enumerate(check.claims):
        figure, note = _worst([(item.values[place], item.note) for item in found])
        limit = claim.limit(subject) if check.promised(subject) else None
        value = None if error else figure
        yield Row(check.number, claim.text, claim.unit, value, limit, error, note, round(seconds, 2))


def _worst(figures: Sequence[tuple[float | None, str]]) -> tuple[float | None, str]:
    """The largest figure, and where; not a number beats all, for it keeps no limit."""
    taken = [(value, note) for value, note in figures if value is not None]
    if not taken:
        return None, figures[0][1] if len(figures) == 1 else ""
    return max(taken, key=lambda item: np.inf if np.isnan(item[0]) else item[0])
