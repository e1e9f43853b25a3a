"""Under `torch.autocast` the layers of a backbone compute in bfloat16; sums, clusters, energies and geometry do not."""

import pytest
import torch

from mcgm import Batch, build
from mcgm.data import Dataset
from mcgm.long_range import BLOCKS
from mcgm.segments import segment_sum


@pytest.fixture(scope="module")
def structures():
    dataset = Dataset.open("sample")
    return [dataset[k] for k in range(3)]


def predictions(structures, backbone, block):
    """In single precision, and mixed."""
    torch.manual_seed(0)
    potential = build(backbone=backbone, long_range=block, cutoff=4.0)
    batch = potential.index(Batch.from_structures(structures, cutoff=4.0))
    single = potential(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return single, potential(batch)


def difference(one, other):
    return float((one - other).detach().norm() / one.detach().norm())


BACKBONES = ("schnet", "painn", "visnet", "dimenet++", "gemnet-t")
CASES = [(backbone, block) for backbone in BACKBONES for block in ("none", "mcgm", "mcgm_paper")]
CASES += [("painn", block) for block in ("range", "ewald", "charges", "mcgm_oriented")]


@pytest.mark.parametrize(("backbone", "block"), CASES)
def test_lower_precision_is_that_of_eight_bits(structures, backbone, block):
    single, mixed = predictions(structures, backbone, block)
    assert (mixed.energy.dtype, mixed.forces.dtype) == (torch.float64, torch.float32)
    assert 1e-4 < difference(single.forces, mixed.forces) < 0.05
    for levels in mixed.clusters:
        assert all(level.assignment.weight.dtype == torch.float32 for level in levels)


@pytest.mark.parametrize("block", sorted(BLOCKS))
def test_a_batch_without_an_index_is_indexed_exactly(structures, block):
    torch.manual_seed(0)
    potential = build(long_range=block, cutoff=4.0)
    batch = Batch.from_structures(structures, cutoff=4.0)
    indexed = potential.index(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(potential(batch).energy, potential(indexed).energy)


def test_far_from_the_origin_nothing_changes(structures):
    """Positions rounded to eight bits would be off by 30 Å there."""
    far = [structure.replace(positions=structure.positions + 6e3) for structure in structures]
    here, there = predictions(structures, "painn", "mcgm")[1], predictions(far, "painn", "mcgm")[1]
    assert difference(here.forces, there.forces) < 0.01


def test_strain_is_applied_in_full():
    """The stress is a sum of positions times forces: with positions of eight bits it would depend on the origin."""
    here = Dataset.open("sample")[0].replace(cell=torch.eye(3).numpy() * 20.0, pbc=(True, True, True))
    there = here.replace(positions=here.positions + 100.0)
    near, far = (predictions([structure], "schnet", "mcgm")[1] for structure in (here, there))
    assert difference(near.stress, far.stress) < 0.05


def test_sums_keep_small_terms():
    ones = torch.ones(4097, 1, dtype=torch.bfloat16)  # of which bfloat16 knows 4096
    index = torch.zeros(4097, dtype=torch.long)
    assert segment_sum(ones, index, 1).item() == 4097
    assert torch.zeros(1, 1, dtype=torch.bfloat16).index_add(0, index, ones).item() == 4096
