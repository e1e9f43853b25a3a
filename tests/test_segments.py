"""Sums over rows that share an index: their values, derivatives of any kind, and what they keep for them."""

import pytest
import torch

from mcgm.segments import segment_count, segment_mean, segment_sum

INDEX = torch.tensor([2, 0, 2, 2, 4, 0])
COUNT = 5


@pytest.fixture
def values():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(INDEX), 2, 3, generator=generator, dtype=torch.float64, requires_grad=True)


def test_rows_are_summed_and_averaged_segment_by_segment(values):
    found, mean = segment_sum(values, INDEX, COUNT), segment_mean(values, INDEX, COUNT)
    assert segment_count(INDEX, COUNT).tolist() == [2, 0, 3, 0, 1]
    for k in range(COUNT):
        rows = values[INDEX == k]
        assert torch.allclose(found[k], rows.sum(0))
        assert torch.allclose(mean[k], rows.mean(0) if len(rows) else torch.zeros(2, 3, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's own
def test_sums_are_differentiated_twice_and_forwards(values):
    def squared(rows):
        return segment_sum(rows.square(), INDEX, COUNT).square()

    assert torch.autograd.gradcheck(squared, (values,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(squared, (values,))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_sums_can_be_mapped_and_their_hessian_taken(values):
    rows = values.detach()
    stack = torch.stack([rows, 2 * rows])
    mapped = torch.func.vmap(lambda each: segment_sum(each, INDEX, COUNT))(stack)
    assert torch.allclose(mapped[1], segment_sum(2 * rows, INDEX, COUNT))
    hessian = torch.func.hessian(lambda each: segment_sum(each, INDEX, COUNT).square().sum() / 2)(rows)
    same = (INDEX[:, None] == INDEX).double()
    assert torch.allclose(hessian[:, 0, 0, :, 0, 0], same)
    assert torch.count_nonzero(hessian[:, 0, 0, :, 0, 1]) == 0


def kept(values, function):
    """Which tensors autograd keeps for the gradient."""
    found = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: found.append(tensor) or tensor, lambda tensor: tensor):
        function(values, INDEX, COUNT)
    return [tensor for tensor in found if tensor.is_floating_point()]


def test_the_summed_rows_are_not_kept_for_the_gradient(values):
    rows = values * 2  # not a leaf
    assert kept(rows, segment_sum) == []
    plain = kept(rows, lambda each, index, count: each.new_zeros(count, 2, 3).index_add(0, index, each))
    assert any(tensor.shape == rows.shape for tensor in plain), "torch no longer keeps them: a gradient too many"
