"""Charges and dipoles are learnt where a file has them."""

import ase.io
import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from mcgm import Batch, build, load
from mcgm.cli import main
from mcgm.data import Dataset
from mcgm.errors import ConfigError
from mcgm.structure import Structure
from mcgm.testing import train_briefly
from mcgm.training.batches import Collate
from mcgm.training.config import LossConfig
from mcgm.training.evaluation import evaluate
from mcgm.training.loss import label_counts, loss_terms

SETTINGS = [
    "--model.cutoff=3.0",
    "--model.backbone_options={channels: 16, filters: 16, radial: 8, layers: 2}",
    "--training.tensorboard=false",
    "--training.epochs=30",
    "--training.learning_rate=5e-3",
    "--training.batch_structures=8",
    "--training.ema=null",
]


@pytest.fixture
def charged_file(tmp_path, labelled):
    """Charges by element, less what makes the structure neutral, and their dipoles."""
    frames = labelled(40)
    for atoms in frames:
        charges = np.select([atoms.numbers == 1, atoms.numbers == 8], [0.2, -0.4], 0.05)
        charges -= charges.mean()
        dipole = charges @ (atoms.positions - atoms.get_center_of_mass())
        atoms.calc = SinglePointCalculator(atoms, **atoms.calc.results, charges=charges, dipole=dipole)
    path = tmp_path / "charged.extxyz"
    ase.io.write(path, frames)
    return path


def train(path, output, *options):
    return main(["train", str(path), "-o", str(output), *SETTINGS, *options])


def test_charges_and_dipoles_are_learnt_from_labels(charged_file, tmp_path):
    dataset = Dataset.open(charged_file)
    errors = {}
    for weight in (0.0, 5.0):
        output = tmp_path / f"weight{weight:g}"
        loss = f"--training.loss={{charge_weight: {weight}, dipole_weight: {weight}}}"
        assert train(charged_file, output, "--model.long_range=charges", loss) == 0
        errors[weight] = evaluate(load(output / "model.safetensors"), dataset).metrics
    assert errors[5.0].charge_mae_me < 0.3 * errors[0.0].charge_mae_me
    assert errors[5.0].dipole_mae_meA < 0.3 * errors[0.0].dipole_mae_meA


def test_evaluate_shows_the_errors_of_charges(charged_file, tmp_path, capsys):
    assert train(charged_file, tmp_path / "run", "--model.long_range=mcgm_charges", "--training.epochs=1") == 0
    assert main(["evaluate", str(tmp_path / "run"), str(charged_file)]) == 0
    assert "dipole" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("block", "label", "message"),
    [
        ("mcgm", "charge", r"charge_weight is 1, but long_range='mcgm' predicts no charges"),
        ("charges", "dipole", r"dipole_weight is 1, but .*data.extxyz has no dipole"),
    ],
)
def test_charges_that_cannot_be_learnt_are_refused(data_file, tmp_path, capsys, block, label, message):
    loss = f"--training.loss={{{label}_weight: 1.0}}"
    assert train(data_file, tmp_path / "run", f"--model.long_range={block}", loss) == 2
    with pytest.raises(ConfigError, match=message):
        raise ConfigError(capsys.readouterr().err.replace("\n", " "))


def test_every_term_counts_what_it_sums(charged_file):
    options = {"channels": 8, "filters": 8, "radial": 8, "layers": 1}
    potential = build(long_range="charges", cutoff=3.0, backbone_options=options)
    dataset = Dataset.open(charged_file)
    structures = [dataset[k] for k in range(4)]
    structures[1] = structures[1].replace(charges=None)
    structures[2] = structures[2].replace(dipole=None, forces=None)
    data = Collate(potential, torch.float32)(structures)
    prediction = potential(data.batch)
    config = LossConfig(charge_weight=2.0, dipole_weight=3.0)
    pairs = {name: getattr(prediction, name) for name in ("charges", "dipole", "missing_charge")}
    terms = loss_terms(prediction.energy, prediction.forces, data, config, **pairs)
    sizes = [len(s) for s in structures]
    expected = [4, 3 * (sum(sizes) - sizes[2]), sum(sizes) - sizes[1], 9, 0, 4]
    assert terms.counts.tolist() == expected
    assert label_counts(data, config, forces=True, charges=True).tolist() == expected
    assert label_counts(data, LossConfig(), forces=True, charges=True).tolist() == [*expected[:2], 0, 0, 0, 4]
    charge = (prediction.charges.double() - data.charges)[data.has_charges].abs().sum()
    torch.testing.assert_close(terms.sums[2], charge)
    alone = LossConfig(total_charge_weight=0.0)
    assert label_counts(data, alone, forces=True, charges=True)[5] == 0
    assert loss_terms(prediction.energy, prediction.forces, data, alone, **pairs).counts[5] == 0


def ion(name, charge):
    atoms = molecule(name)
    return Structure(atoms.numbers, atoms.positions, charge=charge, energy=0.0)


def test_molecules_far_apart_keep_their_charges_once_atoms_know_the_total_by_themselves():
    options = {"channels": 16, "filters": 16, "radial": 8, "layers": 2}
    ions = [ion("CH3SH", 1.0), ion("HCOOH", -1.0), ion("H2O", 0.0)]
    positions = np.concatenate([ions[0].positions, ions[1].positions + np.array([50.0, 0, 0])])
    pair = Structure(np.concatenate([ions[0].numbers, ions[1].numbers]), positions)
    off = {}
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        potential = build(long_range="charges", cutoff=3.0, backbone_options=options)
        loss = LossConfig(total_charge_weight=weight)
        trained = train_briefly(potential, ions, steps=60, batch=3, learning_rate=1e-2, loss=loss)
        batch = Batch.from_structures([pair], cutoff=3.0)
        off[weight] = abs(float(trained(batch).charges[: len(ions[0])].sum()) - 1.0)
    assert off[1.0] < 0.1
    assert off[0.0] > 0.5


def test_dipoles_are_about_the_centre_of_mass_and_turn_with_an_ion():
    potential = build(long_range="charges", cutoff=3.0).double().eval()
    atoms = molecule("CH3OH")
    atoms.info["charge"] = 1.0
    turned = atoms.copy()
    turned.rotate(90, "z")
    turned.translate([3.0, -1.0, 7.0])
    first, second = potential(Batch.from_atoms([atoms, turned], cutoff=3.0, dtype=torch.float64)).dipole
    torch.testing.assert_close(second, torch.stack([-first[1], first[0], first[2]]))
