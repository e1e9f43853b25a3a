import gzip
import zipfile
from itertools import islice

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator

from mcgm.data import Labels, open_structures
from mcgm.data.readers import keys_found
from mcgm.data.writers import labelled_atoms, write_extxyz, write_npz, write_structures
from mcgm.errors import ConfigError, DataError


@pytest.fixture
def extxyz(tmp_path, molecules):
    path = tmp_path / "a@1.extxyz"
    write_extxyz(molecules, path)
    return path


def test_extxyz_gives_the_structures_back(extxyz, molecules, agree):
    read = list(open_structures(extxyz))
    assert all(agree(a, b, 1e-8) for a, b in zip(read, molecules, strict=True))


NAMES = ("001", "1", "1_2", "12", "1.10", "1e3", "T", "1 2 3", "a b", "c=d", 'e"f', "[4]", "uid=7")


@pytest.mark.parametrize("suffix", [".extxyz", ".zip"])
def test_names_and_groups_stay_as_they_are_written(tmp_path, suffix):
    """Conformers 1_2 and molecule 12 are one number to ASE, and would share a group."""
    frames = [Atoms("H", positions=[[0, 0, 0]], info={"note": "name=0 is", "name": n, "group": n}) for n in NAMES]
    ase.io.write(tmp_path / "a.extxyz", frames)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.extxyz", "a.extxyz")
    read = list(open_structures(tmp_path / f"a{suffix}", Labels(name="name", group="group")))
    assert tuple(s.name for s in read) == tuple(s.group for s in read) == NAMES


def test_npz_gives_the_structures_back_exactly(tmp_path, molecules, agree):
    write_npz(molecules, tmp_path / "a.npz")
    read = list(open_structures(tmp_path / "a.npz"))
    assert all(agree(a, b) for a, b in zip(read, molecules, strict=True))


def test_compressed_text_is_read(extxyz, tmp_path, molecules):
    (tmp_path / "b.extxyz.gz").write_bytes(gzip.compress(extxyz.read_bytes()))
    assert len(list(open_structures(tmp_path / "b.extxyz.gz"))) == len(molecules)


def test_a_periodic_structure_keeps_cell_and_stress(tmp_path):
    atoms = Atoms("Na", cell=np.diag([3.0, 4.0, 5.0]), pbc=True, positions=[[0.1, 0.2, 0.3]])
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, stress=np.arange(6.0))
    ase.io.write(tmp_path / "a.extxyz", atoms)
    (read,) = open_structures(tmp_path / "a.extxyz")
    np.testing.assert_array_equal(read.cell, np.diag([3.0, 4.0, 5.0]))
    np.testing.assert_array_equal(read.stress, [[0, 5, 4], [5, 1, 3], [4, 3, 2]])
    assert read.pbc.all()


def test_declared_keys_and_units_are_converted(tmp_path):
    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 1.0]], info={"E": 2.0, "Q": -1})
    atoms.arrays["grad"] = np.ones((2, 3))
    ase.io.write(tmp_path / "a.extxyz", atoms)
    labels = Labels(energy="E", forces="grad", charge="Q", energy_unit="kcal/mol", length_unit="bohr")
    (read,) = open_structures(tmp_path / "a.extxyz", labels)
    assert read.energy == pytest.approx(0.0867282, rel=1e-5)
    assert read.forces[0, 0] == pytest.approx(0.0433641 / 0.529177, rel=1e-5)
    assert read.positions[1, 2] == pytest.approx(0.529177, rel=1e-6)
    assert read.charge == -1.0


def test_a_missing_key_names_file_entry_and_the_keys_found(extxyz):
    with pytest.raises(DataError, match=r"entry 0: no energy under the key 'REF_energy'.*Keys found: .*dipole, energy"):
        list(open_structures(extxyz, Labels(energy="REF_energy")))
    assert {"energy", "forces", "name", "group"} <= set(keys_found(extxyz))


def test_absent_labels_are_none_by_default(tmp_path):
    ase.io.write(tmp_path / "a.extxyz", Atoms("H", positions=[[0, 0, 0]]))
    (read,) = open_structures(tmp_path / "a.extxyz")
    assert read.energy is None
    assert read.forces is None


def test_ase_database_gives_results_and_data(tmp_path, molecules):
    with ase.db.connect(tmp_path / "a.db") as database:
        for structure in molecules:
            database.write(labelled_atoms(structure), data={"U0": np.array([structure.energy * 2])}, level="high")
    read = list(open_structures(tmp_path / "a.db"))
    assert [s.energy for s in read] == pytest.approx([s.energy for s in molecules])
    twice = list(open_structures(tmp_path / "a.db", Labels(energy="U0")))
    assert [s.energy for s in twice] == pytest.approx([2 * s.energy for s in molecules])


def test_trajectory_is_read(tmp_path, molecules):
    ase.io.write(tmp_path / "a.traj", [labelled_atoms(s) for s in molecules])
    assert [s.energy for s in open_structures(tmp_path / "a.traj")] == [s.energy for s in molecules]


def test_a_file_that_ends_early_is_told(extxyz, tmp_path):
    lines = extxyz.read_text().splitlines(keepends=True)
    (tmp_path / "cut.extxyz").write_text("".join(lines[:-2]))
    with pytest.raises(DataError, match=r"cut.extxyz, line 19: announces 5 atoms, but the file ends after 3 of them"):
        list(open_structures(tmp_path / "cut.extxyz"))


def test_text_that_is_no_structure_is_told(tmp_path):
    (tmp_path / "a.extxyz").write_text("hello\n")
    with pytest.raises(DataError, match=r"a.extxyz, line 1: required: the number of atoms that follow; got 'hello'"):
        list(open_structures(tmp_path / "a.extxyz"))


def test_a_position_that_is_not_finite_names_entry_and_atom(tmp_path):
    (tmp_path / "a.xyz").write_text("1\n\nH 0 0 0\n2\n\nH 0 0 0\nH 0 nan 1\n")
    with pytest.raises(DataError, match=r"entry 1: .*positions of atom 1 is not finite"):
        list(open_structures(tmp_path / "a.xyz"))


def test_a_label_of_the_wrong_shape_names_its_key(tmp_path):
    ase.io.write(tmp_path / "a.extxyz", Atoms("H2", positions=[[0, 0, 0], [0, 0, 1.0]], info={"E": [1.0, 2.0]}))
    with pytest.raises(DataError, match=r"key 'E': is not energy"):
        list(open_structures(tmp_path / "a.extxyz", Labels(energy="E")))


def test_a_writer_leaves_no_half_file_behind(tmp_path, molecules):
    def broken():
        yield molecules[0]
        raise RuntimeError("stop")

    (tmp_path / "a.extxyz").write_text("old")
    with pytest.raises(RuntimeError, match=r"stop"):
        write_structures(broken(), tmp_path / "a.extxyz")
    assert [p.name for p in tmp_path.iterdir()] == ["a.extxyz"]
    assert (tmp_path / "a.extxyz").read_text() == "old"
    with pytest.raises(ConfigError, match=r"unknown suffix '.cif'"):
        write_structures(molecules, tmp_path / "a.cif")


@pytest.mark.parametrize(
    ("file", "labels", "energy"),
    [
        ("aqm_sample/tests_aqm_small_10.xyz", Labels(energy="REF_energy", forces="REF_forces"), -1101.49444),
        (
            "md_small/md17_ethanol_sampledata_kcal.xyz",
            Labels(energy="energy", forces="forces", energy_unit="kcal/mol"),
            -97195.01189948035 * units.kcal / units.mol,
        ),
        ("qm7_pbe0/qm7.extxyz.gz", None, -18.08417576),
        ("water_rpbe_d3/test-H2O_RPBE-D3.xyz", None, -933.4166530484531),
    ],
)
def test_published_files_are_read(shared_data, file, labels, energy):
    first, *rest = islice(open_structures(shared_data / file, labels), 10)
    assert first.energy == pytest.approx(energy, rel=1e-7)
    assert len(rest) == 9


def test_charges_and_energies_may_be_sums_of_entries(tmp_path):
    info = {"E": -5.0, "E_A": -3.0, "E_B": -1.5, "chargeA": 1, "chargeB": -2}
    ase.io.write(tmp_path / "a.extxyz", Atoms("H2", positions=[[0, 0, 0], [0, 0, 1.0]], info=info))
    labels = Labels(energy="E - E_A - E_B", charge="chargeA + chargeB", energy_kind="interaction")
    (read,) = open_structures(tmp_path / "a.extxyz", labels)
    assert (read.energy, read.charge) == (-0.5, -1.0)
    with pytest.raises(DataError, match=r"no energy under the key 'E - E_C'"):
        list(open_structures(tmp_path / "a.extxyz", Labels(energy="E - E_C")))


@pytest.mark.parametrize("charge", [0.0, -1.0])
def test_dipoles_of_ions_about_the_origin_are_read_about_the_centre_of_mass(tmp_path, charge):
    charges = np.array([0.3, -0.3 + charge])
    atoms = Atoms("HF", positions=[[2.0, 1.0, 0.0], [2.0, 1.0, 0.9]], info={"charge": charge})
    atoms.calc = SinglePointCalculator(atoms, dipole=charges @ atoms.positions)
    ase.io.write(tmp_path / "a.extxyz", atoms)
    (read,) = open_structures(tmp_path / "a.extxyz", Labels(dipole="dipole", charge="charge", dipole_about="origin"))
    expected = charges @ (atoms.positions - atoms.get_center_of_mass())
    np.testing.assert_allclose(read.dipole, expected, atol=1e-3)
