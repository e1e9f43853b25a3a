"""The SiLU whose gradients are our own: the same function, to any order, for less memory."""

import pytest
import torch
from torch.nn.functional import silu as reference

from mcgm.activations import ACTIVATIONS, LARGE, silu


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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_it_is_torchs_to_the_third_derivative(x, dtype):
    x = x.detach().to(dtype).requires_grad_()
    assert torch.equal(silu(x), reference(x))
    for ours, theirs in zip(derivatives(silu, x, 3), derivatives(reference, x, 3), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's own
def test_gradients_are_those_of_finite_differences(x):
    assert torch.autograd.gradcheck(silu, x, check_forward_ad=True, check_batched_grad=True)
    x = x.detach()[5:].requires_grad_()  # far out differences vanish in rounding
    assert torch.autograd.gradgradcheck(silu, x, check_batched_grad=True, check_fwd_over_rev=True)


def test_forces_in_training_keep_four_arrays_less():
    def kept(function):
        x = torch.randn(LARGE, requires_grad=True)
        arrays = {}

        def keep(array):
            arrays[array.untyped_storage().data_ptr()] = array
            return array

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda array: array):
            torch.autograd.grad(function(x).square().sum(), x, create_graph=True)
        return len(arrays)

    assert kept(silu) <= kept(reference) - 4


def test_configurations_get_it():
    layer = ACTIVATIONS["silu"]()
    x = torch.randn(5, requires_grad=True)
    assert torch.equal(layer(x), reference(x))
    assert "SiLU" in layer(x).grad_fn.name()
    assert not layer.state_dict()
