"""Does every promise hold, for every backbone, with and without MCGM, on fresh and on trained weights?

    python benchmarks/trust.py runs/trust            check what has no figures yet; models are kept in the folder
    python benchmarks/trust.py runs/trust --again 3  measure these rows of all models anew, with the present effort
    python benchmarks/trust.py --write               write the tables of docs/trust.md from the figures alone

One JSON per model in benchmarks/results/trust. Each is checked in float64, and in float32 where precision matters.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from side_by_side import RESULTS, write

from mcgm import Batch, Potential, load
from mcgm.files import replacing
from mcgm.memory import keep_freed_memory
from mcgm.potential import NetworkPotential
from mcgm.provenance import provenance
from mcgm.testing import FULL, Effort, validate_potential
from mcgm.training.config import DataConfig, ModelConfig, SplitConfig, TrainConfig, TrainingConfig
from mcgm.training.fit import train
from mcgm.training.preparation import Parts, make_potential, open_parts

DOCUMENT = Path(__file__).parent.parent / "docs" / "trust.md"
FIGURES = RESULTS / "trust"

BACKBONES = {
    "schnet": "SchNet",
    "painn": "PaiNN",
    "visnet": "ViSNet",
    "dimenet++": "DimeNet++",
    "gemnet-t": "GemNet-T",
}
BLOCKS = ("none", "mcgm", "mcgm_mixing", "mcgm_oriented", "mcgm_paper")
WEIGHTS = ("fresh", "trained")

ORDER = ("mcgm", "none", "mcgm_mixing", "mcgm_oriented", "mcgm_paper")
"""Of measuring, over all backbones: what matters most first, for who stops early."""

SHORT = Effort(copies=(2, 64), coordinates=24, path_steps=200, dynamics_ps=0.5)
"""What two busy cores measure for fifty models in an evening."""

PRECISE = (1, 2, 3, 4, 10, 12)
"""Rows that are measured in float32, too."""


def recipe(backbone: str, block: str) -> TrainConfig:
    """A minute of training on the bundled sample."""
    return TrainConfig(
        data=DataConfig(split=SplitConfig(train=96, val=16, test=16)),
        model=ModelConfig(backbone=backbone, long_range=block, cutoff=4.0),
        training=TrainingConfig(
            steps=60, batch_atoms=160, learning_rate=3e-3, ema=0.9, tensorboard=False, accelerator="cpu"
        ),
    )


def model(backbone: str, block: str, weights: str, folder: Path) -> Potential:
    """From the folder, or made there."""
    path = folder / f"{backbone}-{block}-{weights}"
    if not (path / "model.safetensors").exists():
        config = recipe(backbone, block)
        if weights == "trained":
            train(config, path, resume=True)
        else:
            parts = open_parts(config.data)
            tamed(make_potential(config, parts), parts).save(path / "model.safetensors")
    return load(path / "model.safetensors").requires_grad_(False)


def tamed(potential: NetworkPotential, parts: Parts) -> NetworkPotential:
    """A fresh potential whose forces are no larger than the labels': limits are absolute, rounding is relative."""
    structures = [parts.train[k] for k in range(8)]
    batch = Batch.from_structures(structures, cutoff=potential.cutoff, dtype=potential.dtype)
    forces = potential.eval()(batch).forces
    labels = np.concatenate([structure.forces for structure in structures])
    ratio = float(np.sqrt(np.square(labels).mean())) / float(forces.square().mean().sqrt())
    potential.scale.mul_(min(1.0, ratio))
    return potential


def measure(backbone: str, block: str, weights: str, folder: Path, effort: Effort) -> dict[str, Any]:
    """All figures of a model."""
    potential = model(backbone, block, weights, folder)
    single = validate_potential(potential, effort=effort, rows=PRECISE)
    double = validate_potential(potential.double(), effort=effort)
    return {
        "backbone": backbone,
        "block": block,
        "weights": weights,
        "smooth": potential.is_smooth,
        "float64": double.plain(),
        "float32": single.plain(),
        "provenance": provenance(["python", *sys.argv]),
    }


def measured_again(record: dict[str, Any], rows: Sequence[int], folder: Path, effort: Effort) -> dict[str, Any]:
    """The record with other figures of some rows."""
    potential = model(record["backbone"], record["block"], record["weights"], folder)
    merged = dict(record)
    for precision, wanted in (("float32", [row for row in rows if row in PRECISE]), ("float64", rows)):
        found = validate_potential(potential, effort=effort, rows=wanted).plain() if wanted else {"rows": []}
        both = [row for row in record[precision]["rows"] if row["number"] not in rows] + found["rows"]
        merged[precision] = record[precision] | {
            "passed": all(row["verdict"] not in ("FAILED", "error") for row in both),
            "effort": dataclasses.asdict(effort),
            "rows": sorted(both, key=lambda row: row["number"]),
        }
        potential = potential.double()
    return merged | {"again": {"rows": list(rows)} | provenance(["python", *sys.argv])}


def tables() -> str:
    """Every table of the document, from the stored figures."""
    records = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FIGURES.glob("*.json"))}
    parts = [summary(records), overview(list(records.values())), "## Every figure"]
    for backbone, name in BACKBONES.items():
        found = {
            (block, weights): records[f"{backbone}-{block}-{weights}"]
            for block, weights in product(BLOCKS, WEIGHTS)
            if f"{backbone}-{block}-{weights}" in records
        }
        if found:
            # folded: the tables are long
            title = f"<summary>{name}: {len(found)} models</summary>"
            parts.append(f'<details markdown="1">\n{title}\n\n{table(found)}\n\n</details>')
    return "\n\n".join(parts)


def overview(records: list[dict[str, Any]]) -> str:
    """Of every claim the figure that comes nearest to its limit, over all models that promise it, in float64."""
    nearest: dict[str, tuple[dict[str, Any], str]] = {}
    for record in records:
        model = f"{BACKBONES[record['backbone']]}, `{record['block']}`, {record['weights']}"
        for row in record["float64"]["rows"]:
            if row["limit"] is None or row["measured"] is None:
                continue
            before = nearest.get(row["claim"])
            if before is None or row["measured"] > before[0]["measured"]:
                nearest[row["claim"]] = row, model
    lines = ["| # | claim | unit | limit | largest figure | of |", "|---:|---|---|---:|---:|---|"]
    for claim, (row, model) in sorted(nearest.items(), key=lambda item: item[1][0]["number"]):
        claim = claim.replace("|", "\\|")
        where = model if row["measured"] > 0 else "all"
        limit = _number(row["limit"], ".0e")
        lines.append(f"| {row['number']} | {claim} | {row['unit']} | {limit} | {_cell(row)} | {where} |")
    return "\n".join(lines)


def summary(records: dict[str, Any]) -> str:
    """One cell per model: whether it keeps its promises, or the rows that it breaks."""
    lines = ["| | " + " | ".join(f"`{b}`, {w}" for b, w in product(BLOCKS, WEIGHTS)) + " |"]
    lines.append("|---|" + "---|" * (len(lines[0].split("|")) - 3))
    for backbone, name in BACKBONES.items():
        cells = (_verdict(records.get(f"{backbone}-{b}-{w}")) for b, w in product(BLOCKS, WEIGHTS))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _verdict(record: dict[str, Any] | None) -> str:
    if record is None:
        return "not measured"
    rows = [row for precision in ("float64", "float32") for row in record[precision]["rows"]]
    broken = sorted({row["number"] for row in rows if row["verdict"] in ("FAILED", "error")})
    return f"**breaks {', '.join(map(str, broken))}**" if broken else "kept"


def table(records: dict[tuple[str, str], dict[str, Any]]) -> str:
    """Claims by models of one backbone: the measured figure, in brackets where no limit is promised."""
    heads = " | ".join(f"`{block}`, {weights}" for block, weights in records)
    lines = [f"| # | claim | unit | limit | {heads} |", "|---:|---|---|---:|" + "---:|" * len(records)]
    for precision in ("float64", "float32"):
        columns = [record[precision]["rows"] for record in records.values()]
        for rows in zip(*columns, strict=True):
            limit = " or ".join(
                _number(each, ".0e") for each in sorted({r["limit"] for r in rows if r["limit"] is not None})
            )
            claim = rows[0]["claim"].replace("|", "\\|") + ("" if precision == "float64" else ", float32")
            cells = " | ".join(map(_cell, rows))
            lines.append(f"| {rows[0]['number']} | {claim} | {rows[0]['unit']} | {limit or '–'} | {cells} |")
    first = next(iter(records.values()))
    return "\n".join(lines) + "\n\n" + _conditions(first) + _notes(records)


def _number(value: float, spelled: str) -> str:
    return format(value, spelled) if value else "0"


def _cell(row: dict[str, Any]) -> str:
    if row["verdict"] == "error":
        return "**error**"
    if row["measured"] is None:
        return "–"
    figure = _number(float(row["measured"]), ".1e")
    return {"FAILED": f"**{figure}**", "reported": f"({figure})"}.get(row["verdict"], figure)


def _conditions(record: dict[str, Any]) -> str:
    figures = record["float64"]
    effort = Effort(**{**figures["effort"], "copies": tuple(figures["effort"]["copies"])})
    left_out = f" Left out, for want of training data: {', '.join(figures['left_out'])}." if figures["left_out"] else ""
    commits = f"Commit {record['provenance']['commit']}"
    if "again" in record:
        commits += f", row {' and '.join(map(str, record['again']['rows']))}: {record['again']['commit']}"
    return f"{effort}. Structures: {', '.join(figures['structures'])}.{left_out} {commits}."


def _notes(records: dict[tuple[str, str], dict[str, Any]]) -> str:
    """What was simulated, how often clusters flipped, and why a figure is missing."""
    lines = []
    for (block, weights), record in records.items():
        for row in record["float64"]["rows"]:
            said = row["error"] or (row["note"] if row["number"] == 8 or "flips" in row["note"] else "")
            if said:
                lines.append(f"- `{block}`, {weights}, row {row['number']}: {said}")
    return "\n\n" + "\n".join(lines) if lines else ""


def filled(text: str) -> str:
    """The document with its tables written anew."""
    mark = re.compile(r"(<!-- tables -->\n).*?(<!-- end -->)", re.DOTALL)
    return mark.sub(lambda found: found[1] + tables() + "\n" + found[2], text)


def main() -> int:
    """Measure, or write the document, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="where models are kept")
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--blocks", nargs="+", choices=BLOCKS, default=list(ORDER))
    parser.add_argument("--again", nargs="+", type=int, metavar="ROW", help="rows of stored figures to measure anew")
    parser.add_argument("--full", action="store_true", help="2,000 steps and 20 ps; hours for the larger networks")
    parser.add_argument("--write", action="store_true", help="write the tables of docs/trust.md")
    parser.add_argument("--check", action="store_true", help="exit with 1 where docs/trust.md differs")
    options = parser.parse_args()
    if options.folder is not None:
        torch.set_num_threads(1)
        keep_freed_memory()
        effort = FULL if options.full else SHORT
        for weights, block, backbone in product(reversed(WEIGHTS), options.blocks, options.backbones):
            path = FIGURES / f"{backbone}-{block}-{weights}.json"
            if not path.exists():
                record = measure(backbone, block, weights, options.folder, effort)
            elif options.again:
                stored = json.loads(path.read_text(encoding="utf-8"))
                record = measured_again(stored, options.again, options.folder, effort)
            else:
                continue
            write(path, record)
            print(path.name, _verdict(record), flush=True)
    old = DOCUMENT.read_text(encoding="utf-8")
    new = filled(old)
    if options.write:
        with replacing(DOCUMENT) as temporary:
            temporary.write_text(new, encoding="utf-8")
    return int(options.check and new != old)


if __name__ == "__main__":
    sys.exit(main())
