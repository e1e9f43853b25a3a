"""`mcgm md`."""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
from pathlib import Path

from mcgm.commands.arguments import make_parser, model_path
from mcgm.commands.inputs import inputs, labels_argument
from mcgm.errors import ConfigError

EXAMPLE = """  mcgm md runs/mine molecule.xyz -o runs/dynamics --time 10
  mcgm md runs/mine box.extxyz -o runs/warm --thermostat langevin --temperature 350 --steps 100000
  mcgm md runs/mine molecule.xyz -o runs/dynamics --time 10 --resume     goes on after it was killed"""


def run(arguments: list[str]) -> int:
    """Simulate one structure; a run that was killed goes on with --resume. 1 if --stop-at-spread has ended it."""
    known = _parser().parse_args(arguments)
    from mcgm.checkpoint import load
    from mcgm.dynamics.progress import Watcher
    from mcgm.dynamics.run import simulate
    from mcgm.dynamics.settings import THERMOSTATS, Settings
    from mcgm.dynamics.structures import one_of
    from mcgm.dynamics.summary import summarize
    from mcgm.memory import keep_freed_memory

    if known.friction is not None and known.thermostat == "none":
        raise ConfigError("--friction is of --thermostat langevin; without a thermostat there is none. Leave it out.")
    settings = Settings(
        thermostat=known.thermostat,
        temperature_K=known.temperature,
        timestep_fs=known.timestep,
        friction_per_fs=Settings.friction_per_fs if known.friction is None else known.friction,
        seed=known.seed,
        every=known.every,
        clusters=known.clusters,
        dtype=known.dtype,
    )
    steps = known.steps if known.time is None else _steps(known.time, known.timestep)
    path = model_path(known.model)
    potential = load(path, device=known.device)
    with inputs(path, known.structure, known.labels) as given:
        atoms = one_of(given.path, known.index, given.labels)
    keep_freed_memory()
    watcher = Watcher(steps, len(atoms), conserves_energy=THERMOSTATS[known.thermostat].conserves_energy)
    with watcher:
        outcome = simulate(
            potential,
            atoms,
            known.output,
            settings,
            steps=steps,
            model=hashlib.sha256(path.read_bytes()).hexdigest(),
            resume=known.resume,
            stop_at_spread=known.stop_at_spread,
            compile=known.compile,
            cuda_graphs=known.cuda_graphs,
            watch=watcher,
        )
    print(summarize(known.output, outcome, settings, len(atoms), domain=potential.domain))
    if outcome.stopped_at is None:
        return 0
    print(
        f"mcgm: stopped at step {outcome.stopped_at} of {steps}: members differ by more than {known.stop_at_spread:g} "
        "eV/Å in the force on an atom. Go on with --resume and a larger --stop-at-spread, or none.",
        file=sys.stderr,
    )
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "md",
        "Molecular dynamics: trajectory.extxyz, log.csv, a figure and a summary in a folder.",
        EXAMPLE,
    )
    parser.add_argument("model", metavar="MODEL", help="model file, or the folder of a training")
    parser.add_argument("structure", metavar="STRUCTURE", help="any file that is read (extxyz, cif, db, npz, ...)")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FOLDER", help="folder to write")
    parser.add_argument("--index", type=int, help="structure of a file with several: 0 is the first, -1 the last")
    labels_argument(parser)
    duration = parser.add_mutually_exclusive_group(required=True)
    duration.add_argument("--steps", type=int, help="steps in all, those before --resume included")
    duration.add_argument("--time", type=float, metavar="PS", help="ps in all")
    parser.add_argument("--thermostat", choices=("none", "langevin"), default="none", help="none (NVE) or langevin")
    parser.add_argument(
        "--temperature",
        type=float,
        default=300.0,
        metavar="K",
        help="of the thermostat and of initial velocities (300)",
    )
    parser.add_argument("--timestep", type=float, default=0.5, metavar="FS", help="fs (0.5)")
    parser.add_argument("--friction", type=float, metavar="PER_FS", help="of langevin, 1/fs (0.01)")
    parser.add_argument("--seed", type=int, default=0, help="of velocities and of langevin (0)")
    parser.add_argument("--every", type=int, default=20, metavar="STEPS", help="steps from frame to frame (20)")
    parser.add_argument(
        "--clusters",
        choices=("fresh", "frozen"),
        default="fresh",
        help="frozen: those of the first frame, for models that jump",
    )
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64", help="precision (float64)")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="fuse the network into one graph: a minute or two at the start, then steps about twice as fast",
    )
    parser.add_argument("--device", default="cpu", help="e.g. cpu, cuda")
    parser.add_argument(
        "--cuda-graphs",
        action="store_true",
        help="on a GPU: record the kernels of a step and replay them; steps of small systems are several times as fast",
    )
    parser.add_argument(
        "--stop-at-spread",
        type=float,
        metavar="EV_PER_A",
        help="end where members of a committee differ by more than this in the force on an atom, eV/Å",
    )
    parser.add_argument("--resume", action="store_true", help="go on after the last finished frame in FOLDER")
    return parser


def _steps(time_ps: float, timestep_fs: float) -> int:
    if not (math.isfinite(time_ps) and time_ps > 0):
        raise ConfigError(f"--time {time_ps}: required: a finite number of ps above zero.")
    return max(1, round(1000 * time_ps / timestep_fs))
