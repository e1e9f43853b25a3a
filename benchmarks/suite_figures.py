"""Figures of `docs/comparison.md` that answer a question: who wins at equal size and time, and on which molecules."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mcgm.report.drawing import INK, legend, panels, svg_file
from mcgm.report.result import RunResult
from mcgm.report.summary import VariantSummary, summarize

QUANTILES = 4
MCGM_COLOR, LOCAL_COLOR, OTHER_COLOR = "#1a5fb4", INK, "#c2641a"


def by_size(comparison: Path, results: Sequence[RunResult]) -> dict[str, Any]:
    """Energy errors of every variant on the smallest to the largest quarter of the test structures, mean over seeds.

    Of cells whose predictions are there.
    """
    found: dict[str, list[list[float]]] = {}
    edges: np.ndarray | None = None
    for result in results:
        if result.predictions is None or not (path := comparison / "cells" / result.predictions).exists():
            continue
        with np.load(path, allow_pickle=False) as arrays:
            sizes = arrays["n_atoms"]
            errors = 1e3 * np.abs(arrays["energy_predicted"] - arrays["energy"])
        if edges is None:
            edges = np.unique(np.quantile(sizes, np.linspace(0, 1, QUANTILES + 1)))  # equal where many have one size
        parts = len(edges) - 1
        part = np.clip(np.searchsorted(edges, sizes, side="right") - 1, 0, parts - 1)
        found.setdefault(result.variant, []).append([float(errors[part == k].mean()) for k in range(parts)])
    if edges is None or len(edges) < 2:
        return {}
    return {
        "kind": "errors by size",
        "atoms": [float(edge) for edge in edges],
        "energy_mae_mev": {variant: np.mean(rows, axis=0).round(3).tolist() for variant, rows in found.items()},
    }


def frontier(results: Sequence[RunResult], step_times: dict[str, Any]) -> bytes:
    """Energy errors over the number of parameters, and over the time of a step; a small dot for every seed."""
    times = {variant: row["seconds per step"] for variant, row in step_times.items()}
    canvas, axes = panels(2)
    canvas.set_figheight(4.6)
    rows = sorted(summarize(list(results)), key=lambda row: row.energy.mean)
    gap = 0.03 * (rows[-1].energy.mean - rows[0].energy.mean)
    label_at = -np.inf
    for row in rows:
        own = [result for result in results if result.variant == row.variant]
        label_at = max(row.energy.mean, label_at + gap)  # not on top of the one below
        for panel, place in ((axes[0], own[0].parameters / 1e3), (axes[1], times.get(row.variant))):
            if place is None:
                continue
            color = _color(own[0])
            errors = [result.metrics.energy_mae_mev for result in own]
            panel.plot([place] * len(errors), errors, ".", color=color, markersize=3, alpha=0.7)
            panel.plot([place], [row.energy.mean], "o", color=color, markersize=6)
            style = {"xytext": (5, 0), "textcoords": "offset points", "fontsize": 6.5, "color": color, "va": "center"}
            panel.annotate(row.label, (place, label_at), **style)
    axes[0].set(xlabel="parameters, thousands", ylabel="energy MAE, meV", xscale="log")
    axes[1].set(xlabel="processor time of a training step, s", xscale="log")
    for panel in axes:
        panel.xaxis.set_major_formatter(lambda value, position: f"{value:g}")
        panel.xaxis.set_minor_formatter(lambda value, position: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    return svg_file(canvas)


def sizes(found: dict[str, Any], rows: Sequence[VariantSummary], reference: str) -> bytes:
    """Mean errors over seeds relative to the local network's on small to large molecules."""
    errors = found["energy_mae_mev"]
    base, atoms = np.array(errors[reference]), found["atoms"]
    canvas, axes = panels(1)
    canvas.set_size_inches(7.4, 4.2)
    panel = axes[0]
    middle = [(low + high) / 2 for low, high in pairwise(atoms)]
    styles = ("-", "--", ":", "-.")
    for count, row in enumerate(row for row in rows if row.variant in errors and row.variant != reference):
        changes = 100 * (np.array(errors[row.variant]) / base - 1)
        panel.plot(middle, changes, styles[count % len(styles)], marker="o", markersize=3, label=row.label)
    panel.axhline(0, color=INK, linewidth=0.8)
    panel.set(xlabel="atoms (middle of each quarter of the test structures)", ylabel="energy error beside local, %")
    canvas.legend(loc="outside right upper", frameon=False, fontsize=7, labelcolor=INK)
    return svg_file(canvas)


def stability(results: Sequence[RunResult]) -> bytes:
    """Adjusted Rand index of clusters against those of the validation before, mean and range over seeds."""
    levels = sorted({level for result in results for level in result.curves[-1].rand_index_levels})
    canvas, axes = panels(len(levels))
    for panel, level in zip(axes, levels, strict=True):
        for label in dict.fromkeys(result.label for result in results):
            own = [
                result for result in results if result.label == label and level in result.curves[-1].rand_index_levels
            ]
            points = [[p for p in result.curves if p.rand_index] for result in own]
            epochs = [point.epoch for point in points[0]]
            indices = np.array([[p.rand_index[p.rand_index_levels.index(level)] for p in row] for row in points])
            (line,) = panel.plot(epochs, indices.mean(0), marker="o", markersize=3, label=label)
            panel.fill_between(epochs, indices.min(0), indices.max(0), color=line.get_color(), alpha=0.12, linewidth=0)
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.set(xlabel="epoch", ylabel=f"adjusted Rand index, level {level}", ylim=(-0.05, 1.05))
    legend(canvas, axes[0])
    return svg_file(canvas)


def load_sizes(folder: Path) -> dict[str, Any]:
    """What `by_size` left in a folder of results; empty where there is nothing."""
    path = folder / "by_size.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def has_sizes(folder: Path) -> bool:
    """Whether there are errors of structures of more than one size to compare."""
    return len(load_sizes(folder).get("atoms", ())) > 2


def _color(result: RunResult) -> str:
    if result.long_range == "none":
        return LOCAL_COLOR
    return MCGM_COLOR if result.long_range.startswith("mcgm") else OTHER_COLOR
