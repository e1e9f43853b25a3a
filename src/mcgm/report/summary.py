"""Runs of one variant taken together over seeds, and what they say against the variant of reference."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import stdtrit

from mcgm.errors import DataError
from mcgm.report.result import RunResult, differing

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """Mean of a quantity over seeds, with the sample standard deviation (n - 1); `None` for a single seed."""

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Of the values that are there; `None` without any."""
        present = [value for value in values if value is not None]
        if not present:
            return None
        deviation = float(np.std(present, ddof=1)) if len(present) > 1 else None
        return cls(float(np.mean(present)), deviation, len(present))

    @property
    def error(self) -> float | None:
        """Standard error of the mean, `None` for a single seed."""
        return None if self.deviation is None else self.deviation / self.count**0.5

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % confidence interval of the mean (Student's t), `None` for a single seed."""
        if self.error is None:
            return None
        half = float(stdtrit(self.count - 1, (1 + CONFIDENCE) / 2)) * self.error
        return self.mean - half, self.mean + half

    @property
    def verdict(self) -> str:
        """Of a change: "lower" or "higher" when the interval excludes 0, else "within noise"; or "one seed"."""
        if self.interval is None:
            return "one seed"
        low, high = self.interval
        return "lower" if high < 0 else "higher" if low > 0 else "within noise"

    @property
    def tone(self) -> str:
        """Of a change of an error: "better", "worse", or "noise" when the seeds do not tell."""
        return {"lower": "better", "higher": "worse"}.get(self.verdict, "noise")


@dataclass(frozen=True)
class VariantSummary:
    """One row of the table. Errors in meV, meV/Å, meV/Å³; changes in per cent against the reference, paired over seeds.

    A change is the mean over the seeds that both variants have of 100 (error - error of reference) / error of
    reference, seed by seed: negative is better, and in general not the change of the mean error. `None` where nothing
    was measured or nothing is compared. `in_common` has the mean errors of these seeds, its own and the reference's.
    """

    variant: str
    label: str
    reference: str | None
    seeds: tuple[int, ...]
    parameters: int
    energy: Spread
    force: Spread | None
    seconds_per_epoch: Spread
    inference: Spread | None
    energy_change: Spread | None
    force_change: Spread | None
    stress: Spread | None = None
    stress_change: Spread | None = None
    in_common: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def summarize(results: Sequence[RunResult]) -> tuple[VariantSummary, ...]:
    """One row per variant: each that is compared with none, in the order of the results, then those compared with it.

    Raises:
        DataError: no results, several data sets, a seed twice, or a reference that is not among the variants.
    """
    variants = group_by_variant(results)
    rows = []
    for runs in variants.values():
        reference = reference_of(runs[0])
        if reference is not None and reference not in variants:
            raise DataError(
                f"variant {runs[0].variant!r} is to be compared with {reference!r}, which has no results. "
                f"Known: {', '.join(variants)}."
            )
        rows.append(_summary(runs, variants[reference] if reference else ()))
    place = {variant: k for k, variant in enumerate(variants)}
    return tuple(sorted(rows, key=lambda row: (place[row.reference or row.variant], row.reference is not None)))


def group_by_variant(results: Sequence[RunResult]) -> Mapping[str, tuple[RunResult, ...]]:
    """Runs of each variant, ordered by seed.

    Raises:
        DataError: no results, several data sets, or a seed twice.
    """
    if not results:
        raise DataError("a report needs at least one result, got none.")
    datasets = sorted({result.dataset for result in results})
    if len(datasets) > 1:
        raise DataError(
            f"a report compares on one data set, got {', '.join(datasets)}. Keep their results in folders apart."
        )
    variants: dict[str, dict[int, RunResult]] = {}
    for result in results:
        runs = variants.setdefault(result.variant, {})
        if result.seed in runs:
            raise DataError(
                f"variant {result.variant!r} has two results of seed {result.seed}. Remove one of the files."
            )
        runs[result.seed] = result
    return {variant: tuple(runs[seed] for seed in sorted(runs)) for variant, runs in variants.items()}


def reference_of(result: RunResult) -> str | None:
    """Key of the variant that a result is compared with, `None` when it is itself a reference."""
    return None if result.reference == result.variant else result.reference


def notes(results: Sequence[RunResult]) -> tuple[str, ...]:
    """What a reader must know before trusting the comparison: seeds, trainings, test sets or machines that differ."""
    variants = group_by_variant(results)
    seeds = {tuple(run.seed for run in runs) for runs in variants.values()}
    found = []
    if seeds and max(map(len, seeds)) == 1:
        found.append("One seed per variant: the spread is unknown, small differences mean nothing.")
    if len(seeds) > 1:
        found.append("Not every variant has the same seeds; relative changes use the seeds that both have.")
    if any(result.part == "validation" for result in results):
        found.append("No test part: errors are those of the validation part, by which the best weights were chosen.")
    if unlike := _unlike(results):
        found.append(f"Variants were not trained alike: {', '.join(unlike)} differ.")
    if len({result.metrics.n_structures for result in results}) > 1:
        found.append("The test sets differ in size, so the errors are not strictly comparable.")
    if len({result.commit for result in results}) > 1:
        found.append("The runs come from different commits.")
    if len({repr(sorted(result.machine.items())) for result in results}) > 1:
        found.append("The runs come from different machines or versions: compare times with care.")
    if not _timed_together(variants.values()):
        found.append("Not all variants were timed side by side: compare times with care.")
    return tuple(found)


def _timed_together(variants: Collection[Sequence[RunResult]]) -> bool:
    """Whether all times can be of one measurement: seeds of a variant then share theirs, variants their commands."""
    times = [{run.inference_ms_per_molecule for run in runs} for runs in variants]
    if all(found == {None} for found in times):
        return True
    commands = {frozenset(run.command for run in runs) for runs in variants}
    return all(len(found) == 1 and None not in found for found in times) and len(commands) == 1


def _unlike(results: Sequence[RunResult]) -> list[str]:
    """Settings of data and training in which runs differ."""
    pairs = [(section, result) for result in results[1:] for section in ("data", "training")]
    found = (f"{section}.{key}" for section, result in pairs for key in differing(section, results[0], result))
    return sorted(set(found))


@dataclass(frozen=True)
class Phrase:
    """A piece of a sentence; `tone` marks a finding: "better", "worse" or "noise", empty for the words between."""

    text: str
    tone: str = ""


def sentences(rows: Sequence[VariantSummary]) -> tuple[tuple[Phrase, ...], ...]:
    """One sentence per compared variant, as the numbers stand: lower, higher, or within the noise of the seeds."""
    known = {row.variant: row for row in rows}
    return tuple(_sentence(row, known[row.reference]) for row in rows if row.reference is not None)


def plain(sentence: Sequence[Phrase]) -> str:
    """The sentence as text."""
    return "".join(phrase.text for phrase in sentence)


def _sentence(row: VariantSummary, reference: VariantSummary) -> tuple[Phrase, ...]:
    quantities = (
        ("energy", row.energy_change, row.energy, reference.energy, "meV"),
        ("force", row.force_change, row.force, reference.force, "meV/Å"),
        ("stress", row.stress_change, row.stress, reference.stress, "meV/Å³"),
    )
    phrases = [Phrase(f"{row.label} against {reference.label}: ")]
    for name, change, value, other, unit in quantities:
        if value is not None and other is not None:
            means = row.in_common.get(name, (value.mean, other.mean))
            phrases += [Phrase("; ")] if len(phrases) > 1 else []
            phrases += _finding(name, change, means, unit, common=name in row.in_common)
    return (*phrases, Phrase("."))


def _finding(name: str, change: Spread | None, means: tuple[float, float], unit: str, *, common: bool) -> list[Phrase]:
    figures = f"{number(means[0])} instead of {number(means[1])} {unit}"
    if change is None:
        why = "no change in per cent, as the reference has no error" if common else "no seed in common"
        return [Phrase(f"{name} MAE {figures} ({why})")]
    size = f"{abs(change.mean):.1f}\u00a0% {'lower' if change.mean < 0 else 'higher'}"
    start = Phrase(f"{name} MAE ")
    if change.interval is None:
        return [start, Phrase(size, change.tone), Phrase(f" ({figures}; one seed, spread unknown)")]
    low, high = change.interval
    interval = f"95\u00a0% interval {signed(low)} to {signed(high)}\u00a0% over {change.count} seeds"
    figures = f"(mean {figures}; {interval})"
    if change.verdict == "within noise":
        found = Phrase("not distinguishable", change.tone)
        return [start, found, Phrase(f", {size} seed by seed but within noise {figures}")]
    return [start, Phrase(size, change.tone), Phrase(f" seed by seed {figures}")]


def number(value: float) -> str:
    """With three significant digits, never in exponents: 236, 38.7, 4.93, 0.340."""
    return f"{value:.{decimals(value)}f}"


def decimals(value: float) -> int:
    """Digits after the point that leave three significant ones; at most four."""
    return 2 if value == 0 else int(np.clip(2 - np.floor(np.log10(abs(value))), 0, 4))


def signed(value: float) -> str:
    """One decimal and a sign, a real minus."""
    return f"{value:+.1f}".replace("-", "−")


def _summary(runs: Sequence[RunResult], reference: Sequence[RunResult]) -> VariantSummary:
    def spread(value: Callable[[RunResult], float | None]) -> Spread | None:
        return Spread.of(map(value, runs))

    def energy(run: RunResult) -> float | None:
        return run.metrics.energy_mae_mev

    def force(run: RunResult) -> float | None:
        return run.metrics.force_mae_mev_per_A

    def stress(run: RunResult) -> float | None:
        return run.metrics.stress_mae_mev_per_A3

    energies, seconds = spread(energy), spread(lambda run: run.seconds_per_epoch)
    assert energies is not None
    assert seconds is not None
    values = {"energy": energy, "force": force, "stress": stress}
    pairs = {name: _pairs(runs, reference, value) for name, value in values.items()}
    return VariantSummary(
        variant=runs[0].variant,
        label=runs[0].label,
        reference=reference_of(runs[0]),
        seeds=tuple(run.seed for run in runs),
        parameters=runs[0].parameters,
        energy=energies,
        force=spread(force),
        seconds_per_epoch=seconds,
        inference=spread(lambda run: run.inference_ms_per_molecule),
        energy_change=_change(pairs["energy"]),
        force_change=_change(pairs["force"]),
        stress=spread(stress),
        stress_change=_change(pairs["stress"]),
        in_common={
            name: (float(np.mean([new for new, _ in found])), float(np.mean([old for _, old in found])))
            for name, found in pairs.items()
            if found
        },
    )


def _pairs(
    runs: Sequence[RunResult], reference: Sequence[RunResult], value: Callable[[RunResult], float | None]
) -> list[tuple[float, float]]:
    """Own value and the reference's, of every seed that has both."""
    before = {run.seed: value(run) for run in reference}
    found = ((value(run), before.get(run.seed)) for run in runs)
    return [(new, old) for new, old in found if new is not None and old is not None]


def _change(pairs: Sequence[tuple[float, float]]) -> Spread | None:
    """Change in per cent, seed by seed; `None` without a pair, or where a reference is zero."""
    if any(old == 0 for _, old in pairs):
        return None
    return Spread.of(100 * (new - old) / old for new, old in pairs)
