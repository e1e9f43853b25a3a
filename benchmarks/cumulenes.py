"""Do networks know how one end of a chain is turned against the other, also in chains of lengths they never saw?

    mcgm compare --suite rivals --data gnl_cumulene --training.steps 2000 --training.epochs 400 --only ... -o FOLDER
    python benchmarks/cumulenes.py FOLDER         measure the models of the finished comparison, and draw
    python benchmarks/cumulenes.py                only draw

Errors are of energies within chains of one length, less their mean there: what is left is the twist. The scan of 12
carbons, a length not trained on, turns one end from 0 to 88 degrees and moves nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from side_by_side import RESULTS, write

from mcgm import Batch, Potential, Structure, load
from mcgm.provenance import provenance
from mcgm.report.drawing import INK, legend, logarithmic, panels, svg_file
from mcgm.report.files import write_whole
from mcgm.report.result import read_results
from mcgm.report.summary import Spread
from mcgm.suites.data_sets import data_settings
from mcgm.training.cell import cell_name

PATH = RESULTS / "cumulenes.json"
FIGURE = Path("docs/comparison/cumulenes.svg")
SCAN, ENERGY = "cumulene-angle-scan-n12.xyz", "orca_vtscf_energy"
COLORS = {
    "local": "#9aa0a8",
    "mcgm": "#1a5fb4",
    "mcgm-mixing": "#0b2e59",
    "range-slim": "#c2641a",
    "ewald": "#a8841a",
    "neural-p3m": "#7a4fa3",
    "orientations-alone": "#9ccfc9",
    "orientations": "#167a72",
    "mcgm-oriented": "#b8336a",
}


def energies(potential: Potential, frames: Sequence[ase.Atoms]) -> np.ndarray:
    """Of every frame, eV."""
    structures = [Structure.from_atoms(atoms) for atoms in frames]
    batch = Batch.from_structures(structures, cutoff=potential.cutoff, dtype=potential.dtype)
    with torch.no_grad():
        return potential(batch, forces=False).energy.numpy()


def label(atoms: ase.Atoms) -> float:
    """Energy of the file, eV, wherever ase has put it."""
    return float(atoms.info[ENERGY])


def carbons(atoms: ase.Atoms) -> int:
    """How long the chain is."""
    return int((atoms.numbers == 6).sum())


def twist_errors(predicted: np.ndarray, frames: Sequence[ase.Atoms]) -> dict[str, float]:
    """Mean absolute errors by length, meV, of energies less their mean over that length."""
    length, known = np.array([carbons(atoms) for atoms in frames]), np.array([label(atoms) for atoms in frames])
    found = {}
    for n in np.unique(length):
        here = length == n
        wrong = (predicted - known)[here]
        found[str(n)] = round(1e3 * float(np.abs(wrong - wrong.mean()).mean()), 1)
    return found


def measure(comparison: Path) -> dict[str, Any]:
    """All models of a finished comparison."""
    settings = data_settings("gnl_cumulene")
    test, train = (ase.io.read(settings[part], ":") for part in ("test", "path"))
    scan = ase.io.read(Path(settings["path"]).parent / SCAN, ":")
    known = np.array([label(atoms) for atoms in scan])
    variants: dict[str, Any] = {}
    for result in read_results(comparison / "cells"):
        path = comparison / "runs" / cell_name(result.variant, result.seed) / "model.safetensors"
        potential = load(path).eval()
        curve = energies(potential, scan)
        row = variants.setdefault(result.variant, {"label": result.label, "seeds": {}})
        row["seeds"][str(result.seed)] = {
            "twist error by length, meV": twist_errors(energies(potential, test), test),
            "scan, eV": [round(float(value), 5) for value in curve - curve[0]],
        }
    return {
        "training lengths": sorted({carbons(atoms) for atoms in train}),
        "scan, degrees": [float(atoms.info["phi"]) for atoms in scan],
        "scan, eV": [round(float(value), 5) for value in known - known[0]],
        "variants": variants,
    }


def ordered(record: Mapping[str, Any]) -> dict[str, Any]:
    """Variants in the order of the colours."""
    return {name: record["variants"][name] for name in COLORS if name in record["variants"]}


def table() -> str:
    """The stored figures as a table."""
    record = json.loads(PATH.read_text(encoding="utf-8"))
    seen, scan = set(map(str, record["training lengths"])), np.array(record["scan, eV"])
    lines = [
        "| Variant | twist, lengths trained on, meV | twist, other lengths, meV | scan of 12 carbons, meV |",
        "|---|---:|---:|---:|",
    ]
    for row in ordered(record).values():
        cells: list[list[float]] = [[], [], []]
        for figures in row["seeds"].values():
            errors = figures["twist error by length, meV"]
            cells[0].append(float(np.mean([value for n, value in errors.items() if n in seen])))
            cells[1].append(float(np.mean([value for n, value in errors.items() if n not in seen])))
            cells[2].append(1e3 * float(np.abs(np.array(figures["scan, eV"]) - scan).mean()))
        lines.append(f"| {row['label']} | " + " | ".join(_spread(values) for values in cells) + " |")
    return "\n".join(
        [
            *lines,
            "",
            "Energies less their mean over chains of one length; means over lengths, mean ± standard error over seeds. "
            f"Not trained on: {', '.join(sorted(set(errors) - seen, key=int))} carbons. "
            f"`{record['provenance']['command']}`.",
        ]
    )


def _spread(values: Sequence[float]) -> str:
    spread = Spread.of(list(values))
    assert spread is not None
    return f"{spread.mean:.0f}" + ("" if spread.error is None else f" ± {spread.error:.0f}")


def draw() -> None:
    """The scan, and the errors of the twist over the length."""
    record = json.loads(PATH.read_text(encoding="utf-8"))
    canvas, (left, right) = panels(2)
    degrees = np.array(record["scan, degrees"])
    left.plot(degrees, record["scan, eV"], "o", color=INK, markersize=3.5, label="DFT")
    for name, row in ordered(record).items():
        curves = np.array([figures["scan, eV"] for figures in row["seeds"].values()])
        left.plot(degrees, curves.mean(0), color=COLORS[name], linewidth=1.6, label=row["label"])
        left.fill_between(degrees, curves.min(0), curves.max(0), color=COLORS[name], alpha=0.15, linewidth=0)
        errors = [figures["twist error by length, meV"] for figures in row["seeds"].values()]
        lengths = sorted(errors[0], key=int)
        mean = [np.mean([of_seed[n] for of_seed in errors]) for n in lengths]
        right.plot([int(n) for n in lengths], mean, "o-", color=COLORS[name], markersize=3, linewidth=1.2)
    for n in set(map(int, lengths)) - set(record["training lengths"]):
        right.axvspan(n - 0.5, n + 0.5, color=INK, alpha=0.08, linewidth=0)
    logarithmic(right)
    left.set(xlabel="twist of one end, degrees (12 carbons, not trained on)", ylabel="energy above 0 degrees, eV")
    right.set(xlabel="carbons (shaded: not trained on)", ylabel="error of the twist's energy, meV")
    legend(canvas, left)
    write_whole(FIGURE, svg_file(canvas))


def main() -> None:
    """Measure what is asked for, then draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", nargs="?", type=Path, metavar="FOLDER", help="a finished comparison")
    torch.set_num_threads(1)
    comparison = parser.parse_args().comparison
    if comparison is not None:
        write(PATH, measure(comparison) | {"provenance": provenance(["python", *sys.argv])})
    draw()


if __name__ == "__main__":
    main()
