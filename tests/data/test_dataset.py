import multiprocessing
import pickle
import time

import numpy as np
import pytest

from mcgm.data import Dataset, Labels
from mcgm.data.writers import write_extxyz, write_npz
from mcgm.errors import ConfigError, DataError
from mcgm.structure import Structure


@pytest.fixture
def file(tmp_path, molecules, monkeypatch):
    """A file with its cache beside it."""
    monkeypatch.delenv("MCGM_CACHE")
    path = tmp_path / "data.npz"
    write_npz(molecules, path)
    return path


def caches(path):
    return sorted(path.parent.glob("*.mcgm-cache"))


def test_cache_gives_exactly_what_was_read(file, molecules, agree):
    dataset = Dataset.open(file)
    assert all(agree(a, b) for a, b in zip(dataset, molecules, strict=True))
    assert len(caches(file)) == 1
    assert not list(file.parent.glob(".*"))


def test_a_data_set_in_memory_is_the_same(molecules, agree):
    assert all(agree(a, b) for a, b in zip(Dataset.from_structures(molecules), molecules, strict=True))


def test_cells_charges_and_missing_labels_survive(tmp_path, agree):
    salt = Structure(
        numbers=np.array([11, 17]),
        positions=np.array([[0, 0, 0], [2.8, 0, 0]]),
        cell=5.6 * np.eye(3),
        pbc=np.array([True, True, False]),
        stress=np.arange(9.0).reshape(3, 3),
        energy=-3.0,
        name="salt",
    )
    ion = Structure(numbers=np.array([3]), positions=np.zeros((1, 3)), charge=1.0, spin=2.0, forces=np.ones((1, 3)))
    write_npz([salt, ion], tmp_path / "a.npz")
    for dataset in (Dataset.open(tmp_path / "a.npz"), Dataset.from_structures([salt, ion])):
        assert agree(dataset[0], salt)
        assert agree(dataset[1], ion.replace(name=dataset[1].name))
        assert (dataset.has_energy, dataset.has_forces, dataset.has_stress) == (False, False, False)
        assert dataset.subset([1]).has_forces
        assert dataset.lacks("energy").tolist() == [False, True]


def test_more_structures_than_fit_one_chunk_are_in_order(tmp_path):
    items = [Structure(np.array([1 + k % 5]), np.full((1, 3), float(k)), energy=float(k)) for k in range(2345)]
    write_npz(items, tmp_path / "a.npz")
    dataset = Dataset.open(tmp_path / "a.npz")
    np.testing.assert_array_equal(dataset.energies, np.arange(2345.0))
    assert dataset[2222].positions[0, 0] == 2222.0


def test_nothing_is_converted_twice(file):
    Dataset.open(file)
    before = (caches(file)[0] / "positions.npy").stat().st_mtime_ns
    Dataset.open(file)
    assert (caches(file)[0] / "positions.npy").stat().st_mtime_ns == before


def test_a_changed_source_is_converted_again(file, molecules):
    Dataset.open(file)
    write_npz([molecules[0].replace(energy=77.0)], file)
    assert Dataset.open(file).energies.tolist() == [77.0]
    assert len(caches(file)) == 1


def test_another_declaration_has_another_cache(file):
    assert Dataset.open(file).has_forces
    assert not Dataset.open(file, Labels(energy="energy")).has_forces
    assert len(caches(file)) == 2


def test_a_damaged_stamp_is_converted_again(file, molecules):
    Dataset.open(file)
    (caches(file)[0] / "stamp.json").write_text("{")
    assert len(Dataset.open(file)) == len(molecules)


def test_a_folder_that_is_read_only_is_left_alone(file, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    sealed = tmp_path / "sealed"
    sealed.mkdir()
    target = file.rename(sealed / file.name)
    sealed.chmod(0o555)
    try:
        assert len(Dataset.open(target)) == 4
        assert [p.name for p in sealed.iterdir()] == [file.name]
        assert list((tmp_path / "home" / "mcgm").glob("*/*.mcgm-cache"))
    finally:
        sealed.chmod(0o755)


def test_a_conversion_that_fails_leaves_nothing_behind(tmp_path, monkeypatch, molecules):
    monkeypatch.delenv("MCGM_CACHE")
    write_extxyz(molecules, tmp_path / "a.extxyz")
    with pytest.raises(DataError, match="no energy under the key 'E'"):
        Dataset.open(tmp_path / "a.extxyz", Labels(energy="E"))
    assert [p.name for p in tmp_path.iterdir()] == ["a.extxyz"]


def _energies(path):
    return Dataset.open(path).energies.tolist()


def test_processes_may_convert_at_the_same_time(file, molecules):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        read = pool.map(_energies, [file] * 3, chunksize=1)
    assert read == [[s.energy for s in molecules]] * 3
    assert len(caches(file)) == 1
    assert not list(file.parent.glob(".*"))


def test_a_large_file_shows_how_far_it_is(file, monkeypatch, capsys):
    monkeypatch.setattr("mcgm.data.cache.LARGE", 10)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert len(Dataset.open(file)) == 4
    assert "Converting data.npz" in capsys.readouterr().err


def test_subset_of_a_subset_keeps_the_order(molecules):
    dataset = Dataset.from_structures(molecules).subset([3, 0, 2]).subset([2, 0])
    assert [s.name for s in dataset] == ["molecule 2", "molecule 3"]
    assert dataset.sizes.tolist() == [5, 5]
    assert dataset.groups.tolist() == ["2", "2"]
    assert [s.name for s in dataset[1:]] == ["molecule 3"]
    assert dataset[-1].name == "molecule 3"
    with pytest.raises(ConfigError, match="index 2 is outside"):
        dataset.subset([2])
    with pytest.raises(IndexError):
        dataset[2]


def test_composition_counts_atoms_of_elements(molecules):
    composition = Dataset.from_structures(molecules).subset([0, 2]).composition
    assert composition.elements.tolist() == [1, 6, 8]
    assert composition.counts.tolist() == [[2, 0, 1], [4, 1, 0]]


def test_a_required_label_that_is_missing_lists_the_keys(file, molecules):
    dataset = Dataset.open(file)
    dataset.require("energy", "forces")
    with pytest.raises(DataError, match=r"stress required for every structure.*4 have none.*Keys found.*charges, cid"):
        dataset.require("stress")
    with pytest.raises(DataError, match="at least one structure"):
        dataset.subset([]).require("energy")


def test_pickling_does_not_carry_the_arrays(file):
    dataset = Dataset.open(file).subset([2, 1])
    content = pickle.dumps(dataset)
    assert len(content) < 2000
    assert [s.name for s in pickle.loads(content)] == ["molecule 2", "molecule 1"]  # noqa: S301
    memory = pickle.loads(pickle.dumps(Dataset.from_structures(list(dataset))))  # noqa: S301
    assert [s.name for s in memory] == ["molecule 2", "molecule 1"]


def test_items_are_copies(file):
    dataset = Dataset.open(file)
    dataset[0].positions[:] = 0
    assert np.abs(dataset[0].positions).max() > 0


def test_reading_an_item_takes_less_than_a_tenth_of_a_millisecond():
    dataset = Dataset.open("sample")
    times = []
    for start in range(0, 2000, 200):
        before = time.perf_counter()
        for _ in dataset[start : start + 200]:
            pass
        times.append((time.perf_counter() - before) / 200)
    assert min(times) < 1e-4


def test_a_pattern_opens_all_files_in_the_order_of_their_names(tmp_path, molecules, agree):
    bare = [molecule.replace(charges=None, dipole=None, charge=1.0) for molecule in molecules]
    write_npz(bare, tmp_path / "b.npz")
    write_npz(molecules, tmp_path / "a.npz")
    dataset = Dataset.open(tmp_path / "[ab].npz")
    assert all(agree(a, b) for a, b in zip(dataset, [*molecules, *bare], strict=True))
    again = pickle.loads(pickle.dumps(dataset.subset([5])))  # noqa: S301
    assert agree(again[0], bare[1])
    with pytest.raises(DataError, match=r"c\*\.npz: no file fits this pattern"):
        Dataset.open(tmp_path / "c*.npz")
    with pytest.raises(DataError, match=r"charges required.*Keys found in the file: .*charges"):
        dataset.require("charges")


def test_data_sets_are_joined_as_they_were_chosen(molecules, agree):
    first, second = Dataset.from_structures(molecules), Dataset.from_structures(molecules[:2])
    joined = Dataset.joined([first.subset([2, 0]), second])
    expected = [molecules[k] for k in (2, 0, 0, 1)]
    assert all(agree(a, b) for a, b in zip(joined, expected, strict=True))
