"""Do potentials conserve energy for as long as promised? The long rows of the table: 20 ps and 2,000 steps.

    python benchmarks/conservation.py runs/backbones     after `mcgm compare configs/backbones.yaml -o runs/backbones`
    python benchmarks/conservation.py --fresh            untrained models of benchmarks/trust.py

Takes the models of that comparison's first seed, each backbone alone and with MCGM, in float64 on one thread: the
drift of alanine dipeptide at constant energy, compiled, with springs only where bonds would not hold, and the largest
jump along a path through every small structure whose elements the model knows. One JSON per model in
benchmarks/results/conservation; models with figures are not measured again. The table is written by
`python benchmarks/readme.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch
import trust
from side_by_side import RESULTS

from mcgm import Potential, load
from mcgm.compiled import CompiledPotential
from mcgm.files import replacing
from mcgm.memory import keep_freed_memory
from mcgm.provenance import provenance
from mcgm.testing import drift_at_rest, path_scan, zoo
from mcgm.testing.zoo import known

FIGURES = RESULTS / "conservation"

BACKBONES = {
    "schnet": "SchNet",
    "painn": "PaiNN",
    "visnet": "ViSNet",
    "dimenet": "DimeNet++",
    "gemnet": "GemNet-T",
}
"""First words of the variants' names."""

DURATION_PS, STEPS, STEP = 20.0, 2000, 5e-4


def measure(potential: Potential, duration_ps: float) -> dict[str, Any]:
    """Drift and jumps of one model."""
    potential = potential.double().eval().requires_grad_(False)
    animals = zoo()
    started = time.perf_counter()
    drift = drift_at_rest(CompiledPotential(potential), animals["alanine dipeptide"], duration_ps=duration_ps)
    seconds = time.perf_counter() - started
    structures, _ = known((s for s in animals.values() if len(s) > 2), potential.elements)
    scans = {s.name: path_scan(potential, s, steps=STEPS, step=STEP).largest for s in structures}
    return {
        "drift_mev_per_atom_ps": drift.rate,
        "held": drift.held,
        "duration_ps": duration_ps,
        "dynamics_seconds": seconds,
        "path_steps": STEPS,
        "path_step_A": STEP,
        "largest_jump_ev": scans,
        "smooth": potential.is_smooth,
        "provenance": provenance(["python", *sys.argv]),
    }


def table() -> str:
    """Each backbone alone and with MCGM, trained and fresh, for README and docs."""
    lines = [
        "| Backbone | Weights | Duration, ps | Drift alone, meV/atom/ps | Drift with MCGM | Largest jump alone, eV "
        "| with MCGM |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    commands = set()
    for weights, (variant, name) in product(("trained", "fresh"), BACKBONES.items()):
        suffix = "" if weights == "trained" else f"-{weights}"
        paths = [FIGURES / f"{variant}{block}{suffix}.json" for block in ("", "-mcgm")]
        if not all(path.exists() for path in paths):
            continue
        alone, added = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
        commands |= {record["provenance"]["command"] for record in (alone, added)}
        drifts = " | ".join(_drift(record) for record in (alone, added))
        jumps = " | ".join(f"{max(record['largest_jump_ev'].values()):.1e}" for record in (alone, added))
        durations = " and ".join(f"{ps:g}" for ps in sorted({alone["duration_ps"], added["duration_ps"]}))
        lines.append(f"| {name} | {weights} | {durations} | {drifts} | {jumps} |")
    command = " and ".join(f"`{command}`" for command in sorted(commands))
    notes = (
        "Limits: 0.05 meV/atom/ps, 1e-06 eV. Trained: models of `configs/backbones.yaml`; fresh: those of the figures "
        f"below. {command}."
    )
    return "\n".join([*lines, "", notes])


def _drift(record: dict[str, Any]) -> str:
    return f"{record['drift_mev_per_atom_ps']:.1e}" + (" (held by springs)" if record["held"] else "")


def trained(comparison: Path) -> Iterator[tuple[str, Path]]:
    """Name of the figures and file of every model of the comparison's first seed."""
    for variant, block in product(BACKBONES, ("", "-mcgm")):
        path = comparison / "runs" / f"{variant}{block}-seed0" / "model.safetensors"
        if path.exists():
            yield f"{variant}{block}", path


def fresh(folder: Path) -> Iterator[tuple[str, Path]]:
    """The same of untrained models, made in the folder."""
    for (variant, backbone), block in product(zip(BACKBONES, trust.BACKBONES, strict=True), ("none", "mcgm")):
        name = f"{variant}-fresh" if block == "none" else f"{variant}-{block}-fresh"
        trust.model(backbone, block, "fresh", folder)
        yield name, folder / f"{backbone}-{block}-fresh" / "model.safetensors"


def main() -> int:
    """Measure what has no figures yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models = parser.add_mutually_exclusive_group(required=True)
    models.add_argument("comparison", type=Path, nargs="?", help="folder of the finished comparison")
    models.add_argument("--fresh", action="store_true", help="untrained models instead")
    parser.add_argument("--ps", type=float, default=DURATION_PS, help="length of the dynamics (20)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    for name, model in fresh(Path("runs", "trust")) if options.fresh else trained(options.comparison):
        target = FIGURES / f"{name}.json"
        if target.exists():
            continue
        record = measure(load(model), options.ps)
        FIGURES.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            temporary.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{name}: {record['drift_mev_per_atom_ps']:.1e} meV/atom/ps, held={record['held']}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
