"""Do potentials conserve energy for as long as promised? The long rows of the table: 20 ps and 2,000 steps.

    python benchmarks/conservation.py runs/backbones     after `mcgm compare configs/backbones.yaml -o runs/backbones`
    python benchmarks/conservation.py --fresh            untrained models of benchmarks/trust.py

Takes the models of that comparison's first seed, each backbone alone, with MCGM, and with orientations too, in float64
on one thread: the drift of alanine dipeptide at constant energy, compiled, with springs only where bonds would not
hold, from several choices of velocities, and the largest jump along a path through every small structure whose
elements the model knows. One JSON per model in benchmarks/results/conservation; what has figures is not measured again.
Exits with 1 if a drift is above its limit or above twice that of the backbone alone. The table is written by
`python benchmarks/readme.py`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import trust
from scipy import stats
from side_by_side import RESULTS, write

from mcgm import Potential, load
from mcgm.compiled import CompiledPotential
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

BLOCKS = {"mcgm": "MCGM", "oriented": "MCGM + orientations"}
"""Last words of the variants' names."""

DURATION_PS, STEPS, STEP = 20.0, 2000, 5e-4

LARGEST_DRIFT, LARGEST_RATIO = 0.05, 2.0
"""Limits of row 8: meV/atom/ps, and multiples of the drift of the backbone alone."""


def measure_drift(potential: Potential, seed: int, duration_ps: float) -> dict[str, Any]:
    """Drift of one model from one choice of velocities."""
    started = time.perf_counter()
    drift = drift_at_rest(CompiledPotential(potential), zoo()["alanine dipeptide"], duration_ps=duration_ps, seed=seed)
    return {
        "seed": seed,
        "mev_per_atom_ps": drift.rate,
        "held": drift.held,
        "duration_ps": duration_ps,
        "seconds": time.perf_counter() - started,
        "provenance": provenance(["python", *sys.argv]),
    }


def measure_jumps(potential: Potential) -> dict[str, Any]:
    """Largest jumps of one model, eV, by structure."""
    structures, _ = known((s for s in zoo().values() if len(s) > 2), potential.elements)
    return {
        "steps": STEPS,
        "step_A": STEP,
        "largest_ev": {s.name: path_scan(potential, s, steps=STEPS, step=STEP).largest for s in structures},
        "provenance": provenance(["python", *sys.argv]),
    }


@dataclass(frozen=True)
class Pair:
    """Drifts of a backbone alone and with a block, root mean squares over so many velocities each."""

    alone: float
    added: float
    velocities: tuple[int, int]

    @classmethod
    def of(cls, alone: dict[str, Any], added: dict[str, Any]) -> Pair:
        """From two records."""
        return cls(_drift(alone), _drift(added), (len(alone["drifts"]), len(added["drifts"])))

    @property
    def ratio(self) -> float:
        """How many times more drifts with the block."""
        return self.added / self.alone

    @property
    def interval(self) -> tuple[float, float]:
        """95 % of the ratio, if drifts from all velocities are normal around zero: the energy takes a random walk."""
        alone, added = self.velocities
        return (
            self.ratio / math.sqrt(stats.f.ppf(0.975, added, alone)),
            self.ratio * math.sqrt(stats.f.ppf(0.975, alone, added)),
        )

    @property
    def kept(self) -> bool:
        """Whether row 8 holds."""
        return max(self.alone, self.added) <= LARGEST_DRIFT and self.ratio <= LARGEST_RATIO


def pairs() -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """Backbone with block, and weights, records alone and with the block, of all that have both."""
    for weights, (variant, name), (block, title) in product(("trained", "fresh"), BACKBONES.items(), BLOCKS.items()):
        suffix = "" if weights == "trained" else f"-{weights}"
        paths = [FIGURES / f"{variant}{suffix}.json", FIGURES / f"{variant}-{block}{suffix}.json"]
        if all(path.exists() for path in paths):
            alone, added = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
            if alone["drifts"] and added["drifts"]:
                yield f"{name} + {title}", weights, alone, added


def table() -> str:
    """Each backbone alone and with a block, trained and fresh, for README and docs."""
    lines = [
        "| Backbone and block | Weights | Velocities | Drift alone, meV/atom/ps | Drift with the block | Ratio "
        "| Largest jump alone, eV | with the block |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    commands, durations, held = set(), set(), {}
    for name, weights, alone, added in pairs():
        runs = [*alone["drifts"], *added["drifts"]]
        commands |= {part["provenance"]["command"] for part in (*runs, alone["jumps"], added["jumps"])}
        durations |= {run["duration_ps"] for run in runs}
        held |= {run["provenance"]["date"]: run["held"] for run in runs}  # those alone stand beside several blocks
        pair = Pair.of(alone, added)
        ratio = f"{pair.ratio:.2f}" if pair.kept else f"**{pair.ratio:.2f}**"
        if min(pair.velocities) > 1:
            ratio += " [{:.2g}, {:.2g}]".format(*pair.interval)
        jumps = " | ".join(f"{max(record['jumps']['largest_ev'].values()):.1e}" for record in (alone, added))
        velocities = " and ".join(dict.fromkeys(str(len(record["drifts"])) for record in (alone, added)))
        lines.append(f"| {name} | {weights} | {velocities} | {_text(alone)} | {_text(added)} | {ratio} | {jumps} |")
    notes = (
        f"Limits: {LARGEST_DRIFT:g} meV/atom/ps, {LARGEST_RATIO:g} times the drift alone, 1e-06 eV. Drifts over "
        f"{' and '.join(f'{ps:g}' for ps in sorted(durations))} ps, the root mean square over choices of velocities, "
        f"in brackets their range; ratios with their 95 % intervals, drifts taken as normal around zero; springs held "
        f"the atoms in {sum(held.values())} of {len(held)} runs. Trained: models of "
        "`configs/backbones.yaml`; fresh: those of the figures below. "
        f"{' and '.join(f'`{command}`' for command in sorted(commands))}."
    )
    return "\n".join([*lines, "", notes])


def _drift(record: dict[str, Any]) -> float:
    return math.sqrt(mean(run["mev_per_atom_ps"] ** 2 for run in record["drifts"]))


def _text(record: dict[str, Any]) -> str:
    rates = sorted(run["mev_per_atom_ps"] for run in record["drifts"])
    spread = f" ({rates[0]:.1e} to {rates[-1]:.1e})" if len(rates) > 1 else ""
    return f"{_drift(record):.1e}{spread}"


def trained(comparison: Path) -> Iterator[tuple[str, Path]]:
    """Name of the figures and file of every model of the comparison's first seed."""
    for variant, block in product(BACKBONES, ("", *(f"-{block}" for block in BLOCKS))):
        path = comparison / "runs" / f"{variant}{block}-seed0" / "model.safetensors"
        if path.exists():
            yield f"{variant}{block}", path


def fresh(folder: Path) -> Iterator[tuple[str, Path]]:
    """The same of untrained models, made in the folder."""
    blocks = {"none": "", "mcgm": "-mcgm", "mcgm_oriented": "-oriented"}
    for (variant, backbone), (block, suffix) in product(zip(BACKBONES, trust.BACKBONES, strict=True), blocks.items()):
        trust.model(backbone, block, "fresh", folder)
        yield f"{variant}{suffix}-fresh", folder / f"{backbone}-{block}-fresh" / "model.safetensors"


def main() -> int:
    """Measure what has no figures yet; 1 where row 8 does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models = parser.add_mutually_exclusive_group(required=True)
    models.add_argument("comparison", type=Path, nargs="?", help="folder of the finished comparison")
    models.add_argument("--fresh", action="store_true", help="untrained models instead")
    parser.add_argument("--ps", type=float, default=DURATION_PS, help="length of the dynamics (20)")
    parser.add_argument("--velocities", type=int, default=3, help="choices of velocities (3)")
    parser.add_argument("--only", help="of one backbone: " + ", ".join(BACKBONES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    for name, model in fresh(Path("runs", "trust")) if options.fresh else trained(options.comparison):
        if options.only and options.only != name.split("-")[0]:
            continue
        target = FIGURES / f"{name}.json"
        record = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {"drifts": []}
        potential = load(model).double().eval().requires_grad_(False)
        if "jumps" not in record:
            record["jumps"] = measure_jumps(potential)
            write(target, record)
        for seed in sorted(set(range(options.velocities)) - {run["seed"] for run in record["drifts"]}):
            drift = measure_drift(potential, seed, options.ps)
            record["drifts"].append(drift)
            write(target, record)
            print(f"{name}, {seed}: {drift['mev_per_atom_ps']:.1e} meV/atom/ps, held={drift['held']}", flush=True)
    broken = [f"{name}, {weights}" for name, weights, *records in pairs() if not Pair.of(*records).kept]
    print("\n".join(f"{name}: row 8 does not hold" for name in broken) or "Row 8 holds.")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
