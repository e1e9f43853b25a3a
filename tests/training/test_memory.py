"""Memory that runs out, for real: a process that may only have so many addresses (tests/training/limited.py)."""

import os
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mcgm import Batch, build
from mcgm.errors import TooLargeError
from mcgm.memory import available_bytes, bounded_memory
from mcgm.report.predictions import Predictions
from mcgm.splitting import Splitter, Work, is_out_of_memory, part_of
from mcgm.structure import Structure
from mcgm.training.config import TrainConfig
from mcgm.training.preparation import open_parts
from mcgm.training.recipe import to_config
from mcgm.training.state import read_state

COUNT = 13
LARGE = 400


def ball(atoms, generator):
    """A dense labelled piece of H, C and O."""
    side = int(np.ceil(atoms ** (1 / 3)))
    grid = 1.3 * np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[:atoms]
    positions = grid + generator.normal(scale=0.05, size=(atoms, 3))
    piece = Atoms(numbers=generator.choice([1, 6, 8], size=atoms), positions=positions)
    piece.calc = SinglePointCalculator(
        piece, energy=float(generator.normal()), forces=generator.normal(size=(atoms, 3))
    )
    return piece


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where limited.py has done its work."""
    folder = tmp_path_factory.mktemp("memory")
    generator = np.random.default_rng(0)
    frames = [ball(30 + k, generator) for k in range(COUNT)]
    ase.io.write(folder / "data.extxyz", frames)
    recipe = {
        "data": {"path": str(folder / "data.extxyz"), "split": {"train": 11, "val": 2, "test": 0}},
        "model": {
            "backbone": "schnet",
            "long_range": "mcgm_paper",
            "long_range_options": {"recluster": "epoch"},
            "cutoff": 6.0,
            "backbone_options": {"channels": 64, "filters": 64, "radial": 64, "layers": 2},
        },
        "training": {
            "epochs": 1,
            "batch_structures": 11,
            "tensorboard": False,
            "precision": "float64",
            "accelerator": "cpu",
            "clip": None,
            "schedule": {"kind": "constant"},
        },
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    place = int(open_parts(to_config(recipe, TrainConfig).data).train.indices[0])
    (folder / "place.txt").write_text(str(place))
    frames[place] = ball(LARGE, generator)
    ase.io.write(folder / "large.extxyz", frames)
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("limited.py")), str(folder)]
    # every tensor in pages of its own, given back when it is freed: else the tasks live on what earlier ones left
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    return folder


def test_batches_were_split_and_it_was_said_once_each(folder):
    assert (folder / "free/said.txt").read_text() == ""
    said = (folder / "limited/said.txt").read_text()
    for task in ("training", "evaluation", "prediction"):
        lines = [line for line in said.splitlines() if line.startswith(f"{task}:")]
        assert lines
        assert len(lines) == len(set(lines))


def test_gradient_of_a_split_batch_is_that_of_the_whole(folder):
    whole, parts = (read_state(folder / name / "last.ckpt")["optimizer_states"][0] for name in ("free", "limited"))
    for key, state in whole["state"].items():
        # after one step the first moment is a tenth of the gradient
        expected, found = state["exp_avg"], parts["state"][key]["exp_avg"]
        assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_records_of_a_split_training_are_those_of_the_whole(folder):
    rows = [(folder / name / "metrics.csv").read_text().splitlines()[1].split(",") for name in ("free", "limited")]
    # clusters have nothing to be compared with at the first validation: an empty field
    whole, parts = ([float(value or "nan") for value in row[3:]] for row in rows)
    assert parts == pytest.approx(whole, rel=1e-9, nan_ok=True)


def test_split_evaluation_is_that_of_the_whole(folder):
    whole, parts = (Predictions.load(folder / name / "evaluated.npz") for name in ("free", "limited"))
    assert list(parts.names) == list(whole.names)
    assert len(whole.names) == COUNT
    assert parts.energy_predicted == pytest.approx(whole.energy_predicted, rel=1e-12)
    assert parts.forces_predicted == pytest.approx(whole.forces_predicted, abs=1e-6)


def test_split_prediction_is_that_of_the_whole(folder):
    whole, parts = (ase.io.read(folder / name / "predicted.extxyz", ":") for name in ("free", "limited"))
    assert len(parts) == len(whole) == COUNT
    for one, other in zip(parts, whole, strict=True):
        assert one.get_potential_energy() == pytest.approx(other.get_potential_energy(), rel=1e-12)
        assert one.get_forces() == pytest.approx(other.get_forces(), abs=1e-7)


@pytest.mark.parametrize("task", ["train", "evaluate", "predict"])
def test_structure_that_is_too_large_is_named_with_what_would_fit(folder, task):
    said = (folder / f"{task}.txt").read_text()
    assert f"large.extxyz[{(folder / 'place.txt').read_text()}]" in said
    assert f"with {LARGE} atoms" in said
    fits = int(said.split("about ")[1].split(" atoms")[0])
    assert 10 <= fits < LARGE


def test_calculator_names_a_structure_that_is_too_large_with_what_would_fit(folder):
    said = (folder / "calculator.txt").read_text()
    assert said.startswith("calculator: ")
    assert f"with {LARGE} atoms" in said
    assert 10 <= int(said.split("about ")[1].split(" atoms")[0]) < LARGE
    whole, limited = (float((folder / name / "energy.txt").read_text()) for name in ("free", "limited"))
    assert limited == whole


def fails_above(atoms, sizes):
    """Work that wants the sizes of its structures, and has memory for so many atoms."""
    tried = []

    def part(first, last):
        tried.append((first, last))
        if sum(sizes[first:last]) > atoms:
            raise MemoryError
        return sizes[first:last]

    def trial(structure):
        if len(structure) > atoms:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    def structure(k):
        return Structure(np.ones(sizes[k]), 2.0 * np.arange(3 * sizes[k]).reshape(-1, 3), name=f"s{k}")

    return Work(sizes, part, structure, trial), tried


def test_every_structure_is_done_once_in_order_and_failures_are_remembered(caplog):
    sizes = [5, 3, 8, 1, 1, 7, 2, 9, 4]
    splitter = Splitter("test")
    work, tried = fails_above(12, sizes)
    assert [size for part in splitter.run(work) for size in part] == sizes
    assert len(caplog.records) == 2
    assert splitter.limit == 9
    first = len(tried)
    assert [size for part in splitter.run(work) for size in part] == sizes
    assert all(sum(sizes[a:b]) <= 12 for a, b in tried[first:])
    assert len(caplog.records) == 2


def test_estimate_of_what_fits_is_good_to_an_eighth():
    work, _ = fails_above(100, [20, 300])
    with pytest.raises(TooLargeError, match=r"'s1' with 300 atoms") as raised:
        list(Splitter("test").run(work))
    fits = int(str(raised.value).split("about ")[1].split(" atoms")[0])
    assert 85 <= fits <= 100


def test_other_errors_are_not_taken_for_lack_of_memory():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(TooLargeError("a structure that is too large"))


def test_part_of_a_batch_is_the_batch_of_its_structures():
    generator = np.random.default_rng(1)
    structures = [
        Structure.from_atoms(ball(size, generator), name=f"s{size}").replace(cell=4.0 * np.eye(3), pbc=size == 6)
        for size in (5, 6, 4, 7)
    ]
    cutoff = 3.0
    whole = Batch.from_structures(structures, cutoff=cutoff, dtype=torch.float64)
    potential = build(backbone="schnet", cutoff=cutoff, size="small").double().eval()
    expected = potential(whole)
    part = part_of(whole, 1, 3)
    direct = Batch.from_structures(structures[1:3], cutoff=cutoff, dtype=torch.float64)
    for name in ("source", "target", "image", "crossing"):
        assert torch.equal(getattr(part.neighbors, name), getattr(direct.neighbors, name))
    found = potential(part)
    torch.testing.assert_close(found.energy, expected.energy[1:3], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.forces, expected.forces[5:15], rtol=1e-9, atol=1e-11)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are Linux's")
def test_asking_for_more_memory_than_there_is_is_an_error_and_no_kill():
    half = int(0.6 * available_bytes())
    with bounded_memory(), pytest.raises(RuntimeError, match="allocate memory"):
        _ = [torch.empty(half, dtype=torch.uint8) for _ in range(2)]  # never touched, so never really taken
    assert torch.ones(2**22).sum() == 2**22
