import h5py
import numpy as np
import pytest

from mcgm.data import Labels, open_structures
from mcgm.data.readers import FORMATS, keys_found
from mcgm.errors import DataError


@pytest.fixture
def aqm(tmp_path, molecules):
    """Two molecules with two conformers each; the forces of one are flat, as in AQM."""
    path = tmp_path / "AQM-gas.hdf5"
    with h5py.File(path, "w") as file:
        for k, s in enumerate(molecules):
            group = file.create_group(f"Geom-m{k // 2 + 1}/Geom-m{k // 2 + 1}-c{k % 2 + 1}")
            group["atNUM"] = s.numbers
            group["atXYZ"] = s.positions
            group["totFOR"] = s.forces.ravel() if k % 2 else s.forces
            group["ePBE0+MBD"] = np.array([s.energy])
            group["eAT"] = np.array([-4.0 * len(s)])
    return path


def test_aqm_layout_gives_structures_with_their_molecule(aqm, molecules):
    read = list(open_structures(aqm))
    assert [s.group for s in read] == ["Geom-m1", "Geom-m1", "Geom-m2", "Geom-m2"]
    assert read[1].name == "Geom-m1/Geom-m1-c2"
    for a, b in zip(read, molecules, strict=True):
        np.testing.assert_array_equal(a.forces, b.forces)
        np.testing.assert_array_equal(a.positions, b.positions)
        assert a.energy == b.energy


def test_atomisation_energies_are_another_declaration(aqm):
    assert [s.energy for s in open_structures(aqm, "aqm-atomisation")] == [-12.0, -16.0, -20.0, -20.0]


def test_an_optional_label_that_is_nan_is_absent(aqm):
    labels = Labels(numbers="atNUM", positions="atXYZ", energy="ePBE0+MBD", optional=("energy",))
    with h5py.File(aqm, "a") as file:
        file["Geom-m1/Geom-m1-c2/ePBE0+MBD"][...] = np.nan
    energies = [s.energy for s in open_structures(aqm, labels)]
    assert energies[1] is None
    assert None not in (energies[0], *energies[2:])


def test_keys_and_count_are_told(aqm):
    assert keys_found(aqm) == ["atNUM", "atXYZ", "eAT", "ePBE0+MBD", "totFOR"]
    assert FORMATS["hdf5"].entries(aqm, FORMATS["hdf5"].labels) == 4


def test_a_missing_property_names_its_group(aqm):
    with h5py.File(aqm, "a") as file:
        del file["Geom-m2/Geom-m2-c1/totFOR"]
    with pytest.raises(
        DataError, match=r"group /Geom-m2/Geom-m2-c1: no forces under the key 'totFOR'.*Keys found: atNUM"
    ):
        list(open_structures(aqm))


def test_a_shape_that_does_not_fit_is_told(aqm):
    with h5py.File(aqm, "a") as file:
        group = file["Geom-m1/Geom-m1-c1"]
        del group["totFOR"]
        group["totFOR"] = np.zeros(7)
    with pytest.raises(DataError, match=r"totFOR: cannot be read as forces"):
        list(open_structures(aqm))


def test_another_key_for_positions_is_asked_for(aqm):
    with pytest.raises(DataError, match=r"no group holds positions under the key 'coordinates'. Keys found: atNUM"):
        list(open_structures(aqm, Labels(positions="coordinates")))


def test_a_truncated_file_is_told(aqm, tmp_path):
    content = aqm.read_bytes()
    (tmp_path / "cut.h5").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"cut.h5: not a readable HDF5"):
        list(open_structures(tmp_path / "cut.h5"))
