"""`mcgm predict` on files of any length: order, batches, memory, interruption."""

import json
import os
import random
import signal
import subprocess
import sys
import tracemalloc
import weakref
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from mcgm import Batch, build
from mcgm.cli import main
from mcgm.data import Labels, open_structures
from mcgm.data import ase as ase_reader
from mcgm.data.readers import count_structures
from mcgm.data.writers import write_structures
from mcgm.errors import ConfigError, DataError, StructureError
from mcgm.prediction import file as prediction_file
from mcgm.prediction import unfinished
from mcgm.prediction.file import predict_file
from mcgm.prediction.progress import Watcher
from mcgm.prediction.sinks import SINKS
from mcgm.prediction.stream import filled
from mcgm.structure import Structure

SCRIPT = Path(__file__).parent / "killed_prediction.py"
KILLS = int(os.environ.get("MCGM_KILLS", "3"))
"""For each output; MCGM_KILLS=30 for a longer look."""
NAMES = ("H2O", "CH4", "CH3OH", "C6H6", "NH3")


def frames(count):
    """Molecules in turns, every seventh a crystal, so that batches are mixed."""
    made = []
    for k in range(count):
        atoms = molecule(NAMES[k % 5]) if k % 7 else bulk("Si", cubic=True)
        atoms.rattle(0.05, seed=k)
        atoms.info |= {"name": f"s{k}", "charge": k % 2}
        made.append(atoms)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stream")
    for name, block in (("model", "mcgm"), ("charges", "mcgm_charges"), ("other", "none")):
        torch.manual_seed(0)
        small = {"channels": 8, "filters": 8, "radial": 8, "layers": 2}
        elements = [1, 6, 7, 8, 14]
        potential = build(cutoff=4.0, long_range=block, backbone_options=small, elements=elements)
        potential.save(folder / f"{name}.safetensors")
    ase.io.write(folder / "in.extxyz", frames(30))
    return folder


@pytest.fixture(scope="module")
def potential(folder):
    from mcgm import load

    return load(folder / "model.safetensors")


def predict(folder, output, *words, model="model", source="in.extxyz"):
    return main(["predict", *map(str, (folder / f"{model}.safetensors", folder / source, "-o", output, *words))])


def alone(potential, atoms):
    return potential(Batch.from_atoms([atoms], cutoff=potential.cutoff, dtype=potential.dtype))


def test_batches_are_filled_in_order_up_to_the_budget():
    sizes = [5, 3, 2, 9, 1, 12, 4, 6]
    structures = [Structure(numbers=[1] * size, positions=np.eye(size, 3) * np.arange(size)[:, None]) for size in sizes]
    assert [[len(item) for item in batch] for batch in filled(structures, 10)] == [[5, 3, 2], [9, 1], [12], [4, 6]]
    assert not list(filled([], 10))


@pytest.mark.parametrize("suffix", [".extxyz", ".npz"])
def test_predictions_are_in_order_and_those_of_each_structure_alone(folder, potential, tmp_path, suffix):
    output = tmp_path / f"out{suffix}"
    assert predict(folder, output, "--batch-atoms", 25) == 0
    read = list(open_structures(output))
    assert [item.name for item in read] == [f"s{k}" for k in range(30)]
    for atoms, found in zip(ase.io.read(folder / "in.extxyz", ":10"), read[:10], strict=True):
        expected = alone(potential, atoms)
        assert found.energy == pytest.approx(float(expected.energy[0]), abs=1e-4)
        np.testing.assert_allclose(found.forces, expected.forces.numpy(), atol=1e-5)
        assert found.charge == atoms.info["charge"]
        assert (found.stress is not None) == bool(atoms.pbc.any())
        if found.stress is not None:
            np.testing.assert_allclose(found.stress, expected.stress[0].numpy(), atol=1e-6)
    assert [item.name for item in tmp_path.iterdir()] == [output.name]


def test_charges_and_parts_of_the_energy_are_written(folder, tmp_path):
    for suffix in (".extxyz", ".npz"):
        assert predict(folder, tmp_path / f"out{suffix}", model="charges") == 0
    atoms = ase.io.read(tmp_path / "out.extxyz", ":")
    with np.load(tmp_path / "out.npz") as arrays:
        for key in ("cluster_energy", "electrostatic_energy"):
            np.testing.assert_allclose([item.info[key] for item in atoms], arrays[key], rtol=1e-6)
        np.testing.assert_allclose(np.concatenate([a.get_charges() for a in atoms]), arrays["charges"], atol=1e-7)
        assert np.abs(arrays["electrostatic_energy"]).max() > 0
        assert arrays["name"].tolist() == [f"s{k}" for k in range(30)]
    assert [s.dipole is not None for s in open_structures(tmp_path / "out.npz")] == [True] * 30


def test_what_only_the_potential_refuses_is_called_by_its_name(folder, tmp_path, capsys):
    atoms = frames(9)
    atoms[6].set_cell([9, 0, 0])
    atoms[6].pbc = (True, False, False)
    ase.io.write(tmp_path / "wire.extxyz", atoms)
    output = tmp_path / "out.extxyz"
    assert main(["predict", str(folder / "charges.safetensors"), str(tmp_path / "wire.extxyz"), "-o", str(output)]) == 2
    assert "structure 's6': pbc is [True, False, False]" in capsys.readouterr().err


@pytest.fixture(scope="module")
def killed(folder):
    """Outputs of a process that was left alone and of ones that were killed, with how they ended."""
    jobs = []
    for suffix, most in ((".extxyz", 38), (".npz", 270)):
        words = [str(folder / "model.safetensors"), str(folder / "in.extxyz"), "--batch-atoms", "40", "--resume", "-o"]
        draw = random.Random(suffix)
        (folder / f"killed{suffix}").write_text("of an earlier prediction")
        moments = [draw.randint(1, most // 3) for _ in range(KILLS)] + [draw.randint(1, most)]
        jobs += [[[*words, str(folder / f"whole{suffix}")], []], [[*words, str(folder / f"killed{suffix}")], moments]]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, "-W", "ignore", str(SCRIPT), str(folder / "jobs.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return [[int(word) for word in line.split()] for line in done.stdout.splitlines()]


@pytest.mark.parametrize(("place", "suffix"), [(0, ".extxyz"), (2, ".npz")])
def test_an_output_killed_at_any_moment_and_resumed_is_the_same_to_the_last_byte(folder, killed, place, suffix):
    assert killed[place] == [0]
    assert killed[place + 1].count(-signal.SIGKILL) >= 2
    assert killed[place + 1][-1] == 0
    assert (folder / f"killed{suffix}").read_bytes() == (folder / f"whole{suffix}").read_bytes()
    assert not list(folder.glob("*.part"))


class Interrupted(BaseException):
    """Like a key that was pressed."""


def interrupted(potential, source, output, *, after, **options):
    """A prediction that ends by an interruption after some batches."""
    batches = 0

    def watch(done, batch):
        nonlocal batches
        batches += 1
        if batches == after:
            raise Interrupted

    with pytest.raises(Interrupted):
        predict_file(potential, source, output, batch_atoms=40, watch=watch, **options)


def test_the_name_appears_when_the_output_is_whole_and_resuming_must_be_asked_for(folder, potential, tmp_path):
    output = tmp_path / "out.extxyz"
    output.write_text("old")
    interrupted(potential, folder / "in.extxyz", output, after=3)
    assert output.read_text() == "old"
    journal = json.loads((tmp_path / "out.extxyz.part/journal.json").read_text())
    assert 0 < journal["done"] < 30
    with pytest.raises(ConfigError, match=rf"{journal['done']} structures are done. Go on with --resume"):
        predict_file(potential, folder / "in.extxyz", output, batch_atoms=40)
    outcome = predict_file(potential, folder / "in.extxyz", output, batch_atoms=40, resume=True)
    assert (outcome.structures, outcome.resumed_at) == (30, journal["done"])
    assert len(ase.io.read(output, ":")) == 30


@pytest.mark.parametrize("suffix", [".extxyz", ".npz"])
def test_an_older_output_is_not_taken_for_the_finished_one(folder, potential, tmp_path, monkeypatch, suffix):
    """Interrupted after the last batch, while the finished file is put together."""
    output = tmp_path / f"out{suffix}"
    output.write_text("old")

    def stop(self):
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(SINKS[suffix], "whole", stop)
        with pytest.raises(Interrupted):
            predict_file(potential, folder / "in.extxyz", output)
    predict_file(potential, folder / "in.extxyz", output, resume=True)
    assert len(list(open_structures(output))) == 30


def test_only_the_same_model_and_structures_are_gone_on_with(folder, potential, tmp_path):
    output, source = tmp_path / "out.extxyz", tmp_path / "in.extxyz"
    source.write_bytes((folder / "in.extxyz").read_bytes())
    interrupted(potential, source, output, after=2, model="abc")
    with pytest.raises(ConfigError, match="the model is another one"):
        predict_file(potential, source, output, batch_atoms=40, model="def", resume=True)
    with pytest.raises(ConfigError, match=r"--batch-atoms is another one \(40 then, 50 now\)"):
        predict_file(potential, source, output, batch_atoms=50, model="abc", resume=True)
    with pytest.raises(ConfigError, match=r"keys or units \(--labels\) are others"):
        predict_file(potential, source, output, batch_atoms=40, model="abc", labels=Labels(), resume=True)
    source.write_bytes(source.read_bytes().replace(b"s29", b"s92"))
    with pytest.raises(ConfigError, match="the structures are others"):
        predict_file(potential, source, output, batch_atoms=40, model="abc", resume=True)


def test_what_was_read_in_other_units_is_not_gone_on_with(folder, potential, tmp_path):
    output = tmp_path / "out.extxyz"
    interrupted(potential, folder / "in.extxyz", output, after=2, labels=Labels(length_unit="bohr"))
    with pytest.raises(ConfigError, match=r"keys or units \(--labels\) are others"):
        predict_file(potential, folder / "in.extxyz", output, batch_atoms=40, resume=True)


def test_two_processes_do_not_write_the_same_output(folder, potential, tmp_path):
    output = tmp_path / "out.extxyz"
    with unfinished.Unfinished(output, {}, resume=False), pytest.raises(ConfigError, match="another process"):
        predict_file(potential, folder / "in.extxyz", output, resume=True)


def test_an_unknown_element_is_named_with_its_structure_and_nothing_is_left(folder, potential, tmp_path, capsys):
    made = frames(12)
    made[9].numbers[0] = 17
    ase.io.write(tmp_path / "in.extxyz", made)
    with pytest.raises(StructureError, match=r"'s9': atom 0 is Cl, .* It knows: H C N O Si"):
        predict_file(potential, tmp_path / "in.extxyz", tmp_path / "out.extxyz", batch_atoms=20)
    assert [path.name for path in tmp_path.iterdir()] == ["in.extxyz"]


def test_a_changed_part_is_refused(folder, potential, tmp_path):
    output = tmp_path / "out.extxyz"
    interrupted(potential, folder / "in.extxyz", output, after=3)
    (tmp_path / "out.extxyz.part/whole").write_text("")
    with pytest.raises(DataError, match=r"has 0 bytes, fewer than .*Remove .*part to begin again"):
        predict_file(potential, folder / "in.extxyz", output, batch_atoms=40, resume=True)
    (tmp_path / "out.extxyz.part/journal.json").write_text("{}")
    with pytest.raises(DataError, match="is no journal of a prediction"):
        predict_file(potential, folder / "in.extxyz", output, batch_atoms=40, resume=True)


def test_no_more_than_a_batch_is_alive(folder, potential, tmp_path, monkeypatch):
    alive, most = weakref.WeakSet(), 0

    def counted(source, labels):
        nonlocal most
        for structure in open_structures(source, labels):
            alive.add(structure)
            most = max(most, len(alive))
            yield structure
            del structure

    monkeypatch.setattr(prediction_file, "open_structures", counted)
    predict_file(potential, folder / "in.extxyz", tmp_path / "out.npz", batch_atoms=20)
    assert 2 <= most <= 10  # two batches of at most five


@pytest.mark.parametrize(
    ("name", "count", "atoms"),
    [("in.npz", 100, 3000), ("packed.npz", 100, 3000), ("in.extxyz", 60, 300), ("in.db", 16, 3000)],
)
def test_files_are_read_a_few_structures_at_a_time(name, count, atoms, tmp_path, monkeypatch):
    positions = np.random.default_rng(0).normal(size=(atoms, 3)).cumsum(0)
    structures = [Structure(numbers=np.full(atoms, 6), positions=positions + k, name=f"s{k}") for k in range(count)]
    if name == "in.db":
        monkeypatch.setattr(ase_reader, "PAGE", 2)
        with ase.db.connect(tmp_path / name) as database:
            for structure in structures:
                database.write(structure.to_atoms(), name=structure.name)
    elif name == "in.npz":
        sizes = np.full(count, atoms)
        flat = np.concatenate([s.positions for s in structures])
        np.savez(tmp_path / name, n_atoms=sizes, numbers=np.full(count * atoms, 6), positions=flat)
    else:
        write_structures(structures, tmp_path / name)
    whole = count * atoms * 3 * 8
    read = open_structures(tmp_path / name)
    tracemalloc.start()
    for k, structure in enumerate(read):
        assert structure.positions[0, 0] == pytest.approx(positions[0, 0] + k, abs=1e-6)
        assert tracemalloc.get_traced_memory()[0] < (0.3 if name.endswith("npz") else 0.8) * whole  # bytes of positions
    tracemalloc.stop()
    assert k + 1 == count == count_structures(tmp_path / name)


def test_structures_are_counted_without_reading_them(tmp_path):
    ase.io.write(tmp_path / "in.extxyz", frames(9))
    assert count_structures(tmp_path / "in.extxyz") == 9
    (tmp_path / "odd.xyz").write_text("no number\n")
    assert count_structures(tmp_path / "odd.xyz") is None
    ase.io.write(tmp_path / "in.traj", frames(2))
    assert count_structures(tmp_path / "in.traj") is None


def test_progress_says_how_many_a_second_and_how_long(monkeypatch, capsys):
    monkeypatch.setattr("mcgm.prediction.progress.MINUTE", 0.0)
    with Watcher(40) as watcher:
        watcher(10, [None] * 10)
    said = capsys.readouterr().err
    assert "10 of 40 structures" in said
    assert "/s" in said
    assert "left" in said


def test_a_suffix_that_is_not_written_is_refused(folder, tmp_path, capsys):
    assert predict(folder, tmp_path / "out.csv") == 2
    assert "Known: .extxyz, .npz, .xyz" in capsys.readouterr().err
    assert predict(folder, tmp_path / "out.xyz", "--batch-atoms", 0) == 2
    assert "--batch-atoms 0" in capsys.readouterr().err
