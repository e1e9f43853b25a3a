"""Sums and means over rows that share an index: the only scatter operations of the package.

`index_add` is as fast as any extension. torch would keep the rows it adds for its gradient, which does not need them:
memory of the largest arrays there are, hence a gradient of our own. It can be differentiated twice.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mcgm.mixed import at_least_single


def take(values: Float[Tensor, "source *rest"], index: Int[Tensor, "row"]) -> Float[Tensor, "row *rest"]:
    """Rows by index. Its gradient is an `index_add`: unlike that of `values[index]` bitwise repeatable, and faster."""
    return values.index_select(0, index)


def segment_sum(
    values: Float[Tensor, "row *rest"], index: Int[Tensor, "row"], count: int
) -> Float[Tensor, "count *rest"]:
    """Sum of the rows that share an index, in single precision or better; segments without rows are zero."""
    return _SegmentSum.apply(values.to(at_least_single(values.dtype)), index, count)


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
    start = torch.cumsum(sizes, 0) - sizes
    if is_ascending(index):
        return torch.arange(len(index), device=index.device) - start[index]
    order = torch.argsort(index, stable=True)
    rank = torch.empty_like(index)
    rank[order] = torch.arange(len(index), device=index.device) - start[index[order]]
    return rank
