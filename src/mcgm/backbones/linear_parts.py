"""Linear layers whose output has several parts."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear


def linear_parts(layer: nn.Linear, x: Float[Tensor, "*rows input"], count: int) -> list[Float[Tensor, "*rows part"]]:
    """The output of a layer in so many equal parts, each computed by itself.

    Cutting one wide tensor instead costs a copy of it in every backward pass, as its parts are joined there again.
    """
    biases = [None] * count if layer.bias is None else layer.bias.chunk(count)
    return [linear(x, weight, bias) for weight, bias in zip(layer.weight.chunk(count), biases, strict=True)]
