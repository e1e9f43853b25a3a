"""What the README shows is run as it stands (its doctests run on their own)."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import ase.io
import pytest
import torch
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from mcgm.cli import main
from mcgm.neighbors import find_neighbors
from mcgm.structure import Structure

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def write_frames(path, count):
    frames = []
    for k in range(count):
        atoms = molecule(["H2O", "CH4", "NH3", "CH3OH"][k % 4])
        atoms.rattle(0.03, seed=k)
        atoms.calc = SinglePointCalculator(atoms, energy=-10.0 * len(atoms) + 0.01 * k, forces=0.1 * atoms.positions)
        frames.append(atoms)
    ase.io.write(path, frames)


def test_the_readme_begins_with_the_two_commands():
    commands = [line.split("#")[0].strip() for line in blocks("sh")[0].splitlines()]
    assert commands == ["make demo", "make test"]


def test_the_commands_for_own_data_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, count in (("mydata", 24), ("test", 6), ("new", 6)):
        write_frames(f"{name}.extxyz", count)
    ase.io.write("molecule.xyz", molecule("CH3OH"))
    short = {
        "compare": ["--training.epochs", "1", "--seeds", "[0]", "--processes", "1"],
        "train": ["--training.epochs", "1"],
        "md": ["--steps", "3"],
        "relax": ["--fmax", "1000"],
    }
    lines = [line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("mcgm ")]
    assert [command[0] for command in commands] == [
        "compare",
        "train",
        "evaluate",
        "predict",
        "md",
        "relax",
        "data",
        "explore",
    ]
    for command in commands:
        assert main([*command, *short.get(command[0], [])]) == 0, command
    assert len(ase.io.read("predicted.extxyz", ":")) == 6


def test_the_block_for_other_networks_runs(monkeypatch):
    schnet = pytest.importorskip("torch_geometric.nn.models.schnet")

    def radius_graph(positions, r, batch, max_num_neighbors):
        split = [positions[batch == k].detach().numpy() for k in batch.unique()]
        structures = [Structure(numbers=[1] * len(part), positions=part) for part in split]
        found = find_neighbors(structures, r)
        return torch.stack([found.source, found.target])

    monkeypatch.setattr(schnet, "radius_graph", radius_graph)
    (block,) = [block for block in blocks("python") if "attach(" in block]
    assert len(block.strip().splitlines()) <= 8
    atoms = [molecule("CH3CH2OH"), molecule("H2O")]
    names = {
        "numbers": torch.cat([torch.tensor(item.numbers) for item in atoms]),
        "positions": torch.cat([torch.tensor(item.positions, dtype=torch.float32) for item in atoms]),
        "batch": torch.repeat_interleave(torch.arange(2), torch.tensor([len(item) for item in atoms])),
    }
    exec(block, names)
    alone = names["model"](names["numbers"], names["positions"], names["batch"])
    assert names["energy"].shape == (2, 1)
    assert not torch.allclose(names["energy"], alone)


def test_the_tables_are_those_of_the_stored_results():
    script = Path(__file__).parent.parent / "benchmarks" / "readme.py"
    checked = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr or "run: python benchmarks/readme.py"
