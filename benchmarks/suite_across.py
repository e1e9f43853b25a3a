"""Every block on every data set: the first table and figure of `docs/comparison.md`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import suite_results

from mcgm.report.drawing import INK, legend, panels, svg_file
from mcgm.report.files import write_whole
from mcgm.report.summary import Spread, VariantSummary, summarize

COLUMNS: Mapping[str, tuple[str, str]] = {
    "local-wide": ("local, wider", "#9aa0a8"),
    "local-wide-oriented": ("local, as large as oriented", "#74562f"),
    "element-mean": ("element means", "#5a5f68"),
    "mcgm": ("MCGM", "#1a5fb4"),
    "mcgm-paper": ("MCGM, paper", "#7fb2e5"),
    "mcgm-mixing": ("MCGM, mixing", "#0b2e59"),
    "mcgm-alone": ("mixing, no exchange", "#8c96c6"),
    "mcgm-oriented": ("MCGM, oriented", "#b8336a"),
    "orientations": ("orientations", "#167a72"),
    "orientations-alone": ("orientations, no exchange", "#9ccfc9"),
    "range-slim": ("RANGE, slim", "#c2641a"),
    "ewald": ("Ewald", "#a8841a"),
    "neural-p3m": ("Neural P3M", "#7a4fa3"),
    "neural-atoms": ("Neural Atoms", "#6b5b95"),
    "charges": ("charges", "#2a8a5a"),
}
"""Variants that have a column, how they are called there, and their colour."""

FIGURE = "across.svg"

Rows = dict[str, dict[str, VariantSummary]]


@functools.cache
def rows() -> Rows:
    """Of every stored comparison of rivals, by data set and backbone: the variants."""
    found: Rows = {}
    for suite, folder in suite_results.stored():
        if suite == "rivals":
            results = suite_results.ordered(suite, suite_results.kept(folder))
            found[suite_results.setting(suite, results[0])] = {row.variant: row for row in summarize(results)}
    return found


def table() -> str:
    """Changes of errors against the local network, in per cent, energies and forces; bold where seeds tell."""
    found = rows()
    columns = [variant for variant in COLUMNS if any(variant in row for row in found.values())]
    lines = [
        "| Data set, backbone | | local | " + " | ".join(COLUMNS[variant][0] for variant in columns) + " |",
        "|---|---|---:|" + "---:|" * len(columns),
    ]
    for name, row in found.items():
        local = row["local"]
        changes = (_change(row.get(variant), "energy_change") for variant in columns)
        lines.append(f"| {name} | energy | {_error(local.energy)} meV | " + " | ".join(changes) + " |")
        if local.force is not None:
            changes = (_change(row.get(variant), "force_change") for variant in columns)
            lines.append(f"| | forces | {_error(local.force)} meV/Å | " + " | ".join(changes) + " |")
    return "\n".join(
        [
            *lines,
            "",
            "Change of the error against the local network in each seed, %, then the mean ± standard error; "
            "negative is better. **Bold**: the 95 % interval (Student's t) leaves zero out. One seed: no error. "
            "Commands of every line: in its section of `docs/comparison.md`.",
        ]
    )


def _error(spread: Spread) -> str:
    return f"{spread.mean:,.0f}" if spread.mean >= 100 else f"{spread.mean:.3g}"


def _change(row: VariantSummary | None, what: str) -> str:
    change: Spread | None = None if row is None else getattr(row, what)
    if change is None:
        return "–"
    text = suite_results.signed_spread(change)
    return text if change.interval is None or change.tone == "noise" else f"**{text}**"


def draw() -> None:
    """The same as a figure: a row for every data set, a dot for every block."""
    found = rows()
    canvas, axes = panels(2)
    canvas.set_figheight(1.2 + 0.85 * len(found))
    columns = [variant for variant in COLUMNS if any(variant in row for row in found.values())]
    for panel, what, title in zip(axes, ("energy_change", "force_change"), ("energy", "force"), strict=True):
        panel.axvline(0, color=INK, linewidth=0.8)
        for number, variant in enumerate(columns):
            label, color = COLUMNS[variant]
            offset = 0.7 * ((number + 0.5) / len(columns) - 0.5)
            for place, row in enumerate(found.values()):
                change = None if variant not in row else getattr(row[variant], what)
                if change is None:
                    continue
                error = 0.0 if change.error is None else change.error
                at = place + offset
                panel.plot([change.mean - error, change.mean + error], [at, at], color=color, linewidth=1.4)
                panel.plot([change.mean], [at], "o", color=color, markersize=4)
            panel.plot([], [], "o", color=color, markersize=4, label=label)
        panel.set(xlabel=f"change of the {title} error, % (bar: standard error)", ylim=(len(found) - 0.4, -0.6))
        panel.set_yticks(range(len(found)), list(found) if panel is axes[0] else [""] * len(found))
    legend(canvas, axes[0])
    write_whole(Path(suite_results.FIGURES) / FIGURE, svg_file(canvas))
