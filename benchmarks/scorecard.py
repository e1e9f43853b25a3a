"""Every block in one table: accuracy, time, memory, and what it keeps. The first table of the README."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import by_charge
import numpy as np
import suite_across
import suite_results
from step_times import name_of

from mcgm.long_range import BLOCKS
from mcgm.report.drawing import INK, panels, svg_file
from mcgm.report.files import write_whole
from mcgm.report.summary import Spread, VariantSummary

RESULTS = Path(__file__).parent / "results"
BLOCKS_PAGE = Path(__file__).parent.parent / "docs" / "blocks.md"
SUITE = "rivals"

ROWS: dict[str, tuple[str, str]] = {
    "local": ("the network alone", "none"),
    "local-wide": ("the network alone, as large as MCGM", "none"),
    "local-wide-oriented": ("the network alone, as large as the default", "none"),
    "element-mean": ("element means", "element_mean"),
    "mcgm-paper": ("MCGM as published", "mcgm_paper"),
    "mcgm": ("MCGM, smooth", "mcgm"),
    "mcgm-oriented": ("**MCGM + orientations, the default**", "mcgm_oriented"),
    "range-slim": ("RANGE, as wide as the atoms", "range"),
    "neural-atoms": ("Neural Atoms", "neural_atoms"),
    "ewald": ("Ewald message passing", "ewald"),
    "neural-p3m": ("Neural P3M", "neural_p3m"),
    "charges": ("latent charges", "charges"),
}
"""Variants of the suite, what they are called here, and the block whose row of `docs/blocks.md` says what they keep."""

FIGURE = "scorecard.svg"

LABEL_GAP = 0.055
"""Between names in the figure, as a share of its height."""

KEPT = ("smooth", "far molecules add up", "copies add up", "cells")
"""Columns of the table in `docs/blocks.md`, where tests measure them."""


def table() -> str:
    """Means over the data sets on which all of these were run with SchNet; the rest from their own files."""
    found = compared()
    times = relative_times()
    memory = _variants(f"step_memory_{SUITE}.json", "MiB")
    promises = blocks_table()
    lines = [
        "| In the slot after every layer | energy error, % | force error, % | time | memory | smooth | "
        "far molecules add up | copies add up | cells |",
        "|---|---:|---:|---:|---:|---|---|---|---|",
    ]
    for variant, (title, block) in ROWS.items():
        rows = [row[variant] for row in found.values()]
        cells = [
            "–" if variant == "local" else mean_change(rows, "energy_change"),
            "–" if variant == "local" else mean_change(rows, "force_change"),
            f"{times[variant]:.2f}",
            f"{memory[variant] / memory['local']:.2f}",
            *(promises[block][column] for column in KEPT),
        ]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    sets = "; ".join(found)
    sources = ", ".join(f"`{_command(name)}`" for name in (name_of(SUITE, None), f"step_memory_{SUITE}.json"))
    notes = (
        f"SchNet, size small, the same data, steps and seeds for all. Errors: change against the network alone, mean "
        f"over {len(found)} data sets and three seeds of each ({sets}; forces where there are any); negative is "
        "better. The standard error is that of the seeds; how data sets differ is not in it. "
        f"{without_ions(found)} Time and memory of a training step on a CPU, relative to the network alone: {sources}. "
        'What is kept is measured by the tests; `scope`: with `long_range_options={"scope": "molecule"}`.'
    )
    return "\n".join([*lines, "", notes])


def compared() -> suite_across.Rows:
    """Data sets on which every row was run with SchNet."""
    found = suite_across.rows()
    return {name: row for name, row in found.items() if ", schnet" in name and row.keys() >= ROWS.keys()}


def without_ions(found: suite_across.Rows) -> str:
    """Energies without the data sets of which errors are kept apart for ions: their charge only some blocks know."""
    with_ions = {
        suite_results.setting(suite, suite_results.kept(folder)[0])
        for suite, folder in suite_results.stored()
        if suite == SUITE and (folder / by_charge.FILE).exists()
    } & found.keys()
    left = {name: row for name, row in found.items() if name not in with_ions}
    told, moved = [], []
    for variant, (title, block) in ROWS.items():
        if variant == "local":
            continue
        rows = [row[variant] for row in left.values()]
        if BLOCKS[block]().knows_total_charge:
            told.append(f"{title.strip('*')} {mean_change(rows, 'energy_change')}")
        else:
            everywhere = [row[variant] for row in found.values()]
            moved.append(mean_and_error(rows, "energy_change")[0] - mean_and_error(everywhere, "energy_change")[0])
    names = ", ".join(sorted(name.partition(",")[0] for name in with_ions))
    return (
        f"Of these, {names} has ions among many molecules, whose charge some blocks are told and others are not. "
        f"Energies without it: {', '.join(told)}; all others move by less than "
        f"{np.ceil(10 * np.abs(moved).max()) / 10:.1f} points."
    )


def relative_times() -> dict[str, float]:
    """Of a training step, as multiples of the network's alone."""
    times = _variants(name_of(SUITE, None), "variants")
    return {variant: row["seconds per step"] / times["local"]["seconds per step"] for variant, row in times.items()}


def mean_change(rows: Sequence[VariantSummary], what: str) -> str:
    """As text, with a sign."""
    mean, error = mean_and_error(rows, what)
    text = f"{mean:+.1f}".replace("-", "−")
    return text if error is None else f"{text} ± {error:.1f}"


def mean_and_error(rows: Sequence[VariantSummary], what: str) -> tuple[float, float | None]:
    """Over data sets, each counting once; the standard error is what the seeds of each leave, and nothing more."""
    changes: list[Spread] = [change for row in rows if (change := getattr(row, what)) is not None]
    errors = [change.error for change in changes if change.error is not None]
    mean = float(np.mean([change.mean for change in changes]))
    if len(errors) < len(changes):
        return mean, None
    return mean, float(np.sqrt(np.sum(np.square(errors)))) / len(changes)


def draw() -> None:
    """The same as a figure: errors over the time of a step; blocks with which the energy jumps are open."""
    found, times, promises = compared(), relative_times(), blocks_table()
    canvas, axes = panels(2)
    canvas.set_figheight(4.2)
    for panel, what, title in zip(axes, ("energy_change", "force_change"), ("energy", "force"), strict=True):
        panel.axhline(0, color=INK, linewidth=0.8)
        places = {
            variant: mean_and_error([row[variant] for row in found.values()], what)
            for variant in ROWS
            if variant != "local"
        }
        low, high = min(mean for mean, _ in places.values()), max(0.0, *(mean for mean, _ in places.values()))
        gap, label_at = LABEL_GAP * (high - low), np.inf
        for variant, (mean, error) in sorted(places.items(), key=lambda item: -item[1][0]):
            title_of, block = ROWS[variant]
            color = suite_across.COLUMNS[variant][1]
            face = color if promises[block]["smooth"] == "yes" else "white"
            panel.errorbar(times[variant], mean, error, fmt="o", color=color, markerfacecolor=face, markersize=7)
            label_at = min(mean, label_at - gap)  # not on top of the one above
            text = title_of.strip("*").removesuffix(", the default").removeprefix("the network ")
            panel.annotate(
                text,
                (times[variant], mean),
                (1.97, label_at),
                color=color,
                fontsize=8,
                va="center",
                arrowprops={"arrowstyle": "-", "color": color, "alpha": 0.4, "linewidth": 0.6, "relpos": (0, 0.5)},
            )
        panel.set(
            xlabel="time of a training step, network alone = 1",
            ylabel=f"change of the {title} error, %",
            xlim=(0.95, 2.75),
        )
        panel.set_xticks([1.0, 1.25, 1.5, 1.75, 2.0])
    write_whole(Path(suite_results.FIGURES) / FIGURE, svg_file(canvas))


def blocks_table() -> dict[str, dict[str, str]]:
    """The table of docs/blocks.md: yes, no, or how it can be had."""
    text = BLOCKS_PAGE.read_text(encoding="utf-8").split("<!-- blocks -->")[1].split("\n\n")[1]
    head, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines())
    plain = ({key: _plain(cell) for key, cell in zip(head, cells, strict=True)} for cells in lines)
    return {cells["`long_range`"].strip("`"): cells for cells in plain}


def _plain(cell: str) -> str:
    return "`scope`" if cell == "no[^scope]" else re.sub(r"\[\^\w+\]", "", cell)


def _variants(name: str, key: str) -> dict:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))[key]


def _command(name: str) -> str:
    return str(json.loads((RESULTS / name).read_text(encoding="utf-8"))["provenance"]["command"])
