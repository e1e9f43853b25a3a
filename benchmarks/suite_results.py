"""The sections of `docs/comparison.md`: a table and a figure of every suite whose cells are in `benchmarks/results`."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import by_charge
import suite_figures
from step_times import name_of

from mcgm.report.drawing import INK, panels, svg_file
from mcgm.report.files import write_whole
from mcgm.report.result import RunResult, read_results
from mcgm.report.summary import Spread, VariantSummary, notes, summarize
from mcgm.report.table import markdown_table
from mcgm.suites import SUITES, suite_recipe

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
FIGURES = ROOT / "docs" / "comparison"
kept, recipe = functools.cache(read_results), functools.cache(suite_recipe)
"""Asked for by every table."""

BETTER, WORSE, NOISE = "#1a7f37", "#b42318", INK


def stored(results: Path = RESULTS) -> Iterator[tuple[str, Path]]:
    """Suite and folder of every comparison that is kept: `<suite>-<data>`, in the order of the suites."""
    for suite in SUITES:
        for folder in sorted(results.glob(f"{suite}-*")):
            if folder.is_dir() and any(folder.glob("*.json")):
                yield suite, folder


def ordered(suite: str, results: Sequence[RunResult]) -> list[RunResult]:
    """Results in the order of the suite's variants, then of seeds."""
    order = list(recipe(suite)["variants"])
    return sorted(results, key=lambda result: (order.index(result.variant), result.seed))


def sections() -> str:
    """All of them, or a sentence where nothing is kept yet."""
    found = [section(suite, folder) for suite, folder in stored()]
    return "\n\n".join(found) if found else "No suite has been run to the end and stored yet."


def setting(suite: str, result: RunResult) -> str:
    """Data set, backbone and number of steps, and the cutoff where it is not the suite's."""
    steps = result.config.get("training", {}).get("steps")
    cutoff = result.config.get("model", {}).get("cutoff")
    usual = recipe(suite).get("model", {}).get("cutoff")
    is_usual = None in (cutoff, usual) or cutoff == usual
    parts = [
        result.dataset,
        result.backbone,
        "" if is_usual else f"cutoff {cutoff:g} Å",
        "" if steps is None else f"{steps:,} steps",
    ]
    return ", ".join(part for part in parts if part)


def section(suite: str, folder: Path) -> str:
    """Heading, table, what a reader must know, and the figure of one comparison."""
    # cells run beside each other, stop and go on, and come from several commands: times are in the table of steps
    untimed = (dataclasses.replace(result, inference_ms_per_molecule=None) for result in kept(folder))
    results = ordered(suite, list(untimed))
    first, rows = results[0], summarize(results)
    shown = [dataclasses.replace(row, seconds_per_epoch=None) for row in rows]
    lines = [
        f"### {suite.capitalize()}: {setting(suite, first)}",
        "",
        f"{SUITES[suite].capitalize()}; {first.metrics.n_structures:,} {first.part} structures.",
        "",
        markdown_table(shown).rstrip(),
        "",
        " ".join([*notes(results), f"{_commands(results)}; {first.machine['cpu']}."]),
    ]
    if changes := _on_validation(results):
        what = "energy and forces" if any(row.force_change is not None for row in rows) else "energy"
        lines += ["", f"On the validation structures, {what} beside the local network, %: {changes}."]
    if of_ions := by_charge.table(folder):
        lines += ["", *of_ions]
    if any(row.energy_change is not None for row in rows):
        lines += ["", f"![Changes against the local network, 95 % intervals](comparison/{folder.name}.svg)"]
    if timed := _step_times(suite, results):
        where = "the table of steps below"
        if timed.name != name_of(suite, None):
            where = f"`{json.loads(timed.read_text(encoding='utf-8'))['provenance']['command']}`"
        lines += [
            "",
            f"Who wins at equal size, and at equal time? Small dots are seeds; times are of {where}.",
            "",
            f"![Errors over parameters and over the time of a step](comparison/{folder.name}-frontier.svg)",
        ]
    if suite_figures.has_sizes(folder):
        lines += [
            "",
            "On which molecules? Each quarter of the test structures, from the smallest to the largest: mean errors "
            "over seeds beside the local network's.",
            "",
            f"![Errors beside the local network over the number of atoms](comparison/{folder.name}-sizes.svg)",
        ]
    return "\n".join(lines)


def _on_validation(results: Sequence[RunResult]) -> str:
    """Changes of every variant at the end of training: other structures than those of the table."""
    moved = []
    for result in results:
        last = result.curves[-1]
        metrics = dataclasses.replace(
            result.metrics,
            energy_mae_mev=last.val_energy_mae_mev,
            force_mae_mev_per_A=last.val_force_mae_mev_per_A,
        )
        moved.append(dataclasses.replace(result, metrics=metrics))
    rows = [row for row in summarize(moved) if row.energy_change is not None]
    both = {row.label: [c for c in (row.energy_change, row.force_change) if c is not None] for row in rows}
    return "; ".join(f"{label} {' and '.join(map(signed_spread, changes))}" for label, changes in both.items())


def signed_spread(change: Spread | None) -> str:
    """A change with its sign and standard error."""
    if change is None:
        return "–"
    spread = "" if change.error is None else f" ± {change.error:.1f}"
    return f"{change.mean:+.1f}{spread}".replace("-", "−")


def _commands(results: Sequence[RunResult]) -> str:
    """What made the results, each command with the commits that it ran at."""
    made: dict[str, list[str]] = {}
    for result in results:
        if result.commit not in made.setdefault(result.command, []):
            made[result.command].append(result.commit)
    return "; ".join(f"`{command}`, commit {' and '.join(commits)}" for command, commits in made.items())


def draw() -> None:
    """One figure per comparison: the change of every variant with its 95 % interval."""
    for suite, folder in stored():
        results = ordered(suite, kept(folder))
        rows = [row for row in summarize(results) if row.energy_change is not None]
        if rows:
            write_whole(FIGURES / f"{folder.name}.svg", figure(rows))
        if timed := _step_times(suite, results):
            times = json.loads(timed.read_text(encoding="utf-8"))["variants"]
            write_whole(FIGURES / f"{folder.name}-frontier.svg", suite_figures.frontier(results, times))
        if suite_figures.has_sizes(folder):
            sizes, reference = suite_figures.load_sizes(folder), recipe(suite)["reference"]
            write_whole(FIGURES / f"{folder.name}-sizes.svg", suite_figures.sizes(sizes, summarize(results), reference))


def draw_stability() -> None:
    """Clusters of the comparison of backbones, over its epochs."""
    results = [result for result in read_results(RESULTS / "backbones") if result.curves[-1].rand_index]
    write_whole(FIGURES / "stability.svg", suite_figures.stability(results))


def _step_times(suite: str, results: Sequence[RunResult]) -> Path | None:
    """Where the steps of these results' variants are timed, with their backbone and at their cutoff, if anywhere."""
    model = recipe(suite).get("model", {})
    reference = next((result for result in results if result.reference in (None, result.variant)), results[0])
    cutoff = reference.config.get("model", {}).get("cutoff")
    usual = cutoff is None or cutoff == model.get("cutoff", cutoff)
    path = RESULTS / name_of(suite, None if usual else cutoff)
    return path if path.exists() and reference.backbone == model.get("backbone", reference.backbone) else None


def figure(rows: Sequence[VariantSummary]) -> bytes:
    """Energies on the left, forces (if any) on the right; green and red where the interval leaves 0 out."""
    quantities = {"energy error, %": [row.energy_change for row in rows]}
    if any(row.force_change is not None for row in rows):
        quantities["force error, %"] = [row.force_change for row in rows]
    canvas, axes = panels(len(quantities))
    canvas.set_figheight(0.8 + 0.32 * len(rows))
    for panel, (title, changes) in zip(axes, quantities.items(), strict=True):
        panel.axvline(0, color=INK, linewidth=0.8)
        for place, change in enumerate(changes):
            if change is not None:
                low, high = change.interval or (change.mean, change.mean)
                panel.plot([low, high], [place, place], color=_color(change), linewidth=1.5)
                panel.plot([change.mean], [place], "o", color=_color(change), markersize=5)
        panel.set(xlabel=f"change of the {title}", ylim=(len(rows) - 0.5, -0.5))
        panel.set_yticks(range(len(rows)), [row.label for row in rows] if panel is axes[0] else [""] * len(rows))
    return svg_file(canvas)


def _color(change: Spread) -> str:
    return {"better": BETTER, "worse": WORSE}.get(change.tone, NOISE) if change.interval else NOISE


def step_times(suite: str) -> str:
    """What one seed of every variant costs, from measured steps."""
    path = RESULTS / name_of(suite, None)
    if not path.exists():
        return f"Not measured yet: `python benchmarks/step_times.py {suite}`."
    record = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "| Variant | Parameters | Molecules in a step | Step, s | Steps | Core hours |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in record["variants"].values():
        figures = (
            f"{row['parameters']:,}",
            str(row["molecules in a step"]),
            f"{row['seconds per step']:.3g}",
            f"{row['steps']:,}",
            f"{row['core hours']:,.1f}" if row["core hours"] < 100 else f"{row['core hours']:,.0f}",
        )
        lines.append(f"| {row['label']} | " + " | ".join(figures) + " |")
    total = sum(row["core hours"] for row in record["variants"].values())
    source = record["provenance"]
    return "\n".join(
        [
            *lines,
            "",
            f"{record['question'].capitalize()} ({source['machine']['processor']}): {total:,.0f} core hours for all "
            f"variants. `{source['command']}`, commit {source['commit']}.",
        ]
    )
