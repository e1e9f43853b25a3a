"""`mcgm md` and `mcgm relax` through the command line: physics, a killed run, and what users get wrong."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk, molecule
from ase.constraints import FixAtoms

from mcgm import build
from mcgm.cli import main
from mcgm.dynamics.summary import drift

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
SAME = ("trajectory.extxyz", "log.csv", "state.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two small potentials, which jumps and which does not, and structures."""
    path = tmp_path_factory.mktemp("md")
    for name, block in (("smooth", "mcgm"), ("jumps", "mcgm_paper")):
        torch.manual_seed(0)
        small = {"channels": 8, "filters": 8, "radial": 8, "layers": 2}
        build(cutoff=4.0, long_range=block, backbone_options=small).save(path / f"{name}.safetensors")
    ase.io.write(path / "one.extxyz", molecule("CH3OH"))
    ase.io.write(path / "two.extxyz", [molecule("CH3OH"), molecule("H2O")])
    ase.io.write(path / "waters.extxyz", [molecule("H2O"), molecule("H2O", vacuum=3.0)])
    salt = bulk("NaCl", "rocksalt", a=5.64)
    salt.rattle(0.05, seed=0)
    ase.io.write(path / "salt.extxyz", salt)
    return path


def md(folder, output, *words, model="smooth", structure="one.extxyz"):
    return main(["md", *map(str, (folder / f"{model}.safetensors", folder / structure, "-o", output, *words))])


def relax(folder, output, *words, model="smooth", structure="one.extxyz"):
    return main(["relax", *map(str, (folder / f"{model}.safetensors", folder / structure, "-o", output, *words))])


def rows(output):
    with (output / "log.csv").open() as file:
        return {
            key: np.array([float(row[key]) for row in rows]) for rows in [list(csv.DictReader(file))] for key in rows[0]
        }


def test_energy_is_conserved_without_a_thermostat_to_second_order_in_the_step(folder, tmp_path):
    spread = []
    for name, timestep in (("long", 0.5), ("short", 0.25)):
        words = ("--time", 0.01, "--every", 1, "--temperature", 100, "--timestep", timestep)
        assert md(folder, tmp_path / name, *words) == 0
        log = rows(tmp_path / name)
        assert np.ptp(log["total_eV"]) < 0.1 * np.ptp(log["kinetic_eV"])
        spread.append(np.ptp(log["total_eV"]))
    assert spread[1] < 0.4 * spread[0]


def test_a_compiled_run_moves_the_atoms_the_same_way(folder, tmp_path, traced_graphs):
    for name, words in (("plain", ()), ("compiled", ("--compile",))):
        assert md(folder, tmp_path / name, "--steps", 20, "--every", 10, *words) == 0
    for key, values in rows(tmp_path / "plain").items():
        assert np.allclose(rows(tmp_path / "compiled")[key], values, rtol=1e-8, atol=1e-10), key
    assert traced_graphs


def test_frames_hold_energy_forces_and_momenta_of_their_time(folder, tmp_path, capsys):
    assert md(folder, tmp_path / "run", "--steps", 11, "--every", 4) == 0
    frames = ase.io.read(tmp_path / "run/trajectory.extxyz", ":")
    log = rows(tmp_path / "run")
    assert [frame.info["time_fs"] for frame in frames] == log["time_fs"].tolist() == [0.0, 2.0, 4.0, 5.5]
    for frame, potential, kinetic in zip(frames, log["potential_eV"], log["kinetic_eV"], strict=True):
        assert frame.get_potential_energy() == pytest.approx(potential, abs=1e-12)
        assert frame.get_kinetic_energy() == pytest.approx(kinetic, rel=1e-6)
        assert frame.get_forces().shape == (6, 3)
    assert np.abs(frames[0].get_momenta().sum(0)).max() < 1e-6
    assert np.abs(frames[0].get_angular_momentum()).max() < 1e-6
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "Drift of the total energy" in said
    assert (tmp_path / "run/summary.txt").read_text() == said
    assert b"<svg" in (tmp_path / "run/dynamics.svg").read_bytes()


def test_velocities_come_from_the_file_or_the_seed(folder, tmp_path):
    atoms = molecule("CH3OH")
    atoms.set_momenta(np.arange(18).reshape(6, 3) / 10)
    ase.io.write(folder / "moving.extxyz", atoms)
    assert md(folder, tmp_path / "moving", "--steps", 1, structure="moving.extxyz") == 0
    first = ase.io.read(tmp_path / "moving/trajectory.extxyz", 0)
    np.testing.assert_allclose(first.get_momenta(), atoms.get_momenta(), atol=1e-8)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert md(folder, tmp_path / name, "--steps", 1, "--seed", seed) == 0
    a, b, c = (ase.io.read(tmp_path / name / "trajectory.extxyz", 0).get_momenta() for name in "abc")
    assert (a == b).all()
    assert (a != c).any()


def test_langevin_warms_resting_atoms_to_the_temperature(folder, tmp_path):
    atoms = molecule("CH3OH")
    atoms.set_momenta(np.zeros((6, 3)))
    ase.io.write(folder / "resting.extxyz", atoms)
    words = ("--thermostat", "langevin", "--friction", 0.2, "--steps", 100, "--temperature", 3000, "--every", 5)
    assert md(folder, tmp_path / "run", *words, structure="resting.extxyz") == 0
    temperature = rows(tmp_path / "run")["temperature_K"]
    assert temperature[0] == 0
    assert 1500 < temperature[10:].mean() < 5500


def test_fixed_atoms_stay(folder, tmp_path):
    atoms = molecule("CH3OH")
    atoms.set_constraint(FixAtoms([0]))
    ase.io.write(folder / "fixed.extxyz", atoms, columns=["symbols", "positions", "move_mask"])
    assert md(folder, tmp_path / "run", "--steps", 3, structure="fixed.extxyz") == 0
    moves = np.ptp([f.positions for f in ase.io.read(tmp_path / "run/trajectory.extxyz", ":")], axis=0)
    assert (moves[0] == 0).all()
    assert (moves[1:] > 0).any(axis=1).all()


@pytest.mark.parametrize("words", [[], ["--thermostat", "langevin"], ["--clusters", "frozen"]], ids=" ".join)
def test_a_run_killed_at_any_moment_goes_on_to_the_same_end(folder, tmp_path, words):
    model = "jumps" if "frozen" in words else "smooth"
    words = [*words, "--steps", 60, "--every", 2, "--temperature", 1000]
    assert md(folder, tmp_path / "whole", *words, model=model) == 0
    command = [sys.executable, "-m", "mcgm", "md", folder / f"{model}.safetensors", folder / "one.extxyz"]
    command = [*command, "-o", tmp_path / "killed", *words, "--resume"]
    process = subprocess.Popen(list(map(str, command)), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    state = tmp_path / "killed/state.json"
    while not state.exists() or json.loads(state.read_text())["step"] < 14:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert json.loads(state.read_text())["step"] < 60
    with (tmp_path / "killed/trajectory.extxyz").open("a") as file:
        file.write("6\nProperties=species:S:1:pos:R:3 time_fs")  # half a frame
    assert md(folder, tmp_path / "killed", *words, "--resume", model=model) == 0
    for name in SAME:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert json.loads(state.read_text())["rebuilds"] > 1 or "frozen" in words


def test_a_run_is_gone_on_with_only_as_it_was_and_can_be_made_longer(folder, tmp_path, capsys):
    run = tmp_path / "run"
    assert md(folder, run, "--steps", 4, "--every", 2) == 0
    for words, message in (
        (["--steps", 8, "--every", 2], "holds a simulation. Go on with --resume"),
        (["--steps", 8, "--every", 2, "--timestep", 1, "--resume"], "timestep_fs was 0.5, now 1.0"),
        (["--steps", 2, "--every", 2, "--resume"], "has 4 steps already"),
    ):
        assert md(folder, run, *words) == 2
        assert message in capsys.readouterr().err
    assert md(folder, run, "--steps", 8, "--every", 2, "--resume", structure="salt.extxyz") == 2
    assert "structure is another one" in capsys.readouterr().err
    assert md(folder, run, "--steps", 8, "--every", 2, "--resume") == 0
    assert md(folder, tmp_path / "whole", "--steps", 8, "--every", 2) == 0
    assert (run / "trajectory.extxyz").read_bytes() == (tmp_path / "whole/trajectory.extxyz").read_bytes()
    (run / "trajectory.extxyz").write_text("")
    assert md(folder, run, "--steps", 9, "--every", 2, "--resume") == 2
    assert "has 0 bytes, fewer than" in capsys.readouterr().err


def test_a_frame_at_the_end_of_a_run_is_gone_from_the_same_run_made_longer(folder, tmp_path):
    words = ("--every", 3, "--thermostat", "langevin")
    for steps in (4, 4, 10):
        assert md(folder, tmp_path / "parts", "--steps", steps, *words, "--resume") == 0
        assert rows(tmp_path / "parts")["time_fs"].tolist()[-1] == steps / 2
    assert md(folder, tmp_path / "whole", "--steps", 10, *words) == 0
    for name in SAME:
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert rows(tmp_path / "whole")["time_fs"].tolist() == [0.0, 1.5, 3.0, 4.5, 5.0]


def test_a_potential_that_jumps_is_refused_with_the_way_out(folder, tmp_path, capsys):
    assert md(folder, tmp_path / "run", "--steps", 2, model="jumps") == 2
    said = capsys.readouterr().err
    assert "is_smooth is false" in said
    assert "--clusters frozen" in said
    assert not (tmp_path / "run").exists()
    assert relax(folder, tmp_path / "out.extxyz", model="jumps") == 2
    assert "--clusters frozen" in capsys.readouterr().err
    assert md(folder, tmp_path / "run", "--steps", 2, "--clusters", "frozen") == 2
    assert "this one is smooth" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", 0], "0 steps: required: at least 1"),
        (["--time", -1], "--time -1.0: required: a finite number of ps above zero"),
        (["--steps", 2, "--timestep", 0], "--timestep 0.0: required"),
        (["--steps", 2, "--temperature", "nan"], "--temperature nan: required"),
        (["--steps", 2, "--every", 0], "--every 0: required: at least 1"),
        (["--steps", 2, "--seed", -1], "--seed -1: required"),
        (["--steps", 2, "--friction", 0.1], "--friction is of --thermostat langevin"),
        (["--steps", 2, "--index", 1], "has 1 structures; --index 1 is none of them (-1 to 0)"),
    ],
)
def test_settings_that_make_no_sense_are_refused(folder, tmp_path, capsys, words, message):
    assert md(folder, tmp_path / "run", *words) == 2
    assert message in capsys.readouterr().err


def test_one_structure_of_several_is_chosen(folder, tmp_path, capsys):
    assert md(folder, tmp_path / "run", "--steps", 1, structure="two.extxyz") == 2
    assert "holds several structures; required: one. Choose it with --index" in capsys.readouterr().err
    for index, count in ((0, 6), (-1, 3), (1, 3)):
        assert md(folder, tmp_path / f"run{index}", "--steps", 1, "--index", index, structure="two.extxyz") == 0
        assert len(ase.io.read(tmp_path / f"run{index}/trajectory.extxyz", 0)) == count


def test_atoms_that_meet_end_a_run_with_its_step_and_its_frames(folder, tmp_path, capsys):
    atoms = molecule("H2O")
    atoms.set_momenta(np.outer([0, 1, 0], atoms.positions[0] - atoms.positions[1]) / units.fs)  # at the oxygen in 1 fs
    ase.io.write(folder / "collision.extxyz", atoms)
    words = ("--steps", 5, "--every", 1, "--timestep", 1)
    assert md(folder, tmp_path / "run", *words, structure="collision.extxyz") == 2
    said = capsys.readouterr().err
    assert "after 0 steps: structure 'OH2': atoms 0 and 1 are" in said
    assert "The frames until then are kept" in said
    assert len(ase.io.read(tmp_path / "run/trajectory.extxyz", ":")) == 1


@pytest.mark.parametrize("optimizer", ["lbfgs", "fire"])
def test_relaxation_ends_where_forces_vanish(folder, tmp_path, capsys, optimizer):
    words = ("--fmax", 0.05, "--optimizer", optimizer)
    assert relax(folder, tmp_path / "out.extxyz", *words, structure="waters.extxyz") == 0
    assert "2 of 2 structures converged" in capsys.readouterr().out
    for frame in ase.io.read(tmp_path / "out.extxyz", ":"):
        assert np.linalg.norm(frame.get_forces(), axis=1).max() <= 0.05
        assert frame.info["converged"]


def test_a_structure_that_did_not_converge_is_written_and_marked(folder, tmp_path, capsys):
    assert relax(folder, tmp_path / "out.extxyz", "--fmax", 1e-9, "--steps", 2, structure="two.extxyz") == 1
    said = capsys.readouterr()
    assert "0 of 2 structures converged" in said.out
    assert "two.extxyz[1] did not converge" in said.err
    frames = ase.io.read(tmp_path / "out.extxyz", ":")
    assert [len(frame) for frame in frames] == [6, 3]
    assert not any(frame.info["converged"] for frame in frames)
    assert [frame.info["steps"] for frame in frames] == [2, 2]


def test_open_axes_keep_their_cell_vectors_whatever_the_orientation(folder, tmp_path):
    slab = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    slab.rattle(0.05, seed=0)
    slab.cell[2, 2] = 14.0
    slab.pbc = (True, True, False)
    turned = slab.copy()
    turned.rotate(90, "x", rotate_cell=True)  # periodic along x and z
    relaxed = []
    for name, atoms in (("flat", slab), ("turned", turned)):
        ase.io.write(tmp_path / f"{name}.extxyz", atoms)
        words = ("--cell", "--fmax", 0.03)
        assert relax(folder, tmp_path / f"{name}-out.extxyz", *words, structure=tmp_path / f"{name}.extxyz") == 0
        relaxed.append(ase.io.read(tmp_path / f"{name}-out.extxyz"))
    flat, other = relaxed
    assert other.get_potential_energy() == pytest.approx(flat.get_potential_energy(), abs=1e-4)
    np.testing.assert_allclose(other.cell.cellpar(), flat.cell.cellpar(), atol=1e-2)
    for atoms, before in ((flat, slab), (other, turned)):
        np.testing.assert_allclose(atoms.cell[2], before.cell[2], atol=1e-6)
        assert abs(atoms.cell[:2] - before.cell[:2]).max() > 0.02


def test_a_cell_without_volume_is_not_relaxed(folder, tmp_path, capsys):
    slab = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    slab.cell[2] = 0
    slab.pbc = (True, True, False)
    ase.io.write(tmp_path / "flat.extxyz", slab)
    assert relax(folder, tmp_path / "out.extxyz", "--cell", structure=tmp_path / "flat.extxyz") == 2
    assert "--cell needs cells with a volume" in capsys.readouterr().err


def test_the_cell_relaxes_where_there_is_one(folder, tmp_path, capsys):
    before = ase.io.read(folder / "salt.extxyz")
    assert relax(folder, tmp_path / "out.extxyz", "--cell", "--fmax", 0.02, structure="salt.extxyz") == 0
    after = ase.io.read(tmp_path / "out.extxyz")
    assert after.get_volume() != before.get_volume()
    assert np.abs(after.get_stress()).max() * after.get_volume() < 0.1
    assert relax(folder, tmp_path / "out.extxyz", "--cell") == 2
    assert "--cell needs periodic structures; one.extxyz[0] is not periodic" in capsys.readouterr().err


def test_the_drift_is_the_slope_per_atom():
    time_fs = np.linspace(0, 2000, 50)
    assert drift(time_fs, -1e5 + 0.003 * time_fs / 1000, 3) == pytest.approx(1.0, rel=1e-6)
    assert drift(time_fs[:2], time_fs[:2], 3) is None


def test_no_file_is_left_half_written(folder, tmp_path):
    assert md(folder, tmp_path / "run", "--steps", 2, "--every", 1) == 0
    assert {path.name for path in Path(tmp_path / "run").iterdir()} == {*SAME, "summary.txt", "dynamics.svg", ".lock"}
