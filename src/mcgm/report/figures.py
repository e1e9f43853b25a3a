"""Figures of a report: learning curves, stability of clusters, parity, error against molecule size.

Figures are made directly, never through pyplot, so no global state of matplotlib is touched.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mcgm.report.drawing import INK, legend, logarithmic, panels, plain
from mcgm.report.predictions import Predictions
from mcgm.report.result import CurvePoint, RunResult
from mcgm.report.summary import number

# Mid tones, legible on white and on black.
PALETTE = ("#4c7fc0", "#e0803a", "#2f9e7a", "#c2578f", "#8b72cf", "#a8891c", "#3fa3bd", "#c9574f")
POINTS = 15_000
SIZE_GROUPS = 6


def variant_colors(variants: Sequence[str]) -> dict[str, str]:
    """A colour per variant, the same in all figures and in the table; repeats after eight."""
    return {variant: PALETTE[k % len(PALETTE)] for k, variant in enumerate(variants)}


def learning_curves(groups: Mapping[str, Sequence[RunResult]], colors: Mapping[str, str]) -> Figure | None:
    """Validation errors over epochs: mean over seeds, and the range from the best to the worst seed as a band.

    Drawn as far as all seeds of a variant went. `None` when no run has a curve.
    """
    quantities: tuple[tuple[str, Callable[[CurvePoint], float | None]], ...] = (
        ("Validation energy MAE / meV", lambda point: point.val_energy_mae_mev),
        ("Validation force MAE / meV/Å", lambda point: point.val_force_mae_mev_per_A),
        ("Validation stress MAE / meV/Å³", lambda point: point.val_stress_mae_mev_per_A3),
    )
    points = [point for runs in groups.values() for run in runs for point in run.curves]
    shown = [(title, value) for title, value in quantities if any(value(point) is not None for point in points)]
    if not shown:
        return None
    figure, axes = panels(len(shown))
    for panel, (title, value) in zip(axes, shown, strict=True):
        for variant, runs in groups.items():
            epochs, errors = _common_epochs(runs, value)
            _mean_and_range(panel, epochs, errors, colors[variant], runs[0].label)
        logarithmic(panel)
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        panel.set(xlabel="Epoch", ylabel=title)
    legend(figure, axes[0])
    return figure


def cluster_stability(groups: Mapping[str, Sequence[RunResult]], colors: Mapping[str, str]) -> Figure | None:
    """Adjusted Rand index of each level's clusters against those of the validation before, over epochs.

    Mean over seeds, and their range as a band. `None` when no run has clusters that can change.
    """
    points = [point for runs in groups.values() for run in runs for point in run.curves]
    levels = sorted({level for point in points for level in point.rand_index_levels})
    if not levels:
        return None
    figure, axes = panels(len(levels))
    for panel, level in zip(axes, levels, strict=True):
        for variant, runs in groups.items():
            epochs, indices = _common_epochs(runs, lambda point, level=level: _rand_index(point, level))
            _mean_and_range(panel, epochs, indices, colors[variant], runs[0].label)
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        panel.set(xlabel="Epoch", ylabel=f"Adjusted Rand index, level {level}")
        panel.set_ylim(top=1.02)
    # a variant may lack some levels: the legend comes from the panel that has most of them
    legend(figure, max(axes, key=lambda panel: len(panel.get_legend_handles_labels()[1])))
    return figure


def _rand_index(point: CurvePoint, level: int) -> float | None:
    return dict(zip(point.rand_index_levels, point.rand_index, strict=True)).get(level)


def energy_parity(
    predictions: Mapping[str, Predictions], labels: Mapping[str, str], colors: Mapping[str, str]
) -> Figure:
    """Predicted against reference energies, relative to the element references where all variants have them."""
    relative = all(item.baseline is not None for item in predictions.values())

    def values(item: Predictions) -> tuple[np.ndarray, np.ndarray]:
        base = item.baseline if relative and item.baseline is not None else 0.0
        return item.energy - base, item.energy_predicted - base

    title = "energy − element references" if relative else "energy"
    pairs = {variant: values(item) for variant, item in predictions.items()}
    texts = {variant: f"MAE {number(item.metrics.energy_mae_mev)} meV" for variant, item in predictions.items()}
    return _parity(pairs, texts, labels, colors, f"{title} / eV")


def force_parity(
    predictions: Mapping[str, Predictions], labels: Mapping[str, str], colors: Mapping[str, str]
) -> Figure | None:
    """Predicted against reference force components; `None` when no variant has forces."""
    pairs, texts = {}, {}
    for variant, item in predictions.items():
        error = item.metrics.force_mae_mev_per_A
        if item.forces is not None and item.forces_predicted is not None and error is not None:
            pairs[variant] = (item.forces.ravel(), item.forces_predicted.ravel())
            texts[variant] = f"MAE {number(error)} meV/Å"
    return _parity(pairs, texts, labels, colors, "force component / eV/Å") if pairs else None


def error_by_size(
    predictions: Mapping[str, Sequence[Predictions]], labels: Mapping[str, str], colors: Mapping[str, str]
) -> Figure:
    """Mean absolute error in groups of molecules of like size: mean over seeds, and their range as a band.

    Groups hold about as many molecules each, all variants and seeds together; the point stands at the mean size of its
    group. Drawn where the test sets of all seeds of a variant have molecules.
    """
    sizes = np.concatenate([item.n_atoms for items in predictions.values() for item in items])
    edges = np.unique(np.quantile(sizes, np.linspace(0, 1, SIZE_GROUPS + 1)))
    with_forces = any(item.forces is not None for items in predictions.values() for item in items)
    figure, axes = panels(2 if with_forces else 1)
    titles = ("Energy MAE / meV", "Force MAE / meV/Å")
    for panel, title, errors_of in zip(axes, titles, (_energy_errors, _force_errors), strict=False):
        for variant, items in predictions.items():
            place, errors = _by_size(items, [errors_of(item) for item in items], edges)
            _mean_and_range(panel, place, errors, colors[variant], labels[variant], "o")
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        panel.set(xlabel="Atoms per molecule", ylabel=title)
        panel.set_ylim(bottom=0)
    legend(figure, axes[0])
    return figure


def _mean_and_range(
    panel: Axes, place: np.ndarray, values: np.ndarray, color: str, label: str, marker: str = ""
) -> None:
    """A line through the mean of the rows, and a band from their least to their largest where there are several."""
    if values.size == 0:
        return
    # A label that begins with an underscore would vanish from the legend, and $ would start a formula.
    text = ("\u200b" + label).replace("$", r"\$")
    panel.plot(place, values.mean(0), color=color, linewidth=1.6, marker=marker, markersize=4, label=text)
    if len(values) > 1:
        panel.fill_between(place, values.min(0), values.max(0), color=color, alpha=0.18, linewidth=0)


def _common_epochs(
    runs: Sequence[RunResult], value: Callable[[CurvePoint], float | None]
) -> tuple[np.ndarray, np.ndarray]:
    """Epochs that all runs validated at, and the values there (run, epoch)."""
    curves = [{point.epoch: found for point in run.curves if (found := value(point)) is not None} for run in runs]
    curves = [curve for curve in curves if curve]
    if not curves:
        return np.zeros(0), np.zeros((0, 0))
    epochs = sorted(set.intersection(*(set(curve) for curve in curves)))
    return np.array(epochs), np.array([[curve[epoch] for epoch in epochs] for curve in curves])


def _parity(
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    texts: Mapping[str, str],
    labels: Mapping[str, str],
    colors: Mapping[str, str],
    title: str,
) -> Figure:
    """Small multiples, one square panel per variant, all with the same limits.

    Of very many points, every n-th is drawn.
    """
    columns = min(4, max(2, len(pairs)))
    rows = -(-len(pairs) // columns)
    side = min(3.3, 10.2 / columns)
    figure = Figure(figsize=(side * columns + 0.4, (side + 0.5) * rows + 0.2), layout="constrained")
    pairs = {variant: (x[:: -(-len(x) // POINTS)], y[:: -(-len(y) // POINTS)]) for variant, (x, y) in pairs.items()}
    low = min(float(min(x.min(), y.min())) for x, y in pairs.values())
    high = max(float(max(x.max(), y.max())) for x, y in pairs.values())
    margin = 0.04 * (high - low) or 1.0
    limits = (low - margin, high + margin)
    for k, (variant, (x, y)) in enumerate(pairs.items()):
        panel = figure.add_subplot(rows, columns, k + 1)
        plain(panel)
        # Pixels inside the vector figure: thousands of vector points would make the page slow.
        panel.scatter(x, y, s=4, color=colors[variant], alpha=0.35, linewidths=0, rasterized=True)
        panel.plot(limits, limits, color=INK, linewidth=0.8)
        panel.set(xlim=limits, ylim=limits, aspect="equal")
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_locator(MaxNLocator(5))
        panel.set_title(textwrap.fill(labels[variant].replace("$", r"\$"), 26), size=9, color=INK)
        panel.text(0.04, 0.96, texts[variant], transform=panel.transAxes, va="top", size=8, color=INK)
    figure.supxlabel(f"Reference {title}", size=9, color=INK)
    figure.supylabel("Predicted", size=9, color=INK)
    return figure


def _energy_errors(item: Predictions) -> np.ndarray:
    return 1000 * np.abs(item.energy_predicted - item.energy)


def _force_errors(item: Predictions) -> np.ndarray:
    """Mean over the components of each molecule; not a number where there are no forces."""
    if item.forces is None or item.forces_predicted is None:
        return np.full(len(item.n_atoms), np.nan)
    per_atom = 1000 * np.abs(item.forces_predicted - item.forces).mean(1)
    molecule = np.repeat(np.arange(len(item.n_atoms)), item.n_atoms)
    return np.bincount(molecule, per_atom, len(item.n_atoms)) / item.n_atoms


def _by_size(
    items: Sequence[Predictions], errors: Sequence[np.ndarray], edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean size of each group in which every seed has molecules, and the mean errors there (run, group)."""
    most = max(len(edges) - 2, 0)
    groups = [np.clip(np.searchsorted(edges, item.n_atoms, side="right") - 1, 0, most) for item in items]
    common = sorted(set.intersection(*(set(group.tolist()) for group in groups)))
    sizes, group_of = np.concatenate([item.n_atoms for item in items]), np.concatenate(groups)
    means = [[row[group == k].mean() for k in common] for row, group in zip(errors, groups, strict=True)]
    return np.array([sizes[group_of == k].mean() for k in common]), np.array(means)
