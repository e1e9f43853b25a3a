"""Linear layers whose output has several parts."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear


def linear_parts(
    layer: nn.Linear, x: Float[Tensor, "*rows input"], count: int, only: Sequence[int] | None = None
) -> list[Float[Tensor, "*rows part"]]:
    """The output of a layer in so many equal parts, each computed by itself: all of them, or these.

    Cutting one wide tensor instead costs a copy of it in every backward pass, as its parts are joined there again.
    """
    weights = layer.weight.chunk(count)
    biases = [None] * count if layer.bias is None else layer.bias.chunk(count)
    return [linear(x, weights[k], biases[k]) for k in (range(count) if only is None else only)]
