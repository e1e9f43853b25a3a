"""Activations by the name under which a configuration asks for them; all smooth.

torch writes the gradient of a SiLU whose gradient is differentiated again, as forces in a training are, as a product of
several arrays, all of which it keeps. Where these are large, gradients of our own keep the two that are needed.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

LARGE = 2**16
"""Entries; a gradient in Python takes some 50 microseconds longer."""


def silu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """x / (1 + exp(-x)), elementwise (arXiv:1702.03118); sizes are symbols where a graph is traced."""
    size = x.numel()
    if isinstance(size, int) and size >= LARGE and x.requires_grad:
        return _SiLU.apply(x)
    return nn.functional.silu(x)


class SiLU(nn.Module):
    """`silu` as a layer."""

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Elementwise."""
        return silu(x)


class _SiLU(torch.autograd.Function):
    """Keeps what it is applied to."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """x s(x), s the logistic function."""
        return nn.functional.silu(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """The argument, for either way."""
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """The gradient times the slope."""
        return _times_slope(gradients[0], ctx.saved_tensors[0])

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        """The same the other way."""
        return _times_slope(tangents[0], ctx.saved_tensors[0])


class _TimesSlope(torch.autograd.Function):
    """g d/dx x s(x) = g s (1 + x (1 - s)); keeps g and x."""

    generate_vmap_rule = True

    @staticmethod
    def forward(g: Tensor, x: Tensor) -> Tensor:
        """In one kernel."""
        return torch.ops.aten.silu_backward(g, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Both arguments, for either way."""
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Linear in g; the slope's own slope by x."""
        g, x = ctx.saved_tensors
        return _times_slope(gradients[0], x), _times_bend(gradients[0] * g, x)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        """The same the other way."""
        g, x = ctx.saved_tensors
        return _times_slope(tangents[0], x) + _times_bend(tangents[1] * g, x)


def _times_slope(g: Tensor, x: Tensor) -> Tensor:
    return _TimesSlope.apply(g, x)


def _times_bend(g: Tensor, x: Tensor) -> Tensor:
    """g d²/dx² x s(x) = g s (1 - s) (2 + x (1 - 2 s))."""
    s = torch.sigmoid(x)
    return torch.ops.aten.sigmoid_backward(g, s) * torch.addcmul(x + 2, x, s, value=-2)


class ShiftedSoftplus(nn.Module):
    """ln(exp(x)/2 + 1/2), zero at zero (SchNet, arXiv:1706.08566)."""

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Elementwise."""
        return nn.functional.softplus(x) - math.log(2)


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "silu": SiLU,
    "shifted_softplus": ShiftedSoftplus,
    "tanh": nn.Tanh,
    "identity": nn.Identity,
}
"""Smooth activations only: a kink in the energy is a jump in the force constants."""
