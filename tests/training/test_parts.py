"""Which structures of a file are trained on, where some are left out."""

import json

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mcgm.training.config import DataConfig, SplitConfig
from mcgm.training.preparation import open_parts


def frames(count, *, without_energy=(), without_forces=()):
    """Two atoms ever further apart, in groups of ten."""
    made = []
    for k in range(count):
        atoms = Atoms("OH", [[0, 0, 0], [1 + 0.001 * k, 0, 0]], info={"name": f"s{k}", "group": f"g{k // 10}"})
        results = {} if k in without_energy else {"energy": -1.0 - 0.01 * k}
        results |= {} if k in without_forces else {"forces": np.full((2, 3), 0.01 * k)}
        atoms.calc = SinglePointCalculator(atoms, **results)
        made.append(atoms)
    return made


@pytest.fixture
def written(tmp_path):
    """A function that writes frames and gives the file's path."""

    def write(*arguments, **options):
        ase.io.write(tmp_path / "data.extxyz", frames(*arguments, **options))
        return str(tmp_path / "data.extxyz")

    return write


@pytest.mark.parametrize("kind", ["json", "txt"])
def test_a_split_file_counts_all_structures_whichever_are_dropped(written, tmp_path, kind):
    path = written(10, without_energy=(0, 1, 5))
    file = tmp_path / f"split.{kind}"
    words = ["-", "-", "train", "train", "train", "train", "val", "val", "test", "test"]
    indices = {part: [k for k, word in enumerate(words) if word == part] for part in ("train", "val", "test")}
    file.write_text(json.dumps(indices) if kind == "json" else " ".join(words))
    parts = open_parts(DataConfig(path=path, unlabelled="drop", split=SplitConfig(file=str(file))))
    assert list(parts.train.names) == ["s2", "s3", "s4"]
    assert list(parts.val.names) == ["s6", "s7"]
    assert list(parts.test.names) == ["s8", "s9"]
    assert len(parts.everything) == 7


def test_forces_are_learnt_where_only_late_structures_have_them(written):
    by_group = SplitConfig(by_group=True)  # in the order of the file
    assert open_parts(DataConfig(path=written(150, without_forces=range(120)), split=by_group)).forces
    assert not open_parts(DataConfig(path=written(150, without_forces=range(150)))).forces


@pytest.mark.parametrize("split", [SplitConfig(by_group=True), SplitConfig()])
def test_a_limit_takes_structures_from_all_over(written, split):
    path = written(200)
    few, more = (open_parts(DataConfig(path=path, split=split, limit=limit)).train for limit in (16, 40))
    assert len(few) == 16
    assert len(set(few.groups)) > 5
    assert set(few.names) < set(more.names)
