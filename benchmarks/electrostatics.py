"""What do a local network, MCGM, charges, and both learn of electrostatics?

    mcgm compare configs/electrostatics/lode.yaml -o runs/lode      likewise carbon_chain, des15k, spice, pubchem
    python benchmarks/electrostatics.py runs/lode                   measure the models of finished comparisons
    python benchmarks/electrostatics.py                             only draw the figure

One JSON per model in `benchmarks/results/electrostatics`; a model whose settings have figures is not measured again.
A folder has the name of its recipe.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from electrostatics_curves import chain_profile, lode_curves
from electrostatics_figure import draw
from side_by_side import RESULTS, write

from mcgm import Potential, load
from mcgm.data import Dataset
from mcgm.provenance import provenance
from mcgm.report.result import RunResult, read_results
from mcgm.training.cell import cell_name
from mcgm.training.config import DataConfig
from mcgm.training.evaluation import batches
from mcgm.training.preparation import open_parts
from mcgm.training.recipe import to_config

FOLDER = RESULTS / "electrostatics"
CURVES = {"lode": lode_curves, "carbon_chain": chain_profile}
AT_ONCE = 16
"""structures of a batch while errors are measured."""


def errors(potential: Potential, dataset: Dataset) -> dict[str, float]:
    """Root mean square errors and correlations of all that the data set has and the potential predicts."""
    pairs: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    chosen = [list(range(k, min(k + AT_ONCE, len(dataset)))) for k in range(0, len(dataset), AT_ONCE)]
    for data in batches(potential, dataset, chosen):
        found = potential(data.batch, stress=False)
        sizes = data.sizes
        pairs.setdefault("energy_mev", []).append((found.energy, data.energy))
        pairs.setdefault("energy_mev_per_atom", []).append((found.energy / sizes, data.energy / sizes))
        pairs.setdefault("force_mev_per_A", []).append((found.forces[data.has_forces], data.forces[data.has_forces]))
        if found.charges is not None:
            known, polar = data.has_charges, data.has_dipole
            pairs.setdefault("charge_me", []).append((found.charges[known], data.charges[known]))
            pairs.setdefault("dipole_meA", []).append((found.dipole[polar], data.dipole[polar]))
    figures: dict[str, float] = {"structures": len(dataset)}
    for name, parts in pairs.items():
        predicted, label = (torch.cat([part[k].double().flatten() for part in parts]).numpy() for k in (0, 1))
        if len(label):
            figures[f"{name}_rmse"] = 1000 * float(np.sqrt(np.square(predicted - label).mean()))
        if len(label) and name in ("charge_me", "dipole_meA"):
            figures[f"{name.split('_')[0]}_correlation"] = float(np.corrcoef(predicted, label)[0, 1])
    return figures


def measure(comparison: Path, result: RunResult) -> dict[str, Any]:
    """Figures of one model of a comparison, on its test part."""
    potential = load(comparison / "runs" / cell_name(result.variant, result.seed) / "model.safetensors").eval()
    data = to_config(result.config["data"], DataConfig)
    parts = open_parts(data)
    figures: dict[str, Any] = {
        "set": comparison.name,
        "variant": result.variant,
        "label": result.label,
        "seed": result.seed,
        "parameters": result.parameters,
        "epochs": len(result.curves),
        "errors": errors(potential, parts.test),
        "settings": dict(result.config),
    }
    if comparison.name in CURVES:
        figures["curves"] = CURVES[comparison.name](potential, parts, data)
    return figures | {"provenance": provenance(["python", *sys.argv]) | {"training": result.command}}


def finished(path: Path, settings: Mapping[str, Any]) -> bool:
    """Whether there are figures of these settings."""
    return path.exists() and json.loads(path.read_text(encoding="utf-8"))["settings"] == settings


def run(comparison: Path) -> None:
    """All models of a comparison that have no figures."""
    for result in read_results(comparison / "cells"):
        path = FOLDER / f"{comparison.name}-{cell_name(result.variant, result.seed)}.json"
        if finished(path, result.config):
            continue
        figures = measure(comparison, result)
        write(path, figures)
        shown = {key: round(value, 3) for key, value in figures["errors"].items()}
        print(comparison.name, result.variant, result.seed, shown, flush=True)


def main() -> None:
    """Measure what is asked for, then draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparisons", nargs="*", type=Path, metavar="FOLDER", help="finished comparisons")
    torch.set_num_threads(1)
    for comparison in parser.parse_args().comparisons:
        run(comparison)
    draw(FOLDER, RESULTS / "electrostatics.svg")


if __name__ == "__main__":
    main()
