"""Trains, evaluates and predicts with all memory and with little: `python limited.py FOLDER`.

Each task leaves its files in FOLDER/free and FOLDER/limited with what was logged in said.txt, and what it said of a
structure that is too large in FOLDER/TASK.txt.
"""

import logging
import resource
import sys
from contextlib import contextmanager
from pathlib import Path

import ase.io
import torch

import mcgm.training.fit
from mcgm import load
from mcgm.data import Dataset, open_structures
from mcgm.errors import TooLargeError
from mcgm.interfaces.ase import MCGMCalculator
from mcgm.memory import return_freed_memory
from mcgm.prediction.stream import predictions
from mcgm.training.config import TrainConfig
from mcgm.training.evaluation import evaluate
from mcgm.training.fit import train
from mcgm.training.recipe import merge, read_recipe, to_config

MEGABYTES = {"train": 100, "evaluate": 40, "predict": 40, "calculator": 40}
"""What is left beyond the imports: enough for a few of the small structures."""


@contextmanager
def at_most(megabytes):
    """Addresses for so many MB beyond those in use now."""
    return_freed_memory()
    used = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize:"))
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1024 * int(used.split()[1]) + megabytes * 2**20, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def work(folder, output, limits):
    """Every task with its own limit, so that one does not live on what another has left free."""
    recipe = read_recipe(folder / "recipe.yaml", TrainConfig)
    with at_most(limits["train"]):
        train(to_config(recipe, TrainConfig), output)
    potential = load(folder / "free" / "model.safetensors")
    data = recipe["data"]["path"]
    with at_most(limits["evaluate"]):
        found = evaluate(potential, Dataset.open(data))
        found.predictions.save(output / "evaluated.npz")
    with at_most(limits["predict"]):
        ase.io.write(output / "predicted.extxyz", list(predictions(potential, open_structures(data))))
    with at_most(limits["calculator"]):
        small = min(open_structures(data), key=len).to_atoms()
        energy = MCGMCalculator(potential, allow_discontinuous=True).get_potential_energy(small)
    (output / "energy.txt").write_text(repr(energy))


def refused(folder):
    """What is said of a structure that does not fit by itself."""
    potential = load(folder / "free" / "model.safetensors")
    large = folder / "large.extxyz"
    recipe = merge(read_recipe(folder / "recipe.yaml", TrainConfig), {"data": {"path": str(large)}})
    tasks = {
        "train": lambda: train(to_config(recipe, TrainConfig), folder / "refused"),
        "evaluate": lambda: evaluate(potential, Dataset.open(large)),
        "predict": lambda: list(predictions(potential, open_structures(large))),
        "calculator": lambda: MCGMCalculator(potential, allow_discontinuous=True).get_forces(
            max(open_structures(large), key=len).to_atoms()
        ),
    }
    for name, task in tasks.items():
        said = "it fits"
        try:
            with at_most(MEGABYTES[name]):
                task()
        except TooLargeError as error:
            said = str(error)
        (folder / f"{name}.txt").write_text(said)


if __name__ == "__main__":
    torch.set_num_threads(1)
    mcgm.training.fit.keep_freed_memory = lambda: None
    folder = Path(sys.argv[1])
    for name, limits in (("free", dict.fromkeys(MEGABYTES, 100_000)), ("limited", MEGABYTES)):
        (folder / name).mkdir()
        handler = logging.FileHandler(folder / name / "said.txt")
        logging.getLogger("mcgm").addHandler(handler)
        work(folder, folder / name, limits)
        logging.getLogger("mcgm").removeHandler(handler)
    refused(folder)
