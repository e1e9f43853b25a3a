"""The table of a comparison, in the terminal, in Markdown and in HTML: the same cells in all three."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from mcgm.report.summary import Spread, VariantSummary, decimals, number, signed

ABSENT = "–"
STYLES = {"better": "green", "worse": "red", "noise": "dim", "": ""}


@dataclass(frozen=True)
class Column:
    """One column: its title and how a row is written; `tone` says whether a change is better, worse or noise."""

    title: str
    unit: str
    text: Callable[[VariantSummary], str]
    tone: Callable[[VariantSummary], str] = lambda row: ""


def columns(rows: Sequence[VariantSummary]) -> tuple[Column, ...]:
    """Columns that have something to say: those that would hold no value at all are left out."""
    every = (
        Column("Variant", "", lambda row: row.label),
        Column("Energy MAE", "meV", lambda row: spread_text(row.energy)),
        Column("Force MAE", "meV/Å", lambda row: spread_text(row.force)),
        Column("Stress MAE", "meV/Å³", lambda row: spread_text(row.stress)),
        Column("Parameters", "", lambda row: f"{row.parameters:,}"),
        Column("Time per epoch", "s", lambda row: mean_text(row.seconds_per_epoch)),
        Column("Inference", "ms/molecule", lambda row: mean_text(row.inference)),
        Column("Energy change", "%", lambda row: change_text(row.energy_change), lambda row: _tone(row.energy_change)),
        Column("Force change", "%", lambda row: change_text(row.force_change), lambda row: _tone(row.force_change)),
        Column("Stress change", "%", lambda row: change_text(row.stress_change), lambda row: _tone(row.stress_change)),
    )
    return tuple(column for column in every if any(column.text(row) != ABSENT for row in rows))


def caption(rows: Sequence[VariantSummary]) -> str:
    """What the figures of the table are."""
    counts = sorted({len(row.seeds) for row in rows})
    if counts[-1] == 1:
        seeds = "One seed: no spread."
    else:
        number_of_seeds = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        seeds = f"Mean ± standard error over {number_of_seeds} seeds."
    if all(row.reference is None for row in rows):
        return seeds
    labels = {row.variant: row.label for row in rows}
    references = [labels[key] for key in dict.fromkeys(row.reference for row in rows) if key is not None]
    change = f"Change: against {' or '.join(references)}"
    if counts[-1] == 1:
        return f"{seeds} {change}; negative is better."
    change += " in each seed, then the mean over seeds; negative is better"
    return f"{seeds} {change}, and within noise where the 95 % interval of the mean (Student's t) holds 0."


def terminal_table(rows: Sequence[VariantSummary], *, title: str | None = None) -> Table:
    """For `rich.print`; labels are shown as they are, never read as markup."""
    table = Table(
        title=None if title is None else Text(title), caption=Text(caption(rows), justify="left"), box=SIMPLE_HEAD
    )
    table.padding, table.collapse_padding, table.pad_edge = (0, 1), True, False  # type: ignore[assignment]
    chosen = columns(rows)
    for k, column in enumerate(chosen):
        heading = Text(
            "\n".join(
                [*column.title.split(), *column.unit.replace("ms/", "ms/ ").split()] if k else [column.title]
            ).strip()
        )
        # Labels may wrap in a narrow terminal, figures may not.
        table.add_column(heading, justify="right" if k else "left", no_wrap=k > 0, min_width=0 if k else 14)
    for row in rows:
        texts = (Text(column.text(row), style=STYLES[column.tone(row)]) for column in chosen)
        table.add_row(*(_spread_below(text) if k else text for k, text in enumerate(texts)))
    return table


def markdown_table(rows: Sequence[VariantSummary]) -> str:
    """A GitHub table, with its caption below."""
    chosen = columns(rows)
    lines = ["| " + " | ".join(_heading(column) for column in chosen) + " |"]
    lines.append("|" + "|".join("---" if k == 0 else "---:" for k in range(len(chosen))) + "|")
    for row in rows:
        cells = (escape(column.text(row), quote=False).replace("|", "\\|").replace("\n", " ") for column in chosen)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", escape(caption(rows), quote=False)]) + "\n"


def html_table(rows: Sequence[VariantSummary], colors: dict[str, str]) -> str:
    """A table element; `colors` gives each variant the colour that it has in the figures."""
    chosen = columns(rows)
    head = "".join(
        f'<th scope="col">{escape(column.title)}'
        + (f"<small>{escape(column.unit)}</small>" if column.unit else "")
        + "</th>"
        for column in chosen
    )
    body = []
    for row in rows:
        swatch = f'<span class="swatch" style="background:{escape(colors[row.variant])}"></span>'
        cells = [f'<th scope="row">{swatch}{escape(row.label)}</th>']
        cells += [f'<td class="{column.tone(row)}">{escape(column.text(row))}</td>' for column in chosen[1:]]
        body.append(f'<tr class="{"reference" if row.reference is None else ""}">{"".join(cells)}</tr>')
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def spread_text(spread: Spread | None) -> str:
    """Mean, and its standard error with the same digits: one more where it would round to zero."""
    if spread is None:
        return ABSENT
    if spread.error is None:
        return number(spread.mean)
    digits = decimals(spread.mean)
    digits += 0 < spread.error < 0.5 * 10.0**-digits
    return f"{spread.mean:.{digits}f} ± {spread.error:.{digits}f}"


def mean_text(spread: Spread | None) -> str:
    """Mean alone: for what is measured once per variant, all variants side by side, and not once per seed."""
    return ABSENT if spread is None else number(spread.mean)


def change_text(spread: Spread | None) -> str:
    """Change in per cent with its sign, and its standard error."""
    if spread is None:
        return ABSENT
    mean = signed(spread.mean)
    return mean if spread.error is None else f"{mean} ± {spread.error:.1f}"


def _spread_below(text: Text) -> Text:
    """Mean above, spread dimmed below, so that all columns fit into 80 characters."""
    mean, _, spread = text.plain.partition(" ± ")
    return Text.assemble((mean, text.style), (f"\n± {spread}", "dim")) if spread else text


def _heading(column: Column) -> str:
    return f"{column.title}, {column.unit}" if column.unit else column.title


def _tone(change: Spread | None) -> str:
    return "" if change is None else change.tone
