"""A file from the source that a model was trained on is read as its training data were: keys, units and charges."""

from __future__ import annotations

import json

import ase.io
import ase.units
import h5py
import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.build import molecule

from mcgm import load
from mcgm.cli import main
from mcgm.data import open_structures
from mcgm.data.declaration import as_trained
from mcgm.interfaces.ase import MCGMCalculator
from mcgm.prediction.stream import predictions

KEYS = {"energy": "E_kcal", "forces": "F_kcal", "energy_unit": "kcal/mol", "charge": "total_charge"}
KCAL = ase.units.kcal / ase.units.mol


def frames(count: int) -> list[Atoms]:
    """Ions and neutral molecules with energies in kcal/mol, and nothing under the usual names."""
    generator = np.random.default_rng(0)
    made = []
    for k in range(count):
        atoms = molecule("CH3OH")
        atoms.positions += generator.normal(scale=0.05, size=atoms.positions.shape)
        atoms.info |= {"E_kcal": -100.0 + generator.normal(), "total_charge": k % 2}
        atoms.arrays["F_kcal"] = generator.normal(size=atoms.positions.shape)
        made.append(atoms)
    return made


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder, data file, and the run of a model that was trained on it."""
    folder = tmp_path_factory.mktemp("declared")
    ase.io.write(folder / "data.extxyz", frames(16), format="extxyz")
    recipe = {
        "data": {"path": str(folder / "data.extxyz"), "keys": KEYS, "split": {"train": 8, "val": 4}},
        "model": {
            "backbone": "schnet",
            "long_range": "mcgm",
            "cutoff": 4.0,
            "backbone_options": {"channels": 8, "layers": 1},
        },
        "training": {"epochs": 1, "batch_structures": 4, "tensorboard": False, "accelerator": "cpu"},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["train", str(folder / "recipe.yaml"), "-o", str(folder / "run")]) == 0
    return folder


def test_errors_are_in_the_units_of_the_training(trained, capsys):
    capsys.readouterr()
    assert main(["evaluate", str(trained / "run"), "--part", "all", "--json"]) == 0
    own = json.loads(capsys.readouterr().out)
    assert main(["evaluate", str(trained / "run"), str(trained / "data.extxyz"), "--json"]) == 0
    other = json.loads(capsys.readouterr().out)
    for key in ("n_structures", "energy_mae_mev", "force_mae_mev_per_A"):
        assert other[key] == pytest.approx(own[key], rel=1e-9)
    assert own["force_mae_mev_per_A"] < 1000 * KCAL * 3  # eV/Å, not kcal/mol/Å


def test_predictions_know_the_charges(trained):
    output = trained / "predicted.extxyz"
    assert main(["predict", str(trained / "run"), str(trained / "data.extxyz"), "-o", str(output)]) == 0
    model = load(trained / "run" / "model.safetensors")
    recipe = json.loads((trained / "run" / "recipe.json").read_text())
    given = list(open_structures(trained / "data.extxyz", as_trained(trained / "data.extxyz", recipe)))
    assert [structure.charge for structure in given[:2]] == [0.0, 1.0]
    expected = [atoms.get_potential_energy() for atoms in predictions(model, given)]
    found = [atoms.get_potential_energy() for atoms in ase.io.read(output, ":")]
    assert found == pytest.approx(expected, abs=1e-5)
    blind = [atoms.get_potential_energy() for atoms in predictions(model, open_structures(trained / "data.extxyz"))]
    assert np.abs(np.subtract(blind, found)[1::2]).max() > 1e-3  # ions taken for neutral molecules


def first_energy(path) -> float:
    return ase.io.read(path, 0).get_potential_energy()


def test_dynamics_and_relaxation_know_the_charges(trained):
    model, ion = load(trained / "run" / "model.safetensors").double(), frames(2)[1]
    alone = trained / "ion.extxyz"
    ase.io.write(alone, ion, format="extxyz")
    assert main(["md", str(trained / "run"), str(alone), "-o", str(trained / "md"), "--steps", "1"]) == 0
    relaxed = trained / "relaxed.extxyz"
    assert main(["relax", str(trained / "run"), str(alone), "-o", str(relaxed), "--steps", "1", "--fmax", "1000"]) == 0
    charges = [as_trained(alone, {"data": {"path": "x.extxyz", "keys": KEYS}}), None]
    charged, blind = (next(predictions(model, open_structures(alone, each))).get_potential_energy() for each in charges)
    assert abs(charged - blind) > 1e-3
    for path in (trained / "md" / "trajectory.extxyz", relaxed):
        assert first_energy(path) == pytest.approx(charged, abs=1e-5)
        assert ase.io.read(path, 0).info["charge"] == 1.0


def test_a_file_without_these_keys_is_refused_with_the_way_out(trained, capsys):
    plain = trained / "plain.extxyz"
    ase.io.write(plain, molecule("CH3OH"), format="extxyz")
    for command in (
        ["evaluate", str(trained / "run"), str(plain)],
        ["predict", str(trained / "run"), str(plain), "-o", str(trained / "p.npz")],
        ["explore", str(trained / "run"), str(plain), "-o", str(trained / "p.html")],
        ["md", str(trained / "run"), str(plain), "-o", str(trained / "plain"), "--steps", "1"],
        ["relax", str(trained / "run"), str(plain), "-o", str(trained / "plain-relaxed.extxyz")],
        ["check", str(trained / "run"), str(plain), "--quick", "--rows", "4"],
    ):
        assert main(command) == 2
        message = capsys.readouterr().err
        assert "as the data of the training were" in message
        assert "--labels" in message
    for name in ("p.npz", "p.html", "plain", "plain-relaxed.extxyz"):
        assert not (trained / name).exists()
    assert main(["predict", str(trained / "run"), str(plain), "-o", str(trained / "p.npz"), "--labels", "ase"]) == 0


def test_files_of_another_format_and_trainings_without_declaration_are_read_by_the_formats_own_keys(tmp_path):
    recipe = {"data": {"path": "gone.extxyz", "keys": KEYS, "labels": None}}
    path = tmp_path / "x.xyz"
    path.write_text("1\n\nH 0 0 0\n")
    declared = as_trained(path, recipe)
    assert declared is not None
    assert declared.energy == "E_kcal"
    assert as_trained(tmp_path / "x.npz", recipe) is None
    assert as_trained(path, {"data": {"path": "gone.extxyz", "keys": None, "labels": None}}) is None
    assert as_trained(path, None) is None


def test_the_calculator_finds_the_charge_where_the_training_did(trained):
    ion = frames(2)[1]
    calculator = MCGMCalculator(trained / "run" / "model.safetensors", dtype=torch.float64)
    ion.calc = calculator
    charged = ion.get_potential_energy()
    del ion.info["total_charge"]
    blind = ion.get_potential_energy()
    assert abs(charged - blind) > 1e-3  # and it noticed that the charge changed
    ion.info |= {"charge": 1, "total_charge": 0}  # its own name comes first
    assert ion.get_potential_energy() == pytest.approx(charged, abs=1e-9)
    without_a_file = MCGMCalculator(load(trained / "run" / "model.safetensors"), dtype=torch.float64)
    ion.info = {"total_charge": 1}
    ion.calc = without_a_file
    assert ion.get_potential_energy() == pytest.approx(blind, abs=1e-9)


def test_the_calculator_adds_up_a_charge_as_the_training_did(trained):
    model = load(trained / "run" / "model.safetensors")
    recipe = {"data": {"path": "dimers.extxyz", "keys": {"charge": "chargeA + chargeB"}}}
    model.save(trained / "dimers.safetensors", extra={"recipe": recipe})
    ion = molecule("CH3OH")
    ion.calc = MCGMCalculator(trained / "dimers.safetensors", dtype=torch.float64)
    ion.info = {"chargeA": -1, "chargeB": -1}
    summed = ion.get_potential_energy()
    ion.info = {"charge": -2}
    assert ion.get_potential_energy() == pytest.approx(summed, abs=1e-9)
    ion.info = {"chargeA": -1}
    assert abs(ion.get_potential_energy() - summed) > 1e-3


def test_predictions_ask_for_no_labels_that_only_a_format_expects(trained, tmp_path):
    with h5py.File(tmp_path / "new.hdf5", "w") as file:  # in AQM's layout, not calculated yet
        for k, atoms in enumerate(frames(2)):
            group = file.create_group(f"m{k}/c0")
            group["atNUM"], group["atXYZ"] = atoms.numbers, atoms.positions
    output = tmp_path / "out.extxyz"
    assert main(["predict", str(trained / "run"), str(tmp_path / "new.hdf5"), "-o", str(output)]) == 0
    assert len(ase.io.read(output, ":")) == 2
