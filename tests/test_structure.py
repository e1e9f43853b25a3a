"""Structures: what is refused, and what survives the way to ASE and back."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator
from ase.calculators.singlepoint import SinglePointCalculator

from mcgm.errors import StructureError
from mcgm.structure import Structure

POSITIONS = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"numbers": [], "positions": np.zeros((0, 3))}, "at least one atom"),
        ({"numbers": [1, 0]}, "atom 1 has atomic number 0"),
        ({"numbers": [119, 1]}, "atom 0 has atomic number 119"),
        ({"numbers": [1, 1.5]}, "integers"),
        ({"positions": [["0", "0", "0"], ["0", "0", "1"]]}, "positions is not an array of numbers but of <U1"),
        ({"positions": 1j * POSITIONS}, "positions is not an array of numbers but of complex128"),
        ({"positions": POSITIONS.astype(object)}, "positions is not an array of numbers but of object"),
        ({"positions": np.ma.masked_equal(POSITIONS, 1.0)}, "positions has masked entries"),
        ({"positions": 1e7 * POSITIONS}, r"positions of atom 1 is 1e\+07 Å; required: at most 1e\+06 Å"),
        ({"cell": [[np.nan, 0, 0], [0, 1, 0], [0, 0, 1]]}, r"cell\[0, 0\] is not finite"),
        ({"charge": "one"}, "charge is the text 'one'"),
        ({"spin": None}, "spin is None"),
        ({"energy": [1.0, 2.0]}, "energy is"),
        ({"energy": 1j}, "energy is 1j"),
        ({"pbc": "TTF"}, "pbc is TTF; required: true or false"),
        ({"pbc": [0, 1, 2]}, "pbc is"),
        ({"numbers": ["H", "H"]}, "numbers is not an array of numbers"),
        ({"positions": np.zeros((3, 3))}, "positions has shape"),
        ({"positions": [[0, 0, 0], [0, np.nan, 0]]}, "positions of atom 1 is not finite"),
        ({"forces": np.zeros((2, 2))}, "forces has shape"),
        ({"forces": [[np.inf, 0, 0], [0, 0, 0]]}, "forces of atom 0 is not finite"),
        ({"stress": np.zeros(6)}, "stress has shape"),
        ({"energy": float("nan")}, "energy is nan"),
        ({"charge": float("inf")}, "charge is inf"),
        ({"pbc": [True, False]}, "pbc has shape"),
        ({"pbc": True}, "do not span them"),
        ({"pbc": True, "cell": [[1, 0, 0], [2, 0, 0], [0, 0, 1]]}, "do not span them"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(fields, message):
    settings = {"numbers": [1, 1], "positions": POSITIONS, "name": "pair"} | fields
    with pytest.raises(StructureError, match=message) as refusal:
        Structure(**settings)
    assert "structure 'pair'" in str(refusal.value)


def test_a_slab_needs_no_vector_along_its_open_axis():
    slab = Structure(numbers=[1], positions=np.zeros((1, 3)), cell=np.diag([3.0, 3.0, 0.0]), pbc=(True, True, False))
    assert slab.pbc.tolist() == [True, True, False]


def test_labels_come_from_stored_results_and_charge_and_spin_from_info():
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    stress = np.arange(6.0)
    atoms.info = {"charge": -1, "spin": 2, "name": "salt"}
    atoms.calc = SinglePointCalculator(atoms, energy=-3.5, forces=np.ones((2, 3)), stress=stress)
    structure = Structure.from_atoms(atoms, group="halides")
    assert (structure.energy, structure.charge, structure.spin) == (-3.5, -1.0, 2.0)
    assert (structure.name, structure.group) == ("salt", "halides")
    assert np.array_equal(structure.forces, np.ones((2, 3)))
    # Voigt order xx yy zz yz xz xy
    assert np.array_equal(structure.stress, [[0.0, 5.0, 4.0], [5.0, 1.0, 3.0], [4.0, 3.0, 2.0]])


def test_the_way_to_ase_and_back_keeps_the_geometry():
    atoms = bulk("Si")
    atoms.info = {"charge": 1.0, "spin": 1.0, "name": "a", "group": "b"}
    again = Structure.from_atoms(Structure.from_atoms(atoms).to_atoms())
    assert (again.charge, again.spin, again.name, again.group) == (1.0, 1.0, "a", "b")
    assert np.array_equal(again.positions, atoms.positions)
    assert np.array_equal(again.cell, atoms.cell)
    assert again.pbc.all()


def test_a_structure_does_not_follow_atoms_that_move_later():
    atoms = Atoms("H2", POSITIONS, cell=[9.0, 9.0, 9.0], pbc=True)
    structure = Structure.from_atoms(atoms)
    atoms.positions += 1.0
    atoms.cell[:] = 20.0 * np.eye(3)
    atoms.numbers[:] = 8
    assert np.array_equal(structure.positions, POSITIONS)
    assert structure.cell[0, 0] == 9.0
    assert structure.numbers.tolist() == [1, 1]


def test_reading_atoms_never_runs_a_calculator():
    class Refusing(Calculator):
        implemented_properties = ("energy", "forces")

        def calculate(self, *arguments, **options):
            raise AssertionError("was run")

    atoms = molecule("H2O")
    atoms.calc = Refusing()
    assert Structure.from_atoms(atoms).energy is None
    atoms.calc.atoms = atoms.copy()
    atoms.calc.results = {"energy": 1.0}
    assert Structure.from_atoms(atoms).energy == 1.0
    assert Structure.from_atoms(atoms).forces is None
    atoms.positions += 0.1
    assert Structure.from_atoms(atoms).energy is None


def test_a_changed_copy_is_checked_again():
    structure = Structure(numbers=[1, 1], positions=POSITIONS, energy=1.0)
    assert structure.replace(energy=2.0).energy == 2.0
    assert structure.energy == 1.0
    with pytest.raises(StructureError):
        structure.replace(positions=np.zeros((1, 3)))
