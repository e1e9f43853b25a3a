"""What `mcgm explore` writes; how it looks in a browser is in `test_browser.py`."""

import json
import re

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from mcgm import build
from mcgm.cli import main
from mcgm.commands.explore import explored
from mcgm.errors import DataError
from mcgm.report.exploration import ExploredStructure, write_exploration
from mcgm.structure import Structure

OPTIONS = {"channels": 16, "filters": 16, "radial": 8, "layers": 2}


def make_potential(long_range, **options):
    torch.manual_seed(0)
    return build(
        backbone="schnet", long_range=long_range, cutoff=3.0, backbone_options=OPTIONS, long_range_options=options
    ).eval()


def structure_of(atoms):
    return Structure.from_atoms(atoms, name="made")


@pytest.fixture
def page(tmp_path):
    """Runs the command on frames; the text of the page and the scene in it."""

    def make(frames, long_range="mcgm", *arguments):
        make_potential(long_range).save(tmp_path / "m.safetensors")
        ase.io.write(tmp_path / "s.extxyz", frames)
        files = [str(tmp_path / name) for name in ("m.safetensors", "s.extxyz")]
        assert main(["explore", *files, "-o", str(tmp_path / "page.html"), *arguments]) == 0
        text = (tmp_path / "page.html").read_text()
        return text, json.loads(re.search(r'id="scene">(.*?)</script>', text)[1])

    return make


@pytest.mark.parametrize("long_range", ["mcgm", "mcgm_paper", "mcgm_charges", "none"])
def test_parts_of_the_energy_add_up(long_range):
    for atoms in (molecule("CH3CH2OH"), molecule("C6H6")):
        [item] = explored(make_potential(long_range), [structure_of(atoms)])
        parts = [item.reference_energy, *item.atom_energy, item.cluster_energy, item.electrostatic_energy]
        assert sum(parts) == pytest.approx(item.energy, abs=1e-5)
        clusters = [energy for level in (item.layers or ((),))[-1] for energy in level.energy]
        assert sum(clusters) == pytest.approx(item.cluster_energy, abs=1e-5)
        assert len(item.charges) == (len(atoms) if long_range == "mcgm_charges" else 0)


@pytest.mark.parametrize("long_range", ["mcgm", "mcgm_paper"])
def test_every_atom_flows_through_every_level(long_range):
    atoms = molecule("CH3CONH2")
    [item] = explored(make_potential(long_range), [structure_of(atoms)])
    assert [len(layer) for layer in item.layers] == [3, 3]
    for layer in item.layers:
        below = np.ones(len(atoms))
        for level in layer:
            leaving, entering = np.zeros(len(below)), np.zeros(len(level.mass))
            for flow in level.flows:
                leaving[flow.member] += flow.atoms
                entering[flow.cluster] += flow.atoms
            assert leaving == pytest.approx(below, abs=0.01)
            assert entering == pytest.approx(level.mass, abs=0.01)
            below = np.array(level.mass)
            assert below.sum() == pytest.approx(len(atoms), abs=0.01)


def test_molecules_with_hierarchies_of_their_own_are_explored():
    atoms = molecule("CH3OH") + molecule("H2O")
    atoms.positions[6:] += 6.0
    for scope in ("system", "molecule"):
        [item] = explored(make_potential("mcgm", scope=scope), [structure_of(atoms)])
        found = len(set(item.layers[-1][0].atoms.label))
        assert found == (3 if scope == "system" else 5)


def test_the_page_loads_nothing_and_holds_the_licence(page):
    text, _ = page([molecule("H2O")])
    assert "default-src 'none'" in text
    head = text[: text.index('id="scene"')]
    assert not re.search(r"""\b(src|href)=["'](?!data:|#)""", head)
    assert "University of Pittsburgh" in text


def test_the_limit_is_the_number_of_structures(page):
    frames = [molecule("H2O") for _ in range(5)]
    assert len(page(frames)[1]["structures"]) == 5
    assert len(page(frames, "mcgm", "--limit", "2")[1]["structures"]) == 2


def test_a_crystal_has_its_cell_and_a_molecule_none(page):
    _, scene = page([bulk("NaCl", "rocksalt", a=5.6, cubic=True), molecule("H2O")], "none")
    assert [len(item["cell"]) for item in scene["structures"]] == [3, 0]
    assert [item["layers"] for item in scene["structures"]] == [[], []]


def test_a_hostile_name_stays_text(page):
    atoms = molecule("H2O")
    atoms.info["name"] = "</script><script>document.title='taken'</script>"
    text, scene = page([atoms])
    assert scene["structures"][0]["name"] == atoms.info["name"]
    assert "document.title='taken'" not in text.replace(json.dumps(scene), "").split('id="scene"')[0]
    assert text.count("<script>document.title") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["-o", "page.pdf"], ".html"), (["-o", "page.html", "--limit", "0"], "--limit 0"), (["-o", "p.html"], "m.saf")],
)
def test_mistake_is_one_message(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["explore", "m.safetensors", "s.extxyz", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_records_that_do_not_fit_together_are_refused(tmp_path):
    with pytest.raises(DataError, match="2 atoms, but values for"):
        ExploredStructure("x", (1, 1), ((0.0, 0.0, 0.0),) * 2, (), 0.0, 0.0, 0.0, 0.0, (0.0,), (), ())
    with pytest.raises(DataError, match="at least one"):
        write_exploration([], tmp_path / "page.html", title="x", made={})
