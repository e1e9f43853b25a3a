"""Batches: structures side by side, moved and cast as a whole."""

import dataclasses

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from mcgm import Batch, build
from mcgm.batch import to
from mcgm.errors import StructureError
from mcgm.segments import rank_in_segment, segment_count, segment_mean, segment_sum, take


def make_batch(dtype=torch.float64):
    charged = molecule("OH")
    charged.info = {"charge": -1.0, "spin": 1.0}
    return Batch.from_atoms([molecule("H2O"), bulk("Si"), charged], cutoff=3.0, dtype=dtype)


def test_structures_stand_side_by_side():
    batch = make_batch()
    assert batch.numbers.tolist() == [8, 1, 1, 14, 14, 8, 1]
    assert batch.molecule.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert (batch.n_atoms, batch.n_molecules, batch.periodic) == (7, 3, True)
    assert batch.charge.tolist() == [0.0, 0.0, -1.0]
    assert batch.spin.tolist() == [0.0, 0.0, 1.0]
    assert batch.pbc.tolist() == [[False] * 3, [True] * 3, [False] * 3]
    assert torch.equal(batch.cell[1], torch.from_numpy(np.asarray(bulk("Si").cell)))
    assert "3 structures, 7 atoms" in repr(batch)


def test_edges_stay_within_their_structure_and_below_the_cutoff():
    batch = make_batch()
    edges = batch.edges
    assert torch.equal(batch.molecule[edges.source], batch.molecule[edges.target])
    assert edges.length.max() < 3.0


def test_an_empty_batch_and_coincident_atoms_are_refused_by_name():
    with pytest.raises(StructureError, match="at least one structure"):
        Batch.from_structures([], cutoff=3.0)
    with pytest.raises(StructureError, match=r"required: a list of them, as in from_atoms"):
        Batch.from_atoms(molecule("H2O"), cutoff=3.0)
    with pytest.raises(StructureError, match="structure '1': atoms 0 and 1"):
        Batch.from_atoms([molecule("H2O"), Atoms("H2", np.zeros((2, 3)))], cutoff=3.0)


def tensors(item):
    if isinstance(item, torch.Tensor):
        return [item]
    if dataclasses.is_dataclass(item):
        return [t for f in dataclasses.fields(item) for t in tensors(getattr(item, f.name))]
    return [t for value in item for t in tensors(value)] if isinstance(item, tuple) else []


def test_a_cast_changes_floating_point_tensors_alone():
    batch = make_batch(torch.float32)
    cast = batch.to(torch.float64)
    assert cast.positions.dtype == cast.cell.dtype == cast.charge.dtype == torch.float64
    assert cast.numbers.dtype == torch.int64
    assert cast.pbc.dtype == torch.bool
    assert cast.cutoff == batch.cutoff


@pytest.mark.parametrize("long_range", ["none", "mcgm", "mcgm_paper"])
@pytest.mark.parametrize("target", ["meta", torch.device("meta")])
def test_a_move_takes_every_tensor_along_with_the_index(long_range, target):
    indexed = build(backbone="painn", long_range=long_range, cutoff=3.0).index(make_batch())
    moved = indexed.to(target)
    assert len(tensors(moved)) == len(tensors(indexed)) > 10
    assert all(tensor.device.type == "meta" for tensor in tensors(moved))
    assert moved.device.type == "meta"


@pytest.mark.parametrize("shift", [1e3, 3e5])
def test_single_precision_keeps_bonds_far_from_the_origin(shift):
    """Float32 resolves 0.03 Å at 3 x 10^5 Å; what the cast takes from an edge is kept beside it."""
    water, far = molecule("H2O"), molecule("H2O")
    far.positions += np.array([shift, -shift, shift])
    near, moved = (Batch.from_atoms([atoms], cutoff=3.0) for atoms in (water, far))
    assert moved.positions.dtype == moved.edges.vector.dtype == torch.float32
    torch.testing.assert_close(moved.edges.vector, near.edges.vector, rtol=0, atol=3e-7)
    exact = Batch.from_atoms([far], cutoff=3.0, dtype=torch.float64)
    for way in (exact.to(torch.float32), exact.to(torch.float32).to("cpu"), moved.to(torch.float64)):
        torch.testing.assert_close(way.edges.vector.float(), near.edges.vector, rtol=0, atol=3e-7)
    potential = build(cutoff=3.0).eval()
    first, second = potential(near), potential(moved)
    torch.testing.assert_close(second.energy, first.energy, rtol=0, atol=1e-5)
    torch.testing.assert_close(second.forces, first.forces, rtol=0, atol=1e-4)


def test_nested_items_are_moved_and_other_values_kept():
    assert to((torch.ones(1), (torch.ones(1, dtype=torch.long), "name", None)), torch.float64) == (
        torch.ones(1, dtype=torch.float64),
        (torch.ones(1, dtype=torch.long), "name", None),
    )


def test_sums_means_counts_and_ranks_of_segments_are_those_of_a_loop():
    index = torch.tensor([2, 0, 2, 2, 0])
    values = torch.arange(10.0, dtype=torch.float64).reshape(5, 2)
    for segment in range(4):
        own = values[index == segment]
        torch.testing.assert_close(segment_sum(values, index, 4)[segment], own.sum(0))
        mean = own.mean(0) if len(own) else torch.zeros(2, dtype=torch.float64)
        torch.testing.assert_close(segment_mean(values, index, 4)[segment], mean)
    assert segment_count(index, 4).tolist() == [2, 0, 3, 0]
    assert rank_in_segment(index, 4).tolist() == [0, 0, 1, 2, 1]
    assert torch.equal(take(values, index), values[index])


def test_sums_over_segments_can_be_differentiated_twice():
    index = torch.tensor([1, 0, 1])
    values = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    for function in (segment_sum, segment_mean):
        assert torch.autograd.gradgradcheck(lambda x, f=function: f(x, index, 2) ** 3, values)
