"""The report of a comparison: one HTML page that opens offline, with its figures and table as files beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

from mcgm.report.drawing import inline_svg, png_file, svg_file
from mcgm.report.figures import (
    cluster_stability,
    energy_parity,
    error_by_size,
    force_parity,
    learning_curves,
    variant_colors,
)
from mcgm.report.files import write_whole
from mcgm.report.predictions import ClusteredMolecule, Predictions, load_molecules
from mcgm.report.result import RunResult
from mcgm.report.summary import Phrase, group_by_variant, notes, number, sentences, summarize
from mcgm.report.table import caption, html_table, markdown_table
from mcgm.report.view import asset, filled, view_section

Groups = Mapping[str, Sequence[RunResult]]
CAPTIONS = {
    "learning_curves": (
        "Learning curves",
        "Mean over seeds, band from the best to the worst seed; as far as all seeds went.",
    ),
    "cluster_stability": (
        "Stability of clusters",
        "How far the clusters of up to 64 validation structures agree with those one validation before: 1 the same, "
        "0 as by chance (adjusted Rand index; last layer, levels that can change). Mean over seeds, band from the "
        "least to the largest.",
    ),
    "energy_parity": ("Predicted against reference energies", "Test set, first seed of each variant."),
    "force_parity": (
        "Predicted against reference forces",
        "Test set, first seed of each variant; of very many points every n-th is drawn, the error is that of all.",
    ),
    "error_by_size": (
        "Error against molecule size",
        "Test set in groups of about as many molecules each; mean over seeds, band from the best to the worst.",
    ),
}


def write_report(results: Sequence[RunResult], folder: Path, output: Path) -> None:
    """Write one self-contained HTML page, and beside it `<name>.md` with the table and `<name>_figures/` (PNG, SVG).

    `folder` holds the files that the results name (predictions, clusters). Figures without data are left out.

    Raises:
        DataError: nothing to compare (see `summarize`), or a file beside the results that cannot be read.
    """
    rows = summarize(results)
    every = group_by_variant(results)
    groups = {row.variant: every[row.variant] for row in rows}
    colors = variant_colors(list(groups))
    figures = _figures(groups, Path(folder), colors)
    output = Path(output)
    drawings = {name: svg_file(figure) for name, figure in figures.items()}
    pictures = output.parent / f"{output.stem}_figures"
    for name, figure in figures.items():
        write_whole(pictures / f"{name}.svg", drawings[name])
        write_whole(pictures / f"{name}.png", png_file(figure))
    write_whole(output.with_suffix(".md"), markdown_table(rows).encode())
    newest = max(results, key=lambda run: run.date)
    lines = "".join(f"<p>{_emphasised(sentence)}</p>" for sentence in sentences(rows))
    found = "".join(f"<li>{escape(note)}</li>" for note in notes(results))
    parts = {
        "title": escape(f"Comparison on {newest.dataset}"),
        "style": asset("page.css"),
        "meta": escape(_meta(results, newest)),
        "summary": lines or "<p>Nothing is compared: no variant names another as its reference.</p>",
        "notes": f'<ul class="notes">{found}</ul>' if found else "",
        "table": html_table(rows, colors),
        "caption": escape(caption(rows)),
        "figures": "".join(_figure_section(name, drawing, newest.part) for name, drawing in drawings.items()),
        "view": view_section(_molecules(groups, Path(folder)), _labels(groups)),
        "provenance": _provenance(groups, newest),
    }
    write_whole(output, filled("page.html", parts).encode())


def _labels(groups: Groups) -> dict[str, str]:
    return {variant: runs[0].label for variant, runs in groups.items()}


def _figures(groups: Groups, folder: Path, colors: Mapping[str, str]) -> dict[str, Figure]:
    predictions = {
        variant: [Predictions.load(folder / run.predictions) for run in runs if run.predictions is not None]
        for variant, runs in groups.items()
    }
    predictions = {variant: items for variant, items in predictions.items() if items}
    first = {variant: items[0] for variant, items in predictions.items()}
    labels = _labels(groups)
    figures: dict[str, Figure | None] = {
        "learning_curves": learning_curves(groups, colors),
        "cluster_stability": cluster_stability(groups, colors),
    }
    if first:
        figures["energy_parity"] = energy_parity(first, labels, colors)
        figures["force_parity"] = force_parity(first, labels, colors)
        figures["error_by_size"] = error_by_size(predictions, labels, colors)
    return {name: figure for name, figure in figures.items() if figure is not None}


def _figure_section(name: str, drawing: bytes, part: str) -> str:
    title, text = CAPTIONS[name]
    text = text.replace("Test set", f"{part.capitalize()} set")
    picture = inline_svg(drawing, title)
    return f"<section><h2>{title}</h2><figure>{picture}<figcaption>{text}</figcaption></figure></section>\n"


def _molecules(groups: Groups, folder: Path) -> dict[str, tuple[ClusteredMolecule, ...]]:
    """Those of the first seed that has some."""
    found = {}
    for variant, runs in groups.items():
        names = [run.clusters for run in runs if run.clusters is not None]
        if names:
            found[variant] = load_molecules(folder / names[0])
    return found


def _emphasised(sentence: Sequence[Phrase]) -> str:
    """The sentence with its findings in bold."""
    return "".join(
        f'<b class="{phrase.tone}">{escape(phrase.text)}</b>' if phrase.tone else escape(phrase.text)
        for phrase in sentence
    )


def _meta(results: Sequence[RunResult], newest: RunResult) -> str:
    seeds = len({run.seed for run in results})
    parts = [
        newest.date[:10],
        f"{len(results)} runs",
        f"{seeds} {'seed' if seeds == 1 else 'seeds'}",
        f"{newest.metrics.n_structures:,} {newest.part} structures",
        f"commit {newest.commit[:12]}" if newest.commit else "",
    ]
    return " · ".join(part for part in parts if part)


def _provenance(groups: Groups, newest: RunResult) -> str:
    machine = ", ".join(f"{key} {value}" for key, value in newest.machine.items())
    entries = {"Data set": newest.dataset, "Command": newest.command, "Machine": machine, "Commit": newest.commit}
    listed = "".join(f"<dt>{key}</dt><dd><code>{escape(value)}</code></dd>" for key, value in entries.items() if value)
    settings = "".join(
        f"<details><summary>Settings of {escape(runs[0].label)}</summary>"
        f"<pre>{escape(json.dumps(dict(runs[0].config), indent=2, ensure_ascii=False))}</pre></details>"
        for runs in groups.values()
        if runs[0].config
    )
    return f"<dl>{listed}</dl><details><summary>Every run</summary>{_every_run(groups)}</details>{settings}"


def _every_run(groups: Groups) -> str:
    """One row per run: the figures that the means are taken over."""
    titles = (
        "Variant",
        "Seed",
        "Energy MAE, meV",
        "Energy RMSE, meV",
        "Energy MAE, meV/atom",
        "Force MAE, meV/Å",
        "Stress MAE, meV/Å³",
        "s/epoch",
    )
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    body = []
    for run in (run for runs in groups.values() for run in runs):
        metrics = run.metrics
        energies = (metrics.energy_mae_mev, metrics.energy_rmse_mev, metrics.energy_mae_mev_per_atom)
        values = (*energies, metrics.force_mae_mev_per_A, metrics.stress_mae_mev_per_A3, run.seconds_per_epoch)
        cells = "".join(f"<td>{'–' if value is None else number(value)}</td>" for value in values)
        body.append(f'<tr><th scope="row">{escape(run.label)}</th><td>{run.seed}</td>{cells}</tr>')
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
