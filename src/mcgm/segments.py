"""Sums and means over rows that share an index: the only scatter operations of the package.

`index_add` is as fast as any extension and can be differentiated twice. torch keeps the rows that it adds for the
gradient, which does not need them: where these are large, gradients of our own keep the index alone. A compiler finds
out by itself what need not be kept.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mcgm.mixed import at_least_single

LARGE = 2**18
"""Entries; a gradient in Python takes some 50 microseconds longer."""


def take(values: Float[Tensor, "source *rest"], index: Int[Tensor, "row"]) -> Float[Tensor, "row *rest"]:
    """Rows by index. Its gradient is a `segment_sum`: unlike that of `values[index]` bitwise repeatable, and faster."""
    return _Take.apply(values, index) if _is_large(values, index) else values.index_select(0, index)


def segment_sum(
    values: Float[Tensor, "row *rest"], index: Int[Tensor, "row"], count: int
) -> Float[Tensor, "count *rest"]:
    """Sum of the rows that share an index, in single precision or better; segments without rows are zero."""
    values = values.to(at_least_single(values.dtype))
    if _is_large(values, index):
        return _SegmentSum.apply(values, index, count)
    return values.new_zeros((count, *values.shape[1:])).index_add(0, index, values)


def _is_large(values: Tensor, index: Tensor) -> bool:
    """Whether rows are worth the time of a gradient of our own; sizes are symbols where a graph is traced."""
    size = index.shape[0] * math.prod(values.shape[1:])
    return isinstance(size, int) and size >= LARGE and values.requires_grad


class _SegmentSum(torch.autograd.Function):
    """Keeps the index alone."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, index: Tensor, count: int) -> Tensor:
        """Zeros, and the rows added."""
        return values.new_zeros((count, *values.shape[1:])).index_add(0, index, values)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """The index, for either way."""
        _, index, ctx.count = inputs
        ctx.save_for_backward(index)
        ctx.save_for_forward(index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Every row has the gradient of its segment."""
        return take(gradients[0], ctx.saved_tensors[0]), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        """The sum is linear."""
        return segment_sum(tangents[0], ctx.saved_tensors[0], ctx.count)


class _Take(torch.autograd.Function):
    """The transpose of `_SegmentSum`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, index: Tensor) -> Tensor:
        """Rows by index."""
        return values.index_select(0, index)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """The index, for either way."""
        values, index = inputs
        ctx.count = values.shape[0]
        ctx.save_for_backward(index)
        ctx.save_for_forward(index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """A row has the sum of what was made of it."""
        return segment_sum(gradients[0], ctx.saved_tensors[0], ctx.count), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        """Choosing is linear."""
        return take(tangents[0], ctx.saved_tensors[0])


def segment_count(index: Int[Tensor, "row"], count: int) -> Int[Tensor, "count"]:
    """Number of rows of each segment."""
    return index.new_zeros(count).index_add(0, index, torch.ones_like(index))


def segment_mean(
    values: Float[Tensor, "row *rest"], index: Int[Tensor, "row"], count: int
) -> Float[Tensor, "count *rest"]:
    """Mean of the rows that share an index; segments without rows are zero."""
    size = segment_count(index, count).clamp(min=1).to(values.dtype)
    return segment_sum(values, index, count) / size.reshape(-1, *[1] * (values.dim() - 1))


def is_ascending(values: Int[Tensor, "row"]) -> bool:
    """Whether no value is below the one before it: looking takes a fraction of sorting."""
    return bool((values[1:] >= values[:-1]).all())


def rank_in_segment(index: Int[Tensor, "row"], count: int) -> Int[Tensor, "row"]:
    """Position of each row among the rows of its segment, in the order in which they stand."""
    sizes = segment_count(index, count)
    return rank_after(index, torch.cumsum(sizes, 0) - sizes)


def rank_after(index: Int[Tensor, "row"], start: Int[Tensor, "count"]) -> Int[Tensor, "row"]:
    """As `rank_in_segment`, where the number of rows before each segment is known."""
    if is_ascending(index):
        return torch.arange(len(index), device=index.device) - start[index]
    order = torch.argsort(index, stable=True)
    rank = torch.empty_like(index)
    rank[order] = torch.arange(len(index), device=index.device) - start[index[order]]
    return rank
