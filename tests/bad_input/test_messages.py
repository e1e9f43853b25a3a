"""What a user reads after the most common mistakes, word by word."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from mcgm import Batch, build
from mcgm.data import Labels, open_structures
from mcgm.data.writers import write_extxyz
from mcgm.errors import DataError, StructureError
from mcgm.interfaces.ase import MCGMCalculator
from mcgm.structure import Structure

WATER = Structure(
    numbers=[8, 1, 1], positions=[[0, 0, 0.1], [0, 0.8, -0.5], [0, -0.8, -0.5]], energy=-76.0, name="water"
)


def said(error, function, *arguments, **options):
    with pytest.raises(error) as refusal:
        list(function(*arguments, **options))  # readers read when asked for the next structure
    return str(refusal.value)


def test_a_position_that_is_not_a_number():
    positions = WATER.positions.copy()
    positions[2, 1] = np.nan
    assert said(StructureError, WATER.replace, positions=positions) == (
        "structure 'water': positions of atom 2 is not finite (nan)."
    )


def test_two_atoms_in_one_place():
    twice = Atoms("OHH", [[0, 0, 0], [0, 0, 1], [0, 0, 1.0005]], info={"name": "water"})
    assert said(StructureError, Batch.from_atoms, [twice], cutoff=4.0) == (
        "structure 'water': atoms 1 and 2 are 0.0005 Å apart; required: at least 0.1 Å. "
        "Remove the duplicate atom, or check the unit of length."
    )


def test_an_element_that_does_not_exist():
    assert said(StructureError, WATER.replace, numbers=[8, 0, 1]) == (
        "structure 'water': atom 1 has atomic number 0; required: 1 to 118."
    )


def test_an_element_that_the_model_does_not_know():
    atoms = molecule("H2O")
    atoms.numbers[0] = 79
    atoms.calc = MCGMCalculator(build(cutoff=4.0, elements=[1, 6, 8]))
    assert said(StructureError, atoms.get_potential_energy) == (
        "structure 'AuH2': atom 0 is Au, an element that this potential was not trained on. It knows: H C O."
    )


def test_positions_in_another_unit():
    assert said(StructureError, WATER.replace, positions=WATER.positions * 1e8) == (
        "structure 'water': positions of atom 0 is"
        " 1e+07 Å; required: at most 1e+06 Å. "
        "Is the unit of length right? Then move the structure nearer to the origin."
    )


def test_a_crystal_without_a_cell():
    assert said(StructureError, WATER.replace, pbc=True) == (
        "structure 'water': periodic along 3 axes, but the cell vectors there do not span them: "
        "[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]. Give a cell, or set pbc=False."
    )


def test_a_cell_in_another_unit():
    small = WATER.replace(cell=np.eye(3) * 1e-9, pbc=True)
    assert said(StructureError, Batch.from_structures, [small], cutoff=4.0) == (
        "structure 'water': atom 0 and its own periodic image are 1e-09 Å apart; required: at least 0.1 Å. The cell is "
        "[[1e-09, 0.0, 0.0], [0.0, 1e-09, 0.0], [0.0, 0.0, 1e-09]] Å: check its vectors and their unit."
    )


def test_a_charge_that_is_text():
    atoms = molecule("H2O")
    atoms.info["charge"] = "one"
    assert said(StructureError, Structure.from_atoms, atoms, name="water") == (
        "structure 'water': charge is the text 'one'; required: one finite number, at most 1e+06."
    )


def test_a_label_under_another_key(tmp_path):
    write_extxyz([WATER], path := tmp_path / "a.extxyz")
    assert said(DataError, open_structures, path, Labels(energy="enrgy")) == (
        f"{path}, line 1, entry 0: no energy under the key 'enrgy'. Did you mean 'energy'? Keys found: charge, energy, "
        "name, spin. Declare the one that holds it: data.keys.energy, or --labels 'energy=KEY'."
    )


def test_a_text_that_ends_early(tmp_path):
    write_extxyz([WATER, WATER], path := tmp_path / "a.extxyz")
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    assert said(DataError, open_structures, path) == (
        f"{path}, line 6: announces 3 atoms, but the file ends after 2 of them. Was it copied completely?"
    )


def test_a_text_with_a_word_for_a_number(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text("1\n\nH 0 0 0\n2\n\nH 0 0 0\nH 0 0 l.5\n")
    assert said(DataError, open_structures, path) == (
        f"{path}, line 7: 'l.5' is no number; required: three coordinates after the element."
    )


def test_a_text_in_another_encoding(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_bytes("1\nwässer\nH 0 0 0\n".encode("latin-1"))
    assert said(DataError, open_structures, path) == (
        f"{path}, line 2: byte 2 (0xe4) is not UTF-8 text. "
        "Save the file as UTF-8 (it may be UTF-16 or Latin-1, or no text at all)."
    )


def test_archives_that_end_early(tmp_path):
    np.savez(path := tmp_path / "a.npz", numbers=[1], positions=np.zeros((1, 3)), n_atoms=[1])
    path.write_bytes(path.read_bytes()[:-10])
    assert said(DataError, open_structures, path) == (
        f"{path}: not a readable npz archive: no complete zip file. Was it copied completely?"
    )
    h5py = pytest.importorskip("h5py")
    with h5py.File(path := tmp_path / "a.hdf5", "w") as file:
        file["a/b/atXYZ"] = np.zeros((1, 3))
    path.write_bytes(path.read_bytes()[:1000])
    assert said(DataError, open_structures, path).startswith(f"{path}: not a readable HDF5 file (")


def test_a_table_that_ends_early(tmp_path):
    path = tmp_path / "a.json"
    columns = ["refcode_csd", "xyz_pbe_relaxed", "total_energy_pbe0_vac_tier2"]
    path.write_text(json.dumps({"columns": columns, "data": [["A", "1\n\nH 0 0 0", -13.0]] * 3})[:-20])
    assert said(DataError, open_structures, path).startswith(f"{path}: ends or breaks after 2 rows (")
