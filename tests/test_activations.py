"""Activations whose gradients are our own: the same functions, to any order, for less memory and time."""

import math

import pytest
import torch

from mcgm.activations import ACTIVATIONS, LARGE, shifted_softplus, silu


def shifted(x):
    """As published."""
    return torch.nn.functional.softplus(x) - math.log(2)


BOTH = pytest.mark.parametrize(
    ("function", "reference"), [(silu, torch.nn.functional.silu), (shifted_softplus, shifted)], ids=["silu", "softplus"]
)


@pytest.fixture(autouse=True)
def always_ours(monkeypatch):
    """Small arrays as well."""
    monkeypatch.setattr("mcgm.activations.LARGE", 1)


@pytest.fixture
def x():
    steep = torch.tensor([-60.0, -9.0, 0.0, 9.0, 60.0], dtype=torch.float64)
    return torch.cat([steep, torch.randn(7, dtype=torch.float64)]).requires_grad_()


def derivatives(function, x, order):
    """Of the sum of squares, which bends where the function does not."""
    found = [function(x).square().sum()]
    for _ in range(order):
        found.append(torch.autograd.grad(found[-1].sum(), x, create_graph=True)[0])
    return found


@BOTH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_it_is_torchs_to_the_third_derivative(function, reference, x, dtype):
    x = x.detach().to(dtype).requires_grad_()
    assert torch.equal(function(x), reference(x))
    for ours, theirs in zip(derivatives(function, x, 3), derivatives(reference, x, 3), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's own
@BOTH
def test_gradients_are_those_of_finite_differences(function, reference, x):
    assert torch.autograd.gradcheck(function, x, check_forward_ad=True, check_batched_grad=True)
    x = x.detach()[5:].requires_grad_()  # far out differences vanish in rounding
    assert torch.autograd.gradgradcheck(function, x, check_batched_grad=True, check_fwd_over_rev=True)


def test_forces_in_training_keep_four_arrays_less_of_a_silu():
    def kept(function):
        x = torch.randn(LARGE, requires_grad=True)
        arrays = {}

        def keep(array):
            arrays[array.untyped_storage().data_ptr()] = array
            return array

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda array: array):
            torch.autograd.grad(function(x).square().sum(), x, create_graph=True)
        return len(arrays)

    assert kept(silu) <= kept(torch.nn.functional.silu) - 4


@pytest.mark.parametrize("name", ["silu", "shifted_softplus"])
def test_configurations_get_it(name):
    layer, function = ACTIVATIONS[name](), {"silu": silu, "shifted_softplus": shifted_softplus}[name]
    x = torch.randn(5, requires_grad=True)
    assert torch.equal(layer(x), function(x))
    assert "_Activation" in layer(x).grad_fn.name()
    assert not layer.state_dict()
