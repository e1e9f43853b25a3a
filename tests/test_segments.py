"""Sums over rows that share an index: their values, derivatives of any kind, and what they keep for them."""

import pytest
import torch

from mcgm import segments
from mcgm.segments import segment_count, segment_mean, segment_sum, take

INDEX = torch.tensor([2, 0, 2, 2, 4, 0])
COUNT = 5


@pytest.fixture(params=["small", "large"], autouse=True)
def size(request, monkeypatch):
    """Small and large rows have gradients of different make."""
    if request.param == "large":
        monkeypatch.setattr(segments, "LARGE", 1)
    return request.param


@pytest.fixture
def values():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(INDEX), 2, 3, generator=generator, dtype=torch.float64, requires_grad=True)


def test_rows_are_summed_and_averaged_segment_by_segment(values):
    found, mean = segment_sum(values, INDEX, COUNT), segment_mean(values, INDEX, COUNT)
    assert segment_count(INDEX, COUNT).tolist() == [2, 0, 3, 0, 1]
    for k in range(COUNT):
        rows = values[k == INDEX]
        assert torch.allclose(found[k], rows.sum(0))
        assert torch.allclose(mean[k], rows.mean(0) if len(rows) else torch.zeros(2, 3, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's own
def test_sums_are_differentiated_twice_and_forwards(values):
    def squared(rows):
        return segment_sum(take(rows, INDEX).square(), INDEX, COUNT).square()

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


def test_large_rows_that_are_summed_are_not_kept_for_the_gradient(values, size):
    rows = values * 2  # not a leaf
    assert (kept(rows, segment_sum) == []) == (size == "large"), "torch itself keeps them"


def test_slopes_of_large_rows_that_were_taken_are_not_kept_for_second_derivatives(values, monkeypatch):
    def derived(rows, index, count):
        torch.autograd.grad(take(rows, index).square().sum(), rows, create_graph=True)

    monkeypatch.setattr(segments, "LARGE", 1)
    large = len(kept(values * 2, derived))
    monkeypatch.setattr(segments, "LARGE", 10**9)
    assert len(kept(values * 2, derived)) == large + 1


def test_large_and_small_rows_give_the_same_to_the_last_bit(values, monkeypatch):
    def found():
        energy = segment_sum(take(values, INDEX).square(), INDEX, COUNT).square().sum()
        (slope,) = torch.autograd.grad(energy, values, create_graph=True)
        return energy, slope, torch.autograd.grad(slope.square().sum(), values)[0]

    monkeypatch.setattr(segments, "LARGE", 1)
    large = found()
    monkeypatch.setattr(segments, "LARGE", 10**9)
    assert all(torch.equal(*pair) for pair in zip(large, found(), strict=True))
