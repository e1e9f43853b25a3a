"""The three-dimensional view of clusters, as a section of an HTML page that loads nothing."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from ase.data import chemical_symbols

from mcgm.report.predictions import ClusteredMolecule


def view_section(molecules: Mapping[str, Sequence[ClusteredMolecule]], labels: Mapping[str, str]) -> str:
    """A section with the molecules of each variant, coloured by cluster; empty when no molecule has clusters.

    Holds 3Dmol.js and its licence. Variants without clusters are left out.
    """
    clustered = {variant: items for variant, items in molecules.items() if any(item.levels for item in items)}
    if not clustered:
        return ""
    variants = [
        {"label": labels[variant], "molecules": [dataclasses.asdict(item) for item in items]}
        for variant, items in clustered.items()
    ]
    numbers = {number for items in clustered.values() for item in items for number in item.numbers}
    return _SECTION.format(
        data=json_in_html({"symbols": element_symbols(numbers), "variants": variants}),
        library=script_in_html(asset("3Dmol-min.js")),
        view=script_in_html(asset("stage.js") + asset("view.js")),
        licence=escape(asset("3Dmol-LICENSE.txt")),
    )


def element_symbols(numbers: Iterable[int]) -> dict[int, str]:
    """By atomic number, ascending."""
    return {number: chemical_symbols[number] for number in sorted(set(numbers))}


def filled(name: str, parts: Mapping[str, str]) -> str:
    """A page from a template in `report/assets` and the HTML of its places."""
    # one pass, so that nothing inside a part is taken for a place to fill
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], asset(name))


def asset(name: str) -> str:
    """Text of a file in `report/assets`."""
    return (files("mcgm.report") / "assets" / name).read_text(encoding="utf-8")


def json_in_html(values: Any) -> str:
    """JSON that can stand inside a script element whatever its strings hold."""
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def script_in_html(text: str) -> str:
    """JavaScript that does not end, or hide the end of, the script element around it."""
    return re.sub(r"<(?=/script|!--|script)", r"\\x3c", text, flags=re.IGNORECASE)


_SECTION = """<section>
<h2>Clusters</h2>
<div class="controls">
<label>Variant <select id="variant"></select></label>
<label>Molecule <select id="molecule"></select></label>
<span class="levels" id="levels" role="group" aria-label="Level of the hierarchy"></span>
</div>
<div class="stage"><p id="hint">The molecules are drawn by a script.</p>
<div id="viewer"></div><img id="printed" alt=""></div>
<ul class="legend" id="legend"></ul>
<p class="caption">Each atom in the colour of the cluster of its largest membership in the last layer (first seed); the
greyer, the weaker the membership. Drag to turn, scroll to zoom, point at an atom to read its clusters.</p>
<p class="caption" id="hover"></p>
<script type="application/json" id="molecules">{data}</script>
<script>{library}</script>
<script>{view}</script>
<details><summary>The view is drawn by 3Dmol.js 2.5.5 (BSD-3-Clause)</summary><pre>{licence}</pre></details>
</section>"""
