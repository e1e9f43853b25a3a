"""Small data and small recipes."""

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

SMALL = {
    "backbone": "schnet",
    "long_range": "mcgm",
    "cutoff": 3.0,
    "backbone_options": {"channels": 8, "filters": 8, "radial": 8, "layers": 2},
}


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small lose by threads, and threads that wait for each other lose most."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_labelled(count, *, forces=True, seed=0):
    """Clusters of H, C and O on a loose grid, with the energy of a sum over pairs."""
    generator = np.random.default_rng(seed)
    frames = []
    for k in range(count):
        size = int(generator.integers(3, 8))
        grid = 1.2 * np.array([[x, y, z] for x in range(2) for y in range(2) for z in range(2)], dtype=float)
        positions = grid[:size] + generator.normal(scale=0.08, size=(size, 3))
        atoms = Atoms(numbers=generator.choice([1, 6, 8], size=size), positions=positions, info={"name": f"m{k}"})
        vector = positions[:, None] - positions[None]
        square = (vector**2).sum(-1)
        decay = np.exp(-square)
        results = {"energy": float(decay.sum() / 2 - 3.0 * atoms.numbers.sum())}
        if forces:
            results["forces"] = 2 * (decay[..., None] * vector).sum(1)
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


@pytest.fixture(scope="session")
def labelled():
    """The function that makes labelled frames."""
    return make_labelled


@pytest.fixture
def data_file(tmp_path):
    path = tmp_path / "data.extxyz"
    ase.io.write(path, make_labelled(24))
    return path


@pytest.fixture
def small_recipe(data_file):
    """Nested settings of a training that takes a second."""
    return {
        "data": {"path": str(data_file), "split": {"train": 0.6, "val": 0.2}},
        "model": dict(SMALL),
        "training": {"epochs": 3, "batch_atoms": 20, "tensorboard": False, "ema": 0.9, "accelerator": "cpu"},
    }
