"""RuNNer's `input.data`."""

from dataclasses import replace

import numpy as np
import pytest

from mcgm.data import Dataset, Labels, open_structures
from mcgm.data.labels import RUNNER
from mcgm.data.readers import keys_found
from mcgm.errors import DataError
from mcgm.units import BOHR, HARTREE

WATER = """begin
comment  two of three, charged
atom 0.0 0.0 0.0 O -0.5 0.0 0.1 0.2 0.3
atom 1.8 0.0 0.0 H 0.25 0.0 -0.1 -0.2 -0.3

atom 0.0 1.8 0.0 H 1.25 0.0 0.0 0.0 0.0
energy -76.0
charge 1.0
end
"""
CRYSTAL = """begin
lattice 8.0 0.0 0.0
lattice 0.0 8.0 0.0
lattice 0.0 1.0 9.0
atom 0.5 0.5 0.5 Na
energy -162.0
end
"""


def write(path, text):
    path = path / "input.data"
    path.write_text(text)
    return path


def test_everything_is_read_in_this_packages_units(tmp_path):
    path = write(tmp_path, WATER + CRYSTAL)
    ion, crystal = open_structures(path)
    assert ion.numbers.tolist() == [8, 1, 1]
    np.testing.assert_allclose(ion.positions[1], [1.8 * BOHR, 0, 0])
    np.testing.assert_allclose(ion.forces[0], np.array([0.1, 0.2, 0.3]) * HARTREE / BOHR)
    np.testing.assert_array_equal(ion.charges, [-0.5, 0.25, 1.25])
    assert (ion.energy, ion.charge, ion.pbc.any()) == (-76.0 * HARTREE, 1.0, False)
    np.testing.assert_allclose(crystal.cell[2], [0, BOHR, 9 * BOHR])
    assert crystal.pbc.all()
    assert (crystal.forces, crystal.charges, crystal.charge) == (None, None, 0.0)
    assert keys_found(path) == ["charge", "charges", "energy", "forces"]


def test_a_data_set_of_it_can_be_declared_in_other_units(tmp_path):
    path = write(tmp_path, WATER)
    (ion,) = Dataset.open(path, replace(RUNNER, energy_unit="eV", length_unit="Å", charges=None))
    assert (ion.energy, ion.positions[1, 0], ion.charges) == (-76.0, 1.8, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (WATER[:-4], r"ends within the structure that begins in line 1.*copied completely"),
        (WATER.replace("energy", "enregy"), r"line 7: unknown keyword 'enregy'.*energy"),
        (WATER.replace(" H 0.25", " Hx 0.25"), r"line 4: required: atom x y z symbol charge energy fx fy fz"),
        (WATER.replace(" 0.25 0.0 -0.1", " 0.25 -0.1"), r"line 4: required: atom x y z"),
        (WATER.replace("1.8 0.0 0.0 H 0.25 0.0 -0.1 -0.2 -0.3", "1.8 0.0 0.0 H"), r"line 4: 4 columns; required: 9"),
        (WATER.replace("-76.0", "?"), r"line 7: could not convert"),
        (WATER + "atom 0 0 0 H\n", r"line 10: 'atom' outside a structure"),
        (WATER.replace("comment", "begin"), r"line 2: 'begin' within a structure"),
        (
            CRYSTAL.replace("lattice 8.0 0.0 0.0\n", ""),
            r"line 1, entry 0: 1 atoms, 2 lattice vectors; required: 0 or 3",
        ),
        (CRYSTAL.replace("0.5 Na", "nan Na"), r"line 1, entry 0.*not finite"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        list(open_structures(write(tmp_path, text)))


def test_a_declared_entry_must_be_there(tmp_path):
    with pytest.raises(DataError, match=r"no charge under the key 'charge'.*Keys found: energy"):
        list(open_structures(write(tmp_path, CRYSTAL), Labels(charge="charge")))


def test_the_published_carbon_chains_are_read(shared_data):
    chains = Dataset.open(shared_data / "carbon_chain_4g" / "input.data")
    charge = [structure.charge for structure in chains]
    assert (charge.count(0.0), charge.count(1.0)) == (66, 62)
    for structure in chains:
        assert structure.charges.sum() == pytest.approx(structure.charge, abs=1e-3)
