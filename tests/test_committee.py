"""Several networks as one potential: mean, spread, domain, in Python and in every command."""

import csv
import json
import logging
from types import SimpleNamespace

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from mcgm import Batch, Committee, build, load
from mcgm.cli import main
from mcgm.committee import largest_spread
from mcgm.data import open_structures
from mcgm.domain import Domain
from mcgm.errors import ConfigError, StructureError
from mcgm.interfaces.ase import MCGMCalculator
from mcgm.interfaces.torch_sim import MCGMModel
from mcgm.long_range import BLOCKS
from mcgm.report.predictions import Predictions
from mcgm.training.spread import SpreadQuality, Spreads, rank_correlation

SMALL = {"channels": 8, "filters": 8, "radial": 6, "layers": 2}
CUTOFF = 3.5


class Elements:
    """References that differ from member to member."""

    def __init__(self, seed):
        self.energies, self.intercept = -10.0 * np.arange(119.0) + 0.01 * seed, 0.1 * seed


def member(seed, *, long_range="mcgm", dtype=torch.float64, **options):
    torch.manual_seed(seed)
    settings = {"backbone_options": SMALL, "cutoff": CUTOFF, "elements": [1, 6, 7, 8, 14], "scale": 0.5}
    settings |= {"references": Elements(seed)}
    return build(long_range=long_range, **(settings | options)).to(dtype).eval()


def committee(count=3, domain=None, **options):
    return Committee([member(k, **options) for k in range(count)], domain).eval()


def batch_of(*atoms, dtype=torch.float64):
    return Batch.from_atoms(atoms, cutoff=CUTOFF, dtype=dtype)


@pytest.fixture(scope="module")
def molecules():
    return [molecule("CH3OH"), molecule("H2O"), bulk("Si", cubic=True)]


@pytest.mark.parametrize("long_range", BLOCKS)
def test_mean_and_spread_are_those_of_the_members_alone(long_range, molecules):
    whole = committee(long_range=long_range)
    batch = batch_of(*molecules)
    found = whole(batch)
    alone = [one(batch) for one in whole.members]
    for name in ("energy", "forces", "stress", "atom_energy", "cluster_energy", "electrostatic_energy", "charges"):
        parts = [getattr(prediction, name) for prediction in alone]
        if parts[0] is None:
            assert getattr(found, name) is None
        else:
            torch.testing.assert_close(getattr(found, name), torch.stack(parts).mean(0), rtol=1e-13, atol=1e-13)
    for name in ("energy", "forces"):
        values = np.stack([getattr(prediction, name).numpy() for prediction in alone])
        np.testing.assert_allclose(getattr(found, f"{name}_spread").numpy(), values.std(0, ddof=1), atol=1e-12)
    assert (found.energy_spread > 0).all()
    assert found.out_of_domain is None
    assert whole.is_smooth == whole.members[0].is_smooth
    assert whole.has_charges == whole.members[0].has_charges


def test_index_tensors_are_made_once(molecules, monkeypatch):
    whole, calls = committee(4), []
    for one in whole.members:
        for half in (one.backbone, one.long_range):
            monkeypatch.setattr(half, "index", lambda batch, index=half.index: (calls.append(1), index(batch))[1])
    whole(batch_of(*molecules))
    assert len(calls) == 2


def test_energies_alone_have_a_spread(molecules):
    whole = committee(2, Domain(energy=1e-9, forces=0.0, structures=5))
    found = whole(batch_of(*molecules), forces=False)
    assert found.forces is None
    assert found.forces_spread is None
    assert found.energy_spread.shape == (3,)
    assert found.out_of_domain.all()


def test_references_are_the_mean_ones(molecules):
    whole = committee(3)
    numbers = torch.tensor([1, 6, 8])
    expected = torch.stack([one.references(numbers) for one in whole.members]).mean(0)
    torch.testing.assert_close(whole.references(numbers), expected)
    assert float(whole.references.intercept) == pytest.approx(0.1)


def test_forces_of_the_mean_can_be_differentiated_again(molecules):
    whole, batch = committee(2), batch_of(molecules[0])
    positions = batch.positions.clone().requires_grad_()
    forces = whole(batch.replace(positions=positions)).forces
    (second,) = torch.autograd.grad(forces[0, 0], positions)
    alone = []
    for one in whole.members:
        (own,) = torch.autograd.grad(one(batch.replace(positions=positions)).forces[0, 0], positions)
        alone.append(own)
    torch.testing.assert_close(second, torch.stack(alone).mean(0))
    assert second.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_file_has_all_members_and_the_domain(dtype, molecules, tmp_path):
    whole = committee(3, Domain(0.01, 0.2, 40), dtype=dtype)
    whole.save(tmp_path / "model.safetensors", extra={"note": "three"})
    again = load(tmp_path / "model.safetensors")
    assert isinstance(again, Committee)
    assert (len(again.members), again.domain, again.dtype) == (3, whole.domain, dtype)
    before, after = (item(batch_of(*molecules, dtype=dtype)) for item in (whole, again))
    for name in ("energy", "forces", "energy_spread", "forces_spread", "out_of_domain"):
        assert torch.equal(getattr(before, name), getattr(after, name)), name
    again.save(tmp_path / "again.safetensors", extra={"note": "three"})
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([], "a committee of 1; required: at least 2"),
        ([{"cutoff": 3.0}], "member 1 has another backbone"),
        ([{}, {"long_range": "none"}], "member 2 has another long-range block"),
        ([{"elements": [1, 6]}], "member 1 has another elements"),
        ([{"dtype": torch.float32}], "member 1 has another precision"),
    ],
)
def test_members_must_be_alike(others, message):
    with pytest.raises(ConfigError, match=message):
        Committee([member(0), *(member(1, **options) for options in others)])


def test_frozen_clusters_are_those_of_each_member():
    """Every member keeps its own labels: the mean energy is then smooth along a path."""
    whole = committee(2, long_range="mcgm_paper")
    atoms, steps = molecule("CH3CH2OH"), 15
    with pytest.raises(ConfigError, match="frozen"):
        MCGMCalculator(whole)
    atoms.calc = MCGMCalculator(whole, clusters="frozen")
    direction = np.random.default_rng(0).normal(size=atoms.positions.shape)
    start, energies, slopes = atoms.positions.copy(), [], []
    for step in range(steps):
        atoms.positions = start + 2e-3 * step * direction
        energies.append(atoms.get_potential_energy())
        slopes.append(-(atoms.get_forces() * direction).sum())
    change, work = np.diff(energies), 2e-3 * (np.array(slopes)[1:] + np.array(slopes)[:-1]) / 2
    np.testing.assert_allclose(change, work, atol=1e-6)
    single = [MCGMCalculator(one, clusters="frozen") for one in whole.members]
    first = molecule("CH3CH2OH")
    alone = np.mean([calculator.get_potential_energy(first) for calculator in single])
    assert energies[0] == pytest.approx(alone, abs=1e-10)


def test_a_structure_is_out_of_domain_where_either_spread_is_larger_than_usual(molecules):
    found = committee(3)(batch_of(*molecules[:2]))
    energy = found.energy_spread / torch.tensor([6.0, 3.0])
    forces = largest_spread(found.forces_spread, torch.tensor([0] * 6 + [1] * 3), 2)
    norms = found.forces_spread.norm(dim=1)
    torch.testing.assert_close(forces, torch.stack([norms[:6].max(), norms[6:].max()]))
    limits = {"energy": float(energy.max()) + 1, "forces": float(forces.max()) + 1}
    low = {"energy": float(energy.mean()), "forces": float(forces.mean())}
    for name, values in (("energy", energy), ("forces", forces)):
        domain = Domain(structures=9, **(limits | {name: low[name]}))
        outside = committee(3, domain)(batch_of(*molecules[:2])).out_of_domain
        assert outside.tolist() == (values > low[name]).tolist()
        assert outside.sum() == 1
    assert not committee(3, Domain(structures=9, **limits))(batch_of(*molecules[:2])).out_of_domain.any()


def test_a_domain_leaves_one_validation_structure_in_a_hundred_outside():
    chance = np.random.default_rng(0)
    energy, forces = chance.exponential(size=400), chance.exponential(size=400)
    domain = Domain.of(energy, forces)
    assert (energy > domain.energy).mean() == pytest.approx(0.01, abs=0.003)
    assert (forces > domain.forces).mean() == pytest.approx(0.01, abs=0.003)
    assert "99 % of 400 validation structures" in str(domain)
    atoms = np.array([2, 3])
    spreads = Spreads(np.array([0.2, 0.6]), np.array([0.1, 0.4, 0.3, 0.2, 0.5]), None)
    found, expected = spreads.domain(atoms), Domain.of(np.array([0.1, 0.2]), np.array([0.4, 0.5]))
    assert (found.energy, found.forces) == pytest.approx((expected.energy, expected.forces))


def labelled(error, spread, seed=0):
    """A hundred structures of two atoms whose errors are as given, with predictions of this spread."""
    chance = np.random.default_rng(seed)
    count = len(spread)
    noise = chance.normal(size=(2 * count, 3))
    per_atom = np.repeat(spread, 2)
    predictions = Predictions(
        names=np.array([str(k) for k in range(count)]),
        n_atoms=np.full(count, 2),
        energy=np.zeros(count),
        energy_predicted=2 * error * chance.normal(size=count),
        forces=np.zeros((2 * count, 3)),
        forces_predicted=np.repeat(error, 2)[:, None] * noise,
    )
    return predictions, Spreads(2 * spread, np.sqrt(3) * per_atom, spread > 1)


def test_the_quality_of_a_spread_is_told():
    size = np.random.default_rng(1).uniform(0.1, 2.0, 2000)
    right = SpreadQuality.of(*labelled(size, size))
    assert right.energy_error_per_spread == pytest.approx(1, abs=0.05)
    assert right.force_error_per_spread == pytest.approx(1, abs=0.05)
    assert right.energy_correlation > 0.4
    assert right.force_correlation > 0.7
    assert right.energy_spread_mev_per_atom == pytest.approx(1000 * size.mean())
    assert right.out_of_domain == (size > 1).sum()
    sure = SpreadQuality.of(*labelled(3 * size, size))
    assert sure.energy_error_per_spread == pytest.approx(3, abs=0.2)
    blind = SpreadQuality.of(*labelled(np.ones(2000), size))
    assert abs(blind.energy_correlation) < 0.1
    assert rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([1.0, 10.0, 100.0])) == pytest.approx(1)
    assert rank_correlation(np.ones(5), np.arange(5.0)) is None
    assert rank_correlation(np.ones(2), np.arange(2.0)) is None


NARROW = Domain(energy=1e-6, forces=1e-6, structures=20)
WIDE = Domain(energy=1e6, forces=1e6, structures=20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A committee that finds everything unlike its data, one that finds nothing so, one of its members, structures."""
    folder = tmp_path_factory.mktemp("committee")
    for name, domain in (("narrow", NARROW), ("wide", WIDE)):
        committee(3, domain, dtype=torch.float32).save(folder / f"{name}.safetensors")
    member(0, dtype=torch.float32).save(folder / "single.safetensors")
    frames = []
    for k in range(9):
        atoms = molecule(("CH3OH", "H2O", "CH4")[k % 3])
        atoms.rattle(0.05, seed=k)
        atoms.calc = SinglePointCalculator(atoms, energy=-10.0 * atoms.numbers.sum(), forces=atoms.positions)
        frames.append(atoms)
    ase.io.write(folder / "in.extxyz", frames)
    ase.io.write(folder / "one.extxyz", frames[0])
    return folder


def test_the_calculator_has_the_spread_and_warns_once(folder, caplog):
    frames = ase.io.read(folder / "in.extxyz", ":")
    whole = load(folder / "narrow.safetensors")
    calculator = MCGMCalculator(folder / "narrow.safetensors")
    with caplog.at_level(logging.WARNING, logger="mcgm"):
        for atoms in frames[:3]:
            expected = whole(batch_of(atoms, dtype=torch.float32))
            atoms.calc = calculator
            assert atoms.get_potential_energy() == pytest.approx(float(expected.energy[0]), abs=1e-5)
            results = calculator.results
            assert results["energy_spread"] == pytest.approx(float(expected.energy_spread[0]), abs=1e-5)
            np.testing.assert_allclose(results["forces_spread"], expected.forces_spread.numpy(), atol=1e-5)
            assert results["out_of_domain"] is True
    assert len(caplog.records) == 1
    assert "out of domain: spread above 0.001 meV/atom" in caplog.text
    calm = MCGMCalculator(folder / "wide.safetensors")
    assert calm.get_potential_energy(frames[0]) == pytest.approx(float(frames[0].get_potential_energy()), abs=1e3)
    assert calm.results["out_of_domain"] is False


def test_torch_sim_gets_the_spread(folder):
    atoms = molecule("H2O")
    state = SimpleNamespace(
        positions=torch.tensor(atoms.positions),
        atomic_numbers=torch.tensor(atoms.numbers),
        cell=torch.zeros(1, 3, 3, dtype=torch.float64),
        pbc=False,
        system_idx=torch.zeros(3, dtype=torch.int64),
    )
    found = MCGMModel(folder / "narrow.safetensors")(state)
    expected = load(folder / "narrow.safetensors")(batch_of(atoms, dtype=torch.float32))
    torch.testing.assert_close(found["energy_spread"], expected.energy_spread)
    torch.testing.assert_close(found["forces_spread"], expected.forces_spread.double())
    assert found["out_of_domain"].tolist() == [True]


@pytest.mark.parametrize("suffix", [".extxyz", ".npz"])
def test_predict_writes_the_spread_and_tells_what_is_out_of_domain(folder, tmp_path, suffix, capsys):
    words = [str(folder / "in.extxyz"), "-o", str(tmp_path / f"out{suffix}")]
    assert main(["predict", str(folder / "narrow.safetensors"), *words]) == 0
    assert "9 of 9 structures are out of domain: spread above" in capsys.readouterr().err
    whole = load(folder / "narrow.safetensors")
    expected = [whole(batch_of(atoms, dtype=torch.float32)) for atoms in ase.io.read(folder / "in.extxyz", ":")]
    if suffix == ".npz":
        with np.load(tmp_path / "out.npz") as arrays:
            energy, forces, outside = (arrays[name] for name in ("energy_spread", "forces_spread", "out_of_domain"))
    else:
        frames = ase.io.read(tmp_path / "out.extxyz", ":")
        energy = [atoms.info["energy_spread"] for atoms in frames]
        forces = np.concatenate([atoms.arrays["forces_spread"] for atoms in frames])
        outside = [atoms.info["out_of_domain"] for atoms in frames]
    np.testing.assert_allclose(energy, [float(item.energy_spread[0]) for item in expected], atol=1e-4)
    np.testing.assert_allclose(forces, np.concatenate([item.forces_spread.numpy() for item in expected]), atol=1e-5)
    assert np.array_equal(outside, [True] * 9)
    assert main(["predict", str(folder / "single.safetensors"), *words]) == 0
    assert "out of domain" not in capsys.readouterr().err
    assert len(list(open_structures(tmp_path / f"out{suffix}"))) == 9
    if suffix == ".npz":
        with np.load(tmp_path / "out.npz") as arrays:
            assert not {"energy_spread", "forces_spread", "out_of_domain"} & set(arrays.files)


def test_evaluate_compares_error_and_spread(folder, capsys):
    words = ["evaluate", str(folder / "narrow.safetensors"), str(folder / "in.extxyz")]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["spread"]["out_of_domain"] == 9
    assert -1 <= found["spread"]["force_correlation"] <= 1
    assert found["spread"]["energy_error_per_spread"] > 0
    assert found["n_structures"] == 9
    assert main(words) == 0
    assert "error/spread" in capsys.readouterr().out
    assert main(["evaluate", str(folder / "single.safetensors"), str(folder / "in.extxyz"), "--json"]) == 0
    assert "spread" not in json.loads(capsys.readouterr().out)


@pytest.fixture
def no_figure(monkeypatch):
    """Drawing takes longer than the dynamics."""
    monkeypatch.setattr("mcgm.dynamics.summary._draw", lambda *_: None)


def md(folder, output, *words, model="narrow"):
    names = (folder / f"{model}.safetensors", folder / "one.extxyz", "-o", output, "--temperature", 50, *words)
    return main(["md", *map(str, names)])


@pytest.mark.usefixtures("no_figure")
def test_dynamics_logs_the_spread_and_can_be_resumed(folder, tmp_path, capsys, caplog):
    assert md(folder, tmp_path / "whole", "--steps", 4, "--every", 2) == 0
    assert "3 of 3 frames are out of domain" in capsys.readouterr().out
    assert "is out of domain" in caplog.text
    with (tmp_path / "whole/log.csv").open() as file:
        rows = list(csv.DictReader(file))
    frames = ase.io.read(tmp_path / "whole/trajectory.extxyz", ":")
    for row, atoms in zip(rows, frames, strict=True):
        assert float(row["energy_spread_eV"]) == pytest.approx(atoms.info["energy_spread"])
        largest = np.linalg.norm(atoms.arrays["forces_spread"], axis=1).max()
        assert float(row["force_spread_eV_per_A"]) == pytest.approx(largest, rel=1e-5)
    assert md(folder, tmp_path / "parts", "--steps", 2, "--every", 2) == 0
    assert md(folder, tmp_path / "parts", "--steps", 4, "--every", 2, "--resume") == 0
    for name in ("trajectory.extxyz", "log.csv", "state.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


@pytest.mark.usefixtures("no_figure")
def test_dynamics_stops_where_the_spread_is_too_large(folder, tmp_path, capsys):
    assert md(folder, tmp_path / "run", "--steps", 1) == 0
    with (tmp_path / "run/log.csv").open() as file:
        largest = max(float(row["force_spread_eV_per_A"]) for row in csv.DictReader(file))
    assert md(folder, tmp_path / "calm", "--steps", 1, "--stop-at-spread", 2 * largest, model="wide") == 0
    capsys.readouterr()
    assert md(folder, tmp_path / "stopped", "--steps", 4, "--every", 3, "--stop-at-spread", largest / 100) == 1
    assert "stopped at step 0 of 4" in capsys.readouterr().err
    assert len(ase.io.read(tmp_path / "stopped/trajectory.extxyz", ":")) == 1
    assert md(folder, tmp_path / "single", "--steps", 4, "--stop-at-spread", 1.0, model="single") == 2
    assert "needs a committee" in capsys.readouterr().err
    for limit in ("nan", "inf", 0, -1):
        assert md(folder, tmp_path / "wrong", "--steps", 4, "--stop-at-spread", limit) == 2
        assert f"--stop-at-spread {float(limit)}: required: a finite spread" in capsys.readouterr().err


@pytest.mark.usefixtures("no_figure")
def test_dynamics_that_were_stopped_go_on_to_the_frames_of_others(folder, tmp_path):
    words = ("--every", 3, "--thermostat", "langevin")
    assert md(folder, tmp_path / "whole", *words, "--steps", 9) == 0
    assert md(folder, tmp_path / "stopped", *words, "--steps", 4) == 0
    for _ in range(2):
        assert md(folder, tmp_path / "stopped", *words, "--steps", 9, "--stop-at-spread", 1e-6, "--resume") == 1
        frames = ase.io.read(tmp_path / "stopped/trajectory.extxyz", ":")
        assert [frame.info["time_fs"] for frame in frames] == [0.0, 1.5, 2.0]
    assert md(folder, tmp_path / "stopped", *words, "--steps", 9, "--resume") == 0
    for name in ("trajectory.extxyz", "log.csv", "state.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_relax_check_and_explore_take_a_committee(folder, tmp_path, capsys):
    words = [str(folder / "narrow.safetensors"), str(folder / "one.extxyz")]
    assert main(["relax", *words, "-o", str(tmp_path / "relaxed.extxyz"), "--steps", "3", "--fmax", "100"]) == 0
    relaxed = ase.io.read(tmp_path / "relaxed.extxyz")
    assert relaxed.info["energy_spread"] > 0
    assert relaxed.arrays["forces_spread"].shape == relaxed.positions.shape
    assert main(["check", *words, "--quick", "--rows", "5", "12", "18"]) == 0
    assert main(["explore", *words, "-o", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").stat().st_size > 1000


def test_a_committee_of_committees_is_one_of_all_members(tmp_path):
    members = []
    for seed in range(4):
        torch.manual_seed(seed)
        members.append(build(long_range="none", cutoff=4.0, backbone_options={"channels": 8, "layers": 1}))
    together = Committee([Committee(members[:2]), Committee(members[2:])])
    together.save(tmp_path / "com.safetensors")
    assert len(load(tmp_path / "com.safetensors").members) == 4


def test_an_unseen_element_is_refused_everywhere(folder, tmp_path, capsys):
    path = tmp_path / "chlorine.extxyz"
    atoms = molecule("CH3Cl")
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=0 * atoms.positions)
    ase.io.write(path, atoms)
    for name in ("narrow", "single"):
        model = str(folder / f"{name}.safetensors")
        with pytest.raises(StructureError, match="is Cl, an element"):
            load(model)(batch_of(atoms, dtype=torch.float32))
        with pytest.raises(StructureError, match="is Cl, an element"):
            MCGMCalculator(model).get_potential_energy(atoms)
        for command in (
            ["predict", model, str(path), "-o", str(tmp_path / "out.extxyz")],
            ["evaluate", model, str(path)],
            ["md", model, str(path), "-o", str(tmp_path / name), "--steps", "1"],
            ["relax", model, str(path), "-o", str(tmp_path / "relaxed.extxyz")],
            ["explore", model, str(path), "-o", str(tmp_path / "page.html")],
        ):
            assert main(command) == 2, command
            told = capsys.readouterr().err
            assert "is Cl, an element" in told or "have Cl, which this potential was not trained on" in told
        assert main(["check", model, str(path), "--rows", "1"]) == 2
        assert "knows none of the structures" in capsys.readouterr().err
