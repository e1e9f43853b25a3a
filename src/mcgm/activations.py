"""Activations by the name under which a configuration asks for them; all smooth.

torch writes gradients of an activation whose gradient is differentiated again, as forces in a training are, as products
of several arrays, all of which it keeps. Where these are large, gradients of our own keep the two that are needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

LARGE = 2**16
"""Entries; a gradient in Python takes some 50 microseconds longer."""


def silu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """x / (1 + exp(-x)), elementwise (arXiv:1702.03118)."""
    return _Activation.apply(_SILU, x) if _is_large(x) else nn.functional.silu(x)


def shifted_softplus(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """ln(exp(x)/2 + 1/2), elementwise, zero at zero (SchNet, arXiv:1706.08566)."""
    return _Activation.apply(_SOFTPLUS, x) if _is_large(x) else nn.functional.softplus(x) - math.log(2)


def _is_large(x: Tensor) -> bool:
    """Whether gradients of our own pay; sizes are symbols where a graph is traced."""
    size = x.numel()
    return isinstance(size, int) and size >= LARGE and x.requires_grad


class SiLU(nn.Module):
    """`silu` as a layer."""

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Elementwise."""
        return silu(x)


class ShiftedSoftplus(nn.Module):
    """`shifted_softplus` as a layer."""

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Elementwise."""
        return shifted_softplus(x)


@dataclass(frozen=True)
class _Kernels:
    """Of a function f: f(x), and g f'(x) and g f''(x) for a gradient g."""

    value: Callable[[Tensor], Tensor]
    times_slope: Callable[[Tensor, Tensor], Tensor]
    times_bend: Callable[[Tensor, Tensor], Tensor]


def _silu_bend(g: Tensor, x: Tensor) -> Tensor:
    """g s (1 - s) (2 + x (1 - 2 s)), s the logistic function; its slope is s (1 + x (1 - s))."""
    s = torch.sigmoid(x)
    return torch.ops.aten.sigmoid_backward(g, s) * torch.addcmul(x + 2, x, s, value=-2)


def _softplus_value(x: Tensor) -> Tensor:
    return nn.functional.softplus(x).sub_(math.log(2))


def _softplus_slope(g: Tensor, x: Tensor) -> Tensor:
    """The slope is the logistic function; above 20 torch has a straight line."""
    return torch.ops.aten.softplus_backward(g, x, 1, 20)


def _softplus_bend(g: Tensor, x: Tensor) -> Tensor:
    return torch.ops.aten.sigmoid_backward(g, torch.sigmoid(x))


_SILU = _Kernels(nn.functional.silu, torch.ops.aten.silu_backward, _silu_bend)
_SOFTPLUS = _Kernels(_softplus_value, _softplus_slope, _softplus_bend)


class _Activation(torch.autograd.Function):
    """Keeps what it is applied to."""

    generate_vmap_rule = True

    @staticmethod
    def forward(kernels: _Kernels, x: Tensor) -> Tensor:
        """f(x)."""
        return kernels.value(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """The argument, for either way."""
        ctx.kernels, x = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        """The gradient times the slope."""
        return None, _times_slope(ctx.kernels, gradients[0], ctx.saved_tensors[0])

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        """The same the other way."""
        return _times_slope(ctx.kernels, tangents[1], ctx.saved_tensors[0])


class _TimesSlope(torch.autograd.Function):
    """g f'(x) in one kernel; keeps g and x."""

    generate_vmap_rule = True

    @staticmethod
    def forward(kernels: _Kernels, g: Tensor, x: Tensor) -> Tensor:
        """In one kernel."""
        return kernels.times_slope(g, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Both arguments, for either way."""
        ctx.kernels, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, Tensor]:
        """Linear in g; the slope's own slope by x."""
        g, x = ctx.saved_tensors
        return None, _times_slope(ctx.kernels, gradients[0], x), ctx.kernels.times_bend(gradients[0] * g, x)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        """The same the other way."""
        g, x = ctx.saved_tensors
        return _times_slope(ctx.kernels, tangents[1], x) + ctx.kernels.times_bend(tangents[2] * g, x)


def _times_slope(kernels: _Kernels, g: Tensor, x: Tensor) -> Tensor:
    return _TimesSlope.apply(kernels, g, x)


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "silu": SiLU,
    "shifted_softplus": ShiftedSoftplus,
    "tanh": nn.Tanh,
    "identity": nn.Identity,
}
"""Smooth activations only: a kink in the energy is a jump in the force constants."""
