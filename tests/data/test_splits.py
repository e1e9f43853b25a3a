import json

import numpy as np
import pandas
import pytest

from mcgm.data import ByFile, ByFraction, ByGroup, Dataset, OE62Split, Split, split_rule
from mcgm.errors import ConfigError, DataError
from mcgm.structure import Structure


def hydrogens(count, groups=None):
    names = groups or [""] * count
    return Dataset.from_structures(Structure(np.array([1]), np.zeros((1, 3)), group=names[k]) for k in range(count))


@pytest.fixture(scope="module")
def dataset():
    random = np.random.default_rng(0)
    return hydrogens(200, [str(g) for g in random.integers(0, 30, 200)])


def everything(split):
    return np.sort(np.concatenate([split.train, split.val, split.test]))


@pytest.mark.parametrize("rule", [ByFraction(seed=4), ByGroup(seed=4)])
def test_parts_cover_all_and_repeat(rule, dataset):
    split, again = rule.split(dataset), rule.split(dataset)
    np.testing.assert_array_equal(everything(split), np.arange(200))
    np.testing.assert_array_equal(split.train, again.train)
    other = type(rule)(seed=5).split(dataset)
    assert set(other.train) != set(split.train)


def test_no_group_is_in_two_parts(dataset):
    split = ByGroup(train=0.5, val=0.25).split(dataset)
    parts = [set(part.groups) for part in split.subsets(dataset)]
    assert all(parts)
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    assert set(ByFraction().split(dataset).subsets(dataset)[2].groups) & parts[0]


def test_whole_numbers_are_counts(dataset):
    split = ByFraction(train=100, val=10, test=20).split(dataset)
    assert (len(split.train), len(split.val), len(split.test)) == (100, 10, 20)
    assert (len(ByFraction(train=1.0, val=0.0).split(dataset).train)) == 200


@pytest.mark.parametrize("rule", [ByFraction(train=190, val=11), ByFraction(train=0.9, val=0.2), ByFraction(train=1.5)])
def test_more_than_there_is_is_refused(rule, dataset):
    with pytest.raises(ConfigError, match=r"ask for more|required: a count"):
        rule.split(dataset)


def test_a_split_by_group_needs_groups():
    with pytest.raises(DataError, match=r"structure 0 has no group.*data.keys.group"):
        ByGroup().split(hydrogens(3))


def test_index_files_are_read(tmp_path, dataset):
    np.savez(tmp_path / "a.npz", train=[3, 1], val=[2], test=[0])
    (tmp_path / "a.json").write_text(json.dumps({"train": [3, 1], "valid": [2], "test": [0]}))
    (tmp_path / "a.txt").write_text("\n".join(["test", "train", "val", "train"] + ["-"] * 196))
    for name in ("a.npz", "a.json", "a.txt"):
        split = split_rule(str(tmp_path / name)).split(dataset)
        assert (sorted(split.train), split.val.tolist(), split.test.tolist()) == ([1, 3], [2], [0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": [1]}, "no entry 'val'. Entries found: train"),
        ({"train": [1], "val": [200]}, "val has index 200, but the data set has 200"),
        ({"train": [1], "val": [1]}, "structure 1 appears more than once"),
        ({"train": [1.5], "val": [1]}, "train has values of type float64"),
        ({"train": [], "val": [1]}, "training part is empty"),
        ([1, 2], "an object with train, val and test"),
    ],
)
def test_a_wrong_index_file_is_told(tmp_path, dataset, content, message):
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        ByFile(tmp_path / "a.json").split(dataset)


def test_a_missing_or_broken_index_file_is_told(tmp_path, dataset):
    with pytest.raises(DataError, match=r"none.json: cannot be read as a split"):
        ByFile(tmp_path / "none.json").split(dataset)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as a split"):
        ByFile(tmp_path / "a.json").split(dataset)
    (tmp_path / "a.txt").write_text("train tset")
    with pytest.raises(DataError, match=r"unknown part 'tset'. Did you mean 'test'"):
        ByFile(tmp_path / "a.txt").split(dataset)


@pytest.mark.parametrize("rows", [61_489, 500])
def test_the_oe62_split_is_the_shuffle_of_pandas(rows):
    class Rows:
        def __len__(self):
            return rows

    split = OE62Split(train=rows * 8 // 10, val=rows // 10, rows=rows).split(Rows())
    order = pandas.DataFrame(index=range(rows)).sample(frac=1, random_state=42).index.to_numpy()
    np.testing.assert_array_equal(np.concatenate([split.train, split.val, split.test]), order)


def test_the_oe62_split_has_the_sizes_of_the_literature_and_needs_every_row(dataset):
    class Rows:
        def __len__(self):
            return 61_489

    split = split_rule("oe62").split(Rows())
    assert (len(split.train), len(split.val), len(split.test)) == (50_000, 6_000, 5_489)
    with pytest.raises(DataError, match="all 61,489 rows"):
        split_rule("oe62").split(dataset)


def test_aqm_is_85_10_5_and_the_split_by_molecule_does_not_leak(dataset):
    split = split_rule("aqm").split(dataset)
    assert (len(split.train), len(split.val), len(split.test)) == (170, 20, 10)
    train, _, test = split_rule("aqm-by-molecule").split(dataset).subsets(dataset)
    assert not set(train.groups) & set(test.groups)


def test_an_unknown_split_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"unknown split 'aqn'. Did you mean 'aqm'.*Or a file"):
        split_rule("aqn")


def test_a_structure_in_two_parts_is_refused():
    with pytest.raises(DataError, match="structure 2 appears more than once"):
        Split(np.array([1, 2]), np.array([2]), np.array([3]))
