"""How do the blocks scale? Time and peak memory of index, energy and forces from 10 atoms to as many as fit.

    python benchmarks/blocks_scaling.py [--seconds 2] [--gib 4] [--device cpu] [--blocks ewald ...]

SchNet of size small, cutoff 5 Å, float32, one thread; zigzag chains of carbon (open) and boxes of water at its density
(periodic). Time is that of the processor, which neighbours on the machine do not lengthen much. Every cell is a process
of its own, whose peak memory is what it needs beyond the batch in its first call; later ones keep freed memory, as
`mcgm md` does, and are timed. Finished cells are kept in the folder, so that the same command goes on where it was
stopped. On a GPU (--device cuda) time is the wall's, and all cells share a process.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import time
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from scipy.spatial.transform import Rotation
from side_by_side import RESULTS, count_exactly, store

from mcgm import Batch, Potential, Structure, build
from mcgm.files import replacing
from mcgm.long_range import BLOCKS
from mcgm.memory import keep_freed_memory

CUTOFF = 5.0
SIZES = {
    "chain": (10, 100, 300, 1000, 3000, 10_000, 30_000, 100_000),
    "water": (24, 192, 648, 2187, 6591, 20_577, 59_049),
}
SPACING = 3.104
"""Å between water molecules at 1 g/cm³."""

ASYMPTOTIC = 300
"""Atoms from which exponents are fitted."""

ENOUGH = {"cpu": 2.0, "cuda": 0.3}
"""Seconds of repetitions, in turns with the local network."""


def chain(atoms: int) -> Structure:
    """Carbon atoms 1.3 Å apart in a zigzag."""
    step = np.arange(atoms)
    positions = np.stack([1.2 * step, 0.25 * (-1.0) ** step, np.zeros(atoms)], axis=1)
    return Structure(numbers=np.full(atoms, 6), positions=positions, name=f"chain of {atoms}")


def water(atoms: int) -> Structure:
    """A cube of water molecules on a grid, each turned at random."""
    edge = round((atoms / 3) ** (1 / 3))
    turns = Rotation.random(edge**3, random_state=0)
    one = molecule("H2O")
    arms = one.positions - one.get_center_of_mass()
    sites = SPACING * np.stack(np.meshgrid(*[np.arange(edge)] * 3, indexing="ij"), -1).reshape(-1, 3)
    positions = np.concatenate([site + turn.apply(arms) for site, turn in zip(sites, turns, strict=True)])
    cell = np.eye(3) * SPACING * edge
    return Structure.from_atoms(Atoms("OH2" * edge**3, positions=positions, cell=cell, pbc=True), name=f"water {atoms}")


SYSTEMS = {"chain": chain, "water": water}


def status(name: str) -> int:
    """A field of /proc/self/status, bytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None, f"/proc/self/status has no {name}: peak memory is measured on Linux only"
    return 1024 * int(found[1])


@lru_cache(maxsize=20)
def batch_of(system: str, atoms: int) -> Batch:
    """Found once for all blocks."""
    return Batch.from_structures([SYSTEMS[system](atoms)], cutoff=CUTOFF)


def measure(block: str, system: str, atoms: int, device: str, limit_s: float) -> dict[str, float]:
    """Least time, peak memory, and time beside the local network in turns, of one cell in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    potential, local = (
        build(backbone="schnet", long_range=name, size="small", cutoff=CUTOFF).eval().to(device)
        for name in (block, "none")
    )
    batch = batch_of(system, atoms).to(device)
    on_gpu = device != "cpu"

    def call(potential: Potential) -> float:
        clock = time.perf_counter if on_gpu else time.process_time
        start = clock()
        potential(potential.index(batch), forces=True, stress=False)
        if on_gpu:
            torch.cuda.synchronize()
        return clock() - start

    if on_gpu:
        call(local)  # libraries are initialised
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
        before = status("VmRSS")
        count_exactly()
    first = call(potential)
    peak = torch.cuda.max_memory_allocated() if on_gpu else status("VmHWM")
    turns: list[tuple[float, float]] = []
    keep_freed_memory()  # as `mcgm train` and `mcgm md` do
    call(potential)
    while not turns or (first < limit_s and np.sum(turns) < ENOUGH[device]):
        turns.append((call(potential), call(local)))
    own, alone = np.array(turns).T
    return {
        "seconds": float(own.min()),
        "times local": float(np.median(own / alone)),
        "MiB": (peak - before) / 2**20,
        "turns": len(turns),
    }


def child(pipe: Connection, gib: float, *cell: Any) -> None:
    """Measure with a bound on memory, and send what came out, or why nothing did."""
    import resource

    if cell[3] == "cpu":
        bound = status("VmData") + int(gib * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (bound, resource.RLIM_INFINITY))
    try:
        pipe.send(measure(*cell))
    except Exception as error:
        # whatever stops a cell is its result
        pipe.send({"stopped": f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"})


def in_a_process(block: str, system: str, atoms: int, options: argparse.Namespace) -> dict[str, Any]:
    """Whose peak memory is the cell's, and which may run out of it."""
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    arguments = (theirs, options.gib, block, system, atoms, options.device, options.seconds)
    process = multiprocessing.get_context("fork").Process(target=child, args=arguments)
    process.start()
    theirs.close()
    try:
        found = ours.recv()
    except EOFError:
        found = {"stopped": "killed by the system, for its memory most likely"}
    process.join()
    return found


def on_the_gpu(block: str, system: str, atoms: int, options: argparse.Namespace) -> dict[str, Any]:
    """In this process: the GPU's memory is counted by itself, and its libraries take long to start."""
    try:
        return measure(block, system, atoms, options.device, options.seconds)
    except Exception as error:
        # whatever stops a cell is its result
        return {"stopped": f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"}
    finally:
        torch.cuda.empty_cache()


def cell(folder: Path, block: str, system: str, atoms: int, options: argparse.Namespace) -> dict[str, Any]:
    """A finished cell, or a new one in a process of its own."""
    path = folder / f"{options.device}-{system}-{block}-{atoms}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    found = (in_a_process if options.device == "cpu" else on_the_gpu)(block, system, atoms, options)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(found), encoding="utf-8")
    print(f"{system} {block} {atoms}: {found}", flush=True)
    return found


def series(folder: Path, block: str, system: str, options: argparse.Namespace) -> dict[str, Any]:
    """Sizes of one block until one takes too long or does not fit."""
    record: dict[str, Any] = {"atoms": [], "seconds": [], "times local": [], "MiB": []}
    for atoms in SIZES[system]:
        found = cell(folder, block, system, atoms, options)
        if "stopped" in found:
            record["stopped"] = f"{atoms} atoms: {found['stopped']}"
            break
        record["atoms"].append(atoms)
        for key in ("seconds", "times local", "MiB"):
            record[key].append(float(f"{found[key]:.4g}"))
        if found["seconds"] > options.seconds:
            record["stopped"] = f"a call took more than {options.seconds:g} s"
            break
    for what in ("seconds", "MiB"):
        record[f"exponent of {what}"] = exponent(record["atoms"], record[what])
    return record


def exponent(atoms: list[float], values: list[float]) -> float | None:
    """Slope in logarithms from `ASYMPTOTIC` atoms on, or of the last three sizes; `None` for fewer than three."""
    pairs = [(n, v) for n, v in zip(atoms, values, strict=True) if v > 0]
    large = [pair for pair in pairs if pair[0] >= ASYMPTOTIC]
    large = large if len(large) >= 3 else pairs[-3:]
    if len(large) < 3:
        return None
    return round(float(np.polyfit(*np.log(np.array(large)).T, 1)[0]), 2)


def draw(figures: dict[str, Any], path: Path) -> None:
    """Time and memory of all blocks over the number of atoms."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "mcgm"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9.6, 7.2), sharex="col", layout="constrained")
    colours = plt.get_cmap("tab20").colors
    names = list(figures["chain"])
    for column, system in enumerate(SYSTEMS):
        for row, what in enumerate(("seconds", "MiB")):
            for place, name in enumerate(names):
                record = figures[system][name]
                style = {"color": "black", "lw": 2.5} if name == "none" else {"color": colours[place % len(colours)]}
                axes[row][column].loglog(record["atoms"], record[what], marker=".", label=name, **style)
            axes[row][column].set(ylabel="s" if what == "seconds" else "MiB", xlabel="atoms" if row else None)
        axes[0][column].set_title({"chain": "carbon chains", "water": "boxes of water"}[system])
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})


def main() -> None:
    """Every block, both systems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="a block's sizes end after a call longer than this")
    parser.add_argument("--gib", type=float, default=4.0, help="memory that a cell may have beyond the program's")
    parser.add_argument("--device", default="cpu", help="cpu, cuda")
    parser.add_argument("--blocks", nargs="+", default=list(BLOCKS), choices=list(BLOCKS), metavar="NAME")
    parser.add_argument("--folder", type=Path, default=Path("runs/blocks_scaling"), help="where finished cells are")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {
        "question": f"index, energy and forces of one structure, SchNet small, cutoff {CUTOFF:g} Å, float32, "
        + (
            f"one thread, processor time; sizes end after a call of {options.seconds:g} s or {options.gib:g} GiB"
            if options.device == "cpu"
            else f"{torch.cuda.get_device_name()}; sizes end after a call of {options.seconds:g} s"
        )
        + f"; exponents from {ASYMPTOTIC} atoms on"
    }
    for system in SYSTEMS:
        figures[system] = {block: series(options.folder, block, system, options) for block in options.blocks}
    name = "blocks_scaling" if options.device == "cpu" else f"blocks_scaling_{options.device}"
    figures = with_kept(figures, RESULTS / f"{name}.json")
    draw(figures, RESULTS / f"{name}.svg")
    store(name, figures)


def with_kept(figures: dict[str, Any], path: Path) -> dict[str, Any]:
    """With the stored figures of blocks that this call has not measured, and what gave them.

    Raises:
        SystemExit: they were measured under other limits.
    """
    if not path.exists() or set(figures["chain"]) >= set(BLOCKS):
        return figures
    stored = json.loads(path.read_text(encoding="utf-8"))
    if stored["question"] != figures["question"]:
        raise SystemExit(f"{path} has figures of other limits: {stored['question']}. Measure all.")
    for system in SYSTEMS:
        both = stored[system] | figures[system]
        figures[system] = {block: both[block] for block in BLOCKS if block in both}
    return figures | {"earlier": [*stored.get("earlier", []), stored["provenance"]]}


if __name__ == "__main__":
    main()
