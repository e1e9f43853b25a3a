"""How figures of a report look, and how they are written: as files, and inside an HTML page."""

from __future__ import annotations

import io
import re
from html import escape

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Mid grey, legible on white and on black; inside a page it becomes the colour of the surrounding text.
INK = "#5a5f68"
PAPER = ' style="background:#ffffff"'


def inline_svg(file: bytes, description: str) -> str:
    """An `<svg>` element for an HTML page from a file of `svg_file`: text in the colour of its surroundings."""
    text = file.decode()
    text = text[text.index("<svg") :].replace(PAPER, "", 1)
    text = re.sub(re.escape(INK), "currentColor", text, flags=re.IGNORECASE)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)


def svg_file(figure: Figure) -> bytes:
    """The figure as SVG on white, the same bytes for the same figure."""
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "mcgm"}):
        figure.savefig(buffer, format="svg", dpi=130, transparent=True, metadata={"Date": None})
    text = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue().decode(), count=1, flags=re.DOTALL)
    return text.replace("<svg", f"<svg{PAPER}", 1).encode()


def png_file(figure: Figure) -> bytes:
    """The figure as PNG on white."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def panels(count: int) -> tuple[Figure, list[Axes]]:
    """A row of panels in the plain style."""
    figure = Figure(figsize=(5.1 * count + 0.2, 3.7), layout="constrained")
    axes = [figure.add_subplot(1, count, k + 1) for k in range(count)]
    for panel in axes:
        plain(panel)
    return figure, axes


def plain(panel: Axes) -> None:
    """Thin grey frame on two sides, a faint grid, all in the ink."""
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        panel.spines[side].set_color(INK)
    panel.tick_params(which="both", colors=INK, labelsize=8)
    panel.xaxis.label.set(color=INK, size=9)
    panel.yaxis.label.set(color=INK, size=9)
    panel.grid(color=INK, alpha=0.18, linewidth=0.6)
    panel.set_axisbelow(True)


def legend(figure: Figure, panel: Axes) -> None:
    """One legend above all panels."""
    handles, names = panel.get_legend_handles_labels()
    columns = min(3, len(names))
    figure.legend(handles, names, loc="outside upper left", ncols=columns, frameon=False, fontsize=8, labelcolor=INK)


def logarithmic(panel: Axes) -> None:
    """Logarithmic errors with ticks written as plain numbers, unless one is zero."""
    low, high = panel.dataLim.intervaly
    if not 0 < low <= high < np.inf:
        return
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter(lambda value, position: f"{value:g}")
    few = high / low > 10
    panel.yaxis.set_minor_formatter(lambda value, position: "" if few and f"{value:e}"[0] not in "25" else f"{value:g}")
