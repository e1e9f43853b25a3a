import numpy as np
import pytest

from mcgm.data import Labels, open_structures
from mcgm.errors import ConfigError, DataError
from mcgm.units import HARTREE


def flat(molecules, **changes):
    arrays = {
        "n_atoms": np.array([len(s) for s in molecules], dtype=np.int32),
        "numbers": np.concatenate([s.numbers for s in molecules]).astype(np.uint8),
        "positions": np.concatenate([s.positions for s in molecules]),
        "forces": np.concatenate([s.forces for s in molecules]),
        "charges": np.concatenate([s.charges for s in molecules]),
        "energy": np.array([s.energy for s in molecules]),
        "dipole": np.array([s.dipole for s in molecules]),
        "cid": np.array([int(s.group) for s in molecules]),
        "name": np.array([s.name for s in molecules]),
    }
    return {name: value for name, value in (arrays | changes).items() if value is not None}


def test_flat_arrays_give_the_structures_back(tmp_path, molecules, agree):
    np.savez(tmp_path / "a.npz", **flat(molecules))
    assert all(agree(a, b) for a, b in zip(open_structures(tmp_path / "a.npz"), molecules, strict=True))


def test_padded_arrays_leave_the_padding_out(tmp_path, molecules):
    most = max(len(s) for s in molecules)
    numbers, positions = np.zeros((4, most), dtype=int), np.full((4, most, 3), 7.0)
    for k, s in enumerate(molecules):
        numbers[k, : len(s)], positions[k, : len(s)] = s.numbers, s.positions
    np.savez(tmp_path / "a.npz", Z=numbers, R=positions, T=np.array([[s.energy for s in molecules]]))
    labels = Labels(numbers="Z", positions="R", energy="T", energy_unit="hartree")
    read = list(open_structures(tmp_path / "a.npz", labels))
    assert [len(s) for s in read] == [3, 4, 5, 5]
    for a, b in zip(read, molecules, strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)
        assert a.energy == pytest.approx(b.energy * HARTREE)


def test_one_composition_is_shared_by_all_geometries(tmp_path, molecules):
    positions = np.stack([s.positions for s in molecules[2:]])
    np.savez(tmp_path / "a.npz", z=molecules[2].numbers, R=positions, E=np.array([[1.0], [2.0]]), F=-positions)
    read = list(open_structures(tmp_path / "a.npz", "md17"))
    assert [s.numbers.tolist() for s in read] == [[6, 1, 1, 1, 1]] * 2
    assert read[1].energy == pytest.approx(2 * 0.0433641, rel=1e-6)
    np.testing.assert_allclose(read[1].forces, -positions[1] * 0.0433641, rtol=1e-6)


def test_as_many_atoms_as_geometries_is_not_mistaken_for_another_layout(tmp_path):
    positions = np.random.default_rng(0).normal(size=(3, 3, 3))
    np.savez(tmp_path / "a.npz", numbers=np.array([8, 1, 1]), positions=positions, forces=positions + 1)
    for k, s in enumerate(open_structures(tmp_path / "a.npz")):
        np.testing.assert_array_equal(s.numbers, [8, 1, 1])
        np.testing.assert_array_equal(s.forces, positions[k] + 1)


def test_a_declared_key_that_is_missing_lists_the_keys_found(tmp_path, molecules):
    np.savez(tmp_path / "a.npz", **flat(molecules))
    with pytest.raises(
        DataError, match=r"'energies'.*Did you mean 'energy'.*Keys found: charges, cid.*data.keys.energy"
    ):
        list(open_structures(tmp_path / "a.npz", Labels(energy="energies")))


def test_an_optional_label_may_be_nan_and_a_declared_one_may_not(tmp_path, molecules):
    np.savez(tmp_path / "a.npz", **flat(molecules, energy=np.array([1.0, np.nan, 3.0, 4.0])))
    assert [s.energy for s in open_structures(tmp_path / "a.npz")] == [1.0, None, 3.0, 4.0]
    with pytest.raises(DataError, match=r"entry 1.*energy is nan"):
        list(open_structures(tmp_path / "a.npz", Labels(energy="energy")))


def test_lengths_that_do_not_fit_are_told(tmp_path, molecules):
    np.savez(tmp_path / "a.npz", **flat(molecules, n_atoms=np.array([3, 4, 5, 6])))
    with pytest.raises(DataError, match=r"sums to 18 atoms, but .* has 17"):
        list(open_structures(tmp_path / "a.npz"))
    np.savez(tmp_path / "b.npz", **flat(molecules, energy=np.zeros(3)))
    with pytest.raises(DataError, match=r"energy has shape .3,.; required: one for each of 4"):
        list(open_structures(tmp_path / "b.npz"))


def test_objects_in_the_archive_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", numbers=np.array([[1, 8], [1]], dtype=object), positions=np.zeros((2, 2, 3)))
    with pytest.raises(DataError, match=r"'numbers' cannot be read"):
        list(open_structures(tmp_path / "a.npz"))


def test_broken_files_are_told_apart(tmp_path, molecules):
    np.savez(tmp_path / "whole.npz", **flat(molecules))
    content = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"cut.npz: not a readable npz.*copied completely"):
        list(open_structures(tmp_path / "cut.npz"))
    (tmp_path / "empty.npz").touch()
    with pytest.raises(DataError, match=r"is empty"):
        open_structures(tmp_path / "empty.npz")
    with pytest.raises(DataError, match=r"is a folder"):
        open_structures(tmp_path)
    with pytest.raises(DataError, match=r"no such file"):
        open_structures(tmp_path / "none.npz")
    with pytest.raises(ConfigError, match=r"unknown format 'npy'.*Did you mean 'npz'"):
        open_structures(tmp_path / "whole.npz", format="npy")


def test_an_unknown_unit_is_refused_before_anything_is_read():
    with pytest.raises(ConfigError, match=r"unknown unit 'kcal'"):
        Labels(energy="energy", energy_unit="kcal")
    with pytest.raises(ConfigError, match=r"unknown energy_kind 'atomization'.*Did you mean 'atomisation'"):
        Labels(energy_kind="atomization")


def test_the_unit_of_forces_follows_from_energy_and_length_unless_it_is_given():
    assert Labels(energy_unit="hartree", length_unit="bohr").factor("forces") == pytest.approx(51.42207, rel=1e-6)
    assert Labels(energy_unit="hartree", forces_unit="eV/Å").factor("forces") == 1.0
