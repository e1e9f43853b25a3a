"""Stress is learnt where a file has it, and shown wherever errors are."""

import json

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mcgm import build, load
from mcgm.cli import main
from mcgm.data import Dataset
from mcgm.structure import Structure
from mcgm.testing import train_briefly
from mcgm.training.batches import Collate
from mcgm.training.config import LossConfig
from mcgm.training.evaluation import evaluate
from mcgm.training.loss import label_counts, loss_terms
from mcgm.training.parts import Portion

SMALL = {"channels": 8, "filters": 8, "radial": 8, "layers": 2}
SETTINGS = [
    "--model.cutoff=4.0",
    f"--model.backbone_options={json.dumps(SMALL)}",
    "--training.tensorboard=false",
    "--training.epochs=1",
    "--training.learning_rate=2e-2",
    "--training.batch_structures=3",
    "--training.ema=null",
    "--training.schedule.kind=constant",
    "--training.schedule.warmup=0.0",
]


def strained(count, seed=0):
    """Copper by effective-medium theory, two atoms in skewed cells."""
    chance = np.random.default_rng(seed)
    frames = []
    for _ in range(count):
        atoms = bulk("Cu", "fcc", a=3.6) * (2, 1, 1)
        atoms.set_cell(atoms.cell @ (np.eye(3) + chance.normal(scale=0.04, size=(3, 3))), scale_atoms=True)
        atoms.rattle(0.05, rng=chance)
        atoms.calc = EMT()
        results = {name: atoms.calc.get_property(name, atoms) for name in ("energy", "forces", "stress")}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


@pytest.fixture(scope="module")
def crystals(tmp_path_factory):
    path = tmp_path_factory.mktemp("stress") / "crystals.extxyz"
    ase.io.write(path, strained(10))
    return path


def train(path, output, *options):
    return main(["train", str(path), "-o", str(output), *SETTINGS, *options])


def test_stress_is_learnt_from_labels():
    torch.manual_seed(0)
    dataset = Dataset.from_structures([Structure.from_atoms(atoms) for atoms in strained(6)])
    fresh = build(cutoff=4.0, backbone_options=SMALL)
    loss = LossConfig(energy_weight=0.0, force_weight=0.0, stress_weight=100.0)
    trained = train_briefly(fresh, dataset, steps=40, batch=2, learning_rate=5e-3, loss=loss)
    before, after = (evaluate(item, dataset).metrics.stress_mae_mev_per_A3 for item in (fresh, trained))
    assert after < 0.5 * before


def test_a_weight_for_stress_changes_what_is_trained_also_where_there_are_no_forces(tmp_path):
    frames = strained(10)
    for atoms in frames:
        del atoms.calc.results["forces"]
    path = tmp_path / "no_forces.extxyz"
    ase.io.write(path, frames)
    for weight in (0, 100):
        output = tmp_path / f"weight{weight}"
        assert train(path, output, f"--training.loss={{energy_weight: 0.01, stress_weight: {weight}}}") == 0
    first, second = (load(tmp_path / f"weight{weight}/model.safetensors") for weight in (0, 100))
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert not all(torch.equal(*pair) for pair in pairs)
    assert evaluate(second, Dataset.open(path)).metrics.force_mae_mev_per_A is None
    rows = (output / "metrics.csv").read_text().splitlines()
    assert float(rows[-1].split(",")[rows[0].split(",").index("val_stress_mae_mev_per_A3")]) > 0


def test_evaluate_shows_the_error_of_stress(crystals, tmp_path, capsys):
    assert train(crystals, tmp_path / "run") == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), str(crystals), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["stress_mae_mev_per_A3"]
    dataset, potential = Dataset.open(crystals), load(tmp_path / "run/model.safetensors")
    data = Collate(potential, potential.dtype)(list(dataset))
    expected = 1000 * (potential(data.batch).stress.double() - data.stress).abs().mean()
    assert found == pytest.approx(float(expected), rel=1e-5)
    assert main(["evaluate", str(tmp_path / "run"), str(crystals)]) == 0
    assert "stress" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "run"), str(crystals), "--no-forces", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stress_mae_mev_per_A3"] is None


def test_stress_that_cannot_be_learnt_is_refused(data_file, tmp_path, capsys):
    assert train(data_file, tmp_path / "run", "--training.loss={stress_weight: 1.0}") == 2
    assert "stress_weight is 1, but" in capsys.readouterr().err.replace("\n", " ")


def labelled_batch(dtype=torch.float64):
    """Two crystals with stress, one without, and an open molecule in a box whose stress does not count."""
    first, second, third = (Structure.from_atoms(atoms) for atoms in strained(3))
    water = molecule("H2O", vacuum=5.0)
    box = Structure.from_atoms(water).replace(energy=0.0, stress=np.ones((3, 3)))
    torch.manual_seed(0)
    potential = build(cutoff=4.0, backbone_options=SMALL).to(dtype)
    return potential, Collate(potential, dtype)([first, second.replace(stress=None), third, box])


def test_the_term_counts_what_it_sums():
    potential, data = labelled_batch()
    prediction = potential(data.batch)
    config = LossConfig(stress_weight=7.0)
    terms = loss_terms(prediction.energy, prediction.forces, data, config, stress=prediction.stress)
    assert terms.counts[4] == label_counts(data, config, forces=True, charges=False)[4] == 18
    assert label_counts(data, LossConfig(), forces=True, charges=False)[4] == 0
    expected = (prediction.stress - data.stress)[[0, 2]].abs().sum()
    torch.testing.assert_close(terms.sums[4], expected)
    without = loss_terms(prediction.energy, prediction.forces, data, config)
    torch.testing.assert_close(terms.mean(config) - without.mean(config), 7 * expected / 18)


def test_parts_of_a_batch_add_up_to_the_whole():
    potential, data = labelled_batch()
    config = LossConfig(stress_weight=1.0)

    def terms(portion):
        found = potential(portion.data.batch)
        return loss_terms(found.energy, found.forces, portion.data, config, stress=found.stress)

    whole, *parts = (terms(Portion(data).part(*ends)) for ends in ((0, 4), (0, 1), (1, 3), (3, 4)))
    torch.testing.assert_close(sum(part.sums for part in parts), whole.sums)
    torch.testing.assert_close(sum(part.counts for part in parts), whole.counts)


def test_the_gradient_of_the_term_is_its_slope_by_the_weights():
    potential, data = labelled_batch()
    potential.train()
    config = LossConfig(kind="l2", energy_weight=0.0, force_weight=0.0, stress_weight=1e4)
    weights = potential.backbone.get_parameter(max(dict(potential.backbone.named_parameters())))

    def loss():
        found = potential(data.batch)
        return loss_terms(found.energy, found.forces, data, config, stress=found.stress).mean(config)

    (gradient,) = torch.autograd.grad(loss(), weights)
    direction = gradient / gradient.norm()
    values = []
    for step in (1e-4, -1e-4):
        with torch.no_grad():
            weights.add_(step * direction)
        values.append(float(loss().detach()))
        with torch.no_grad():
            weights.sub_(step * direction)
    assert float(gradient.norm()) > 1e-6
    assert (values[0] - values[1]) / 2e-4 == pytest.approx(float(gradient.norm()), rel=1e-5)
