"""A small comparison with figures made up so that every number of the report is known."""

import shutil

import numpy as np
import pytest

from mcgm.report import (
    ClusteredMolecule,
    ClusterLevel,
    CurvePoint,
    Predictions,
    RunResult,
    report_command,
    save_molecules,
)

LABELS = {"schnet": "SchNet", "schnet_mcgm": "SchNet + MCGM"}
SIZES = np.array([2, 3, 5, 8, 8, 12])


def make_predictions(error: float, seed: int, with_forces: bool = True) -> Predictions:
    rng = np.random.default_rng(seed)
    energy = rng.normal(size=len(SIZES))
    forces = rng.normal(size=(SIZES.sum(), 3))
    signs = np.where(np.arange(len(SIZES)) % 2, 1, -1)
    return Predictions(
        names=np.array([f"molecule {k}" for k in range(len(SIZES))]),
        n_atoms=SIZES,
        energy=energy,
        energy_predicted=energy + error * signs,
        forces=forces if with_forces else None,
        forces_predicted=forces + error / 4 if with_forces else None,
    )


def make_result(variant: str, seed: int, tested: Predictions, **changes) -> RunResult:
    error = tested.metrics.energy_mae_mev
    force = tested.metrics.force_mae_mev_per_A
    curves = [CurvePoint(k, 10 * k, float(k), 1e-3, 0.1, error * (5 - k), force) for k in (1, 2, 3, 4)]
    fields = {
        "label": LABELS.get(variant, variant),
        "backbone": "schnet",
        "long_range": "none" if variant == "schnet" else "mcgm",
        "dataset": "sample",
        "parameters": 12_345,
        "metrics": tested.metrics,
        "seconds_per_epoch": 1.5,
        "inference_ms_per_molecule": 0.25,
        "reference": None if variant == "schnet" else "schnet",
        "curves": curves,
        "command": "mcgm compare sample.yaml",
        "date": "2026-01-02T03:04:05+00:00",
        "machine": {"cpu": "a <fast> one", "cores": 2},
        "config": {"epochs": 4},
    }
    return RunResult(variant=variant, seed=seed, **(fields | changes))


def write_cell(folder, variant: str, seed: int, error: float, *, with_forces=True, molecule="water", **changes) -> None:
    stem = f"{variant}-{seed}"
    predictions = make_predictions(error, seed, with_forces)
    predictions.save(folder / f"{stem}.npz")
    levels = (ClusterLevel((0, 1, 1), (1.0, 1.0, 1.0), ("O", "H")), ClusterLevel((0, 0, 1), (0.9, 0.6, 0.7)))
    positions = ((0.0, 0.0, 0.0), (0.96, 0.0, 0.0), (-0.24, 0.93, 0.0))
    molecules = [ClusteredMolecule(molecule, (8, 1, 1), positions, () if variant == "schnet" else levels)]
    save_molecules(folder / f"{stem}.clusters.json", molecules)
    files = {"predictions": f"{stem}.npz", "clusters": f"{stem}.clusters.json"}
    make_result(variant, seed, predictions, **(files | changes)).save(folder / f"{stem}.json")


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """Two variants with two seeds: energy errors 200 and 220 meV against 100 and 121 meV; never to be changed."""
    folder = tmp_path_factory.mktemp("comparison") / "cells"
    for seed, local, clustered in ((0, 0.200, 0.100), (1, 0.220, 0.121)):
        write_cell(folder, "schnet", seed, local)
        write_cell(folder, "schnet_mcgm", seed, clustered)
    return folder


@pytest.fixture
def comparison(written, tmp_path):
    """A copy of the comparison that a test may change."""
    return shutil.copytree(written, tmp_path / "cells")


@pytest.fixture(scope="session")
def report(written):
    """The page of the comparison, written once."""
    page = written.parent / "report.html"
    report_command(written, page)
    return page


@pytest.fixture
def cell_writer():
    return write_cell


@pytest.fixture
def result_maker():
    """Results without files: `result_maker(variant, seed, error in eV)`."""

    def make(variant, seed, error, *, with_forces=True, **changes):
        return make_result(variant, seed, make_predictions(error, seed, with_forces), **changes)

    return make
