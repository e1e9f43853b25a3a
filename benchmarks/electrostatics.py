"""What do a local network, MCGM, charges, and both learn of electrostatics? Recipes: `configs/electrostatics`.

    python benchmarks/electrostatics.py [lode carbon_chain des15k spice pubchem] [--draw]

Trains every cell (variant and seed of a recipe) that has no result yet in `benchmarks/results/electrostatics`, one
after another on one thread, and goes on where it was interrupted; then draws the figure. `--draw` only draws. A set
whose files are absent is left out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from electrostatics_curves import chain_profile, lode_curves
from electrostatics_figure import draw
from side_by_side import RESULTS

from mcgm.data import Dataset
from mcgm.errors import DataError
from mcgm.files import replacing
from mcgm.potential import Potential
from mcgm.provenance import provenance
from mcgm.training.cell import cell_name, cell_settings
from mcgm.training.config import CompareConfig, TrainConfig
from mcgm.training.evaluation import batches
from mcgm.training.fit import count_parameters, train
from mcgm.training.recipe import read_recipe, to_config

ROOT = Path(__file__).parent.parent
FOLDER = RESULTS / "electrostatics"
RUNS = ROOT / "runs" / "electrostatics"
SETS = ("lode", "carbon_chain", "des15k", "spice", "pubchem")
CURVES = {"lode": lode_curves, "carbon_chain": chain_profile}
AT_ONCE = 16
"""structures of a batch while errors are measured."""


def recipe(name: str) -> CompareConfig:
    """The recipe of a set."""
    path = ROOT / "configs" / "electrostatics" / f"{name}.yaml"
    return to_config(read_recipe(path, CompareConfig), CompareConfig, source=str(path))


def errors(potential: Potential, dataset: Dataset) -> dict[str, float]:
    """Root mean square errors and correlations of all that the data set has and the potential predicts."""
    pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
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


def run_cell(name: str, config: CompareConfig, variant: str, seed: int) -> dict[str, Any]:
    """Train, and measure on the test part."""
    cell: TrainConfig = config.cell(variant, seed, str(RUNS / name / cell_name(variant, seed)))
    started = time.process_time()
    trained = train(cell, Path(cell.output), resume=True)
    potential = trained.potential.eval()
    result: dict[str, Any] = {
        "set": name,
        "variant": variant,
        "label": config.variants[variant].label or variant,
        "seed": seed,
        "parameters": count_parameters(potential),
        "epochs": len(trained.curves),
        "cpu_seconds": round(time.process_time() - started, 1),
        "errors": errors(potential, trained.parts.test),
        "settings": cell_settings(config, variant, seed),
    }
    if name in CURVES:
        result["curves"] = CURVES[name](potential, trained.parts, cell.data)
    return result | {"provenance": provenance(["python", *sys.argv])}


def finished(path: Path, settings: dict[str, Any]) -> bool:
    """Whether there is a result of these settings."""
    return path.exists() and json.loads(path.read_text(encoding="utf-8"))["settings"] == settings


def run(name: str) -> None:
    """All cells of a set that are not finished."""
    config = recipe(name)
    for seed in config.seeds:
        for variant in config.variants:
            path = FOLDER / f"{name}-{cell_name(variant, seed)}.json"
            if finished(path, cell_settings(config, variant, seed)):
                continue
            result = run_cell(name, config, variant, seed)
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            shown = {key: round(value, 3) for key, value in result["errors"].items()}
            print(name, variant, seed, f"{result['cpu_seconds']:.0f} s", shown, flush=True)


def main() -> None:
    """Run what is asked for, then draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"any of {', '.join(SETS)}; default: all")
    parser.add_argument("--draw", action="store_true", help="train nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in [] if options.draw else options.sets or SETS:
        try:
            run(name)
        except DataError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    draw(FOLDER, RESULTS / "electrostatics.svg")


if __name__ == "__main__":
    main()
