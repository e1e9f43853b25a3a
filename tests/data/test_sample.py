import numpy as np
import pytest
from tblite.ase import TBLite

from mcgm.data import Dataset, sample_path, split_rule


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MCGM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield Dataset.open("sample")


def test_the_sample_is_small_and_has_every_label(sample):
    assert sample_path().stat().st_size < 3.5e6
    assert len(sample) == 2000
    assert sample.elements == (1, 6, 7, 8, 9, 15, 16, 17)
    assert sample.has_energy
    assert sample.has_forces
    assert 80 <= len(set(sample.groups)) <= 110


@pytest.mark.parametrize("index", [0, 777, 1999])
def test_labels_are_those_of_the_geometry(sample, index):
    structure = sample[index]
    atoms = structure.to_atoms()
    atoms.calc = TBLite(method="GFN2-xTB", accuracy=0.1, verbosity=0)
    assert structure.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
    np.testing.assert_allclose(structure.forces, atoms.get_forces(), rtol=0, atol=1e-4)


def test_its_splits_have_every_element_and_one_leaks_no_molecule(sample):
    split = split_rule("sample").split(sample)
    assert (len(split.train), len(split.val), len(split.test)) == (1600, 200, 200)
    train, _, test = split.subsets(sample)
    assert train.elements == sample.elements
    assert test.elements == sample.elements
    train, _, test = split_rule("sample-by-molecule").split(sample).subsets(sample)
    assert not set(train.groups) & set(test.groups)
