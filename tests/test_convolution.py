"""Convolutions over pairs: what they give, their derivatives of any kind, and what they keep for them."""

import pytest
import torch

from mcgm import convolution
from mcgm.convolution import convolve, correlate, messages

ATOMS = 5
FIRST = torch.tensor([0, 0, 1, 2, 3, 1, 4])
SECOND = torch.tensor([1, 2, 2, 4, 3, 1, 0])  # with atoms that are their own neighbours, by an image


def edges(ways):
    """Every pair, one way or both."""
    if ways == 1:
        return SECOND, FIRST, 1
    return torch.cat([SECOND, FIRST]), torch.cat([FIRST, SECOND]), 2


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


@pytest.fixture(params=["plain", "a block", "blocks"], autouse=True)
def form(request, monkeypatch):
    """As it is written, in one block, and in blocks of two pairs or fewer with a rest."""
    if request.param != "plain":
        monkeypatch.setattr(convolution, "LARGE", 1)
    if request.param == "blocks":
        monkeypatch.setattr(convolution, "CACHE", 2 * 2 * 8)
    return request.param


@pytest.fixture(params=[(), (3,), (3, 2)], ids=["scalars", "vectors", "tensors"])
def rest(request):
    return request.param


@pytest.mark.parametrize("ways", [1, 2])
def test_every_neighbour_adds_its_value_times_the_weight_of_the_pair(ways, rest):
    values, weight = numbers(ATOMS, *rest, 2), numbers(len(FIRST), 2, seed=1)
    expected = torch.zeros(ATOMS, *rest, 2, dtype=torch.float64)
    source, target, _ = edges(ways)
    for edge, (there, here) in enumerate(zip(source.tolist(), target.tolist(), strict=True)):
        expected[here] += values[there] * weight[edge % len(FIRST)]
    assert torch.allclose(convolve(values, weight, *edges(ways)), expected)


@pytest.mark.parametrize("ways", [1, 2])
def test_a_pair_has_the_products_of_its_ends(ways, rest):
    first, second = numbers(ATOMS, *rest, 2), numbers(ATOMS, *rest, 2, seed=1)
    source, target, _ = edges(ways)
    product = first[target] * second[source]
    while product.dim() > 2:
        product = product.sum(1)
    expected = sum(product.chunk(ways))
    assert torch.allclose(correlate(first, second, *edges(ways)), expected)


@pytest.mark.parametrize("ways", [1, 2])
def test_a_message_is_the_value_of_its_source_times_the_weight_of_its_pair(ways):
    values, weight = numbers(ATOMS, 2), numbers(len(FIRST), 2, seed=1)
    source, _, _ = edges(ways)
    assert torch.equal(messages(values, weight, source, ways), values[source] * weight.repeat(ways, 1))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("ways", [1, 2])
@pytest.mark.parametrize("function", [convolve, correlate, messages])
def test_they_are_differentiated_twice_and_forwards(function, ways):
    source, target, _ = edges(ways)
    if function is messages:
        inputs, pattern = (numbers(ATOMS, 2), numbers(len(FIRST), 2, seed=1)), (source, ways)
    else:
        other = numbers(len(FIRST), 2, seed=1) if function is convolve else numbers(ATOMS, 3, 2, seed=1)
        inputs, pattern = (numbers(ATOMS, 3, 2), other), (source, target, ways)

    def squared(*both):
        return function(*both, *pattern).square()

    assert torch.autograd.gradcheck(squared, inputs, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(squared, inputs, check_batched_grad=True)


def test_one_input_may_be_constant():
    values, weight = numbers(ATOMS, 2), numbers(len(FIRST), 2, seed=1)
    for changing in (0, 1):
        inputs = [values.detach(), weight.detach()]
        inputs[changing].requires_grad_()

        def squared(varied, inputs=inputs, changing=changing):
            both = [varied if k == changing else constant for k, constant in enumerate(inputs)]
            return convolve(*both, *edges(2)).square()

        assert torch.autograd.gradcheck(squared, (inputs[changing],), check_forward_ad=True)
        assert torch.autograd.gradgradcheck(squared, (inputs[changing],))


def test_their_hessian_can_be_taken_by_functional_transforms():
    values, weight = numbers(ATOMS, 2).detach(), numbers(len(FIRST), 2, seed=1).detach()
    hessian = torch.func.hessian(lambda each: convolve(each, weight, *edges(2)).square().sum() / 2)(values)
    jacobian = torch.autograd.functional.jacobian(lambda each: convolve(each, weight, *edges(2)), values)
    assert torch.allclose(hessian, torch.einsum("abcd,abef->cdef", jacobian, jacobian))


def test_no_pairs_give_zeros():
    nothing = torch.zeros(0, dtype=torch.long)
    values, weight = numbers(ATOMS, 3, 2), numbers(0, 2)
    assert torch.equal(convolve(values, weight, nothing, nothing, 2), torch.zeros_like(values))
    assert correlate(values, values, nothing, nothing, 2).shape == (0, 2)


def test_half_precision_adds_up_in_single():
    values, weight = (each.detach().bfloat16() for each in (numbers(ATOMS, 2), numbers(len(FIRST), 2, seed=1)))
    found = convolve(values, weight, *edges(2))
    assert found.dtype == torch.float32
    assert torch.equal(found, convolve(values.float(), weight.float(), *edges(2)))


def test_every_form_gives_the_same(form, monkeypatch):
    def found():
        values, weight = numbers(ATOMS, 3, 2), numbers(len(FIRST), 2, seed=1)
        energy = convolve(values, weight, *edges(2)).square().sum()
        slopes = torch.autograd.grad(energy, (values, weight), create_graph=True)
        return [energy, *slopes, *torch.autograd.grad(sum(each.square().sum() for each in slopes), (values, weight))]

    here = found()
    monkeypatch.setattr(convolution, "LARGE", 10**9)
    assert all(torch.allclose(*pair, rtol=1e-12, atol=0) for pair in zip(here, found(), strict=True))


def test_no_message_is_kept_for_the_gradient(form):
    values, weight = numbers(ATOMS, 2) * 2, numbers(len(FIRST), 2, seed=1) * 2
    kept = []
    hooks = torch.autograd.graph.saved_tensors_hooks
    with hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        convolve(values, weight, *edges(2))
        messages(values, weight, edges(2)[0], 2)
    wide = {tuple(tensor.shape) for tensor in kept if tensor.is_floating_point()}
    assert (wide == {tuple(values.shape), tuple(weight.shape)}) == (form != "plain"), "torch itself keeps messages"
