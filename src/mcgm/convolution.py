"""Convolutions with filters of pairs, whose messages are never stored for all edges at once.

A message is an atom's features times the filter of a pair, as wide as both. Written plainly, every message is stored,
read for the sum and kept for the gradient. Here edges are taken a block at a time, small enough for a processor's
cache, and gradients keep features and filters alone. A compiler that sees the plain form does so by itself.

Every sum here is linear in each of its inputs. So are its gradients: contracted with a gradient g of the result it is
a form F(g, a, b, ...), whose derivative for any input is what this module computes, and derivatives of those are
derivatives of F again.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mcgm.mixed import at_least_single
from mcgm.segments import segment_sum, take

CACHE, MEMORY = 2**20, 2**26
"""Bytes of messages that are taken together on a processor, and where every block costs the start of its kernels."""

LARGE, SCALARS = 2**19, 4
"""Entries of all messages from which blocks save time, and times as many where values have one component: memory."""

RESULT, VALUES, WEIGHT = 0, 1, 2
"""Inputs of the forms."""


def convolve(
    values: Float[Tensor, "atom *rest channel"],
    weight: Float[Tensor, "pair channel"],
    source: Int[Tensor, "edge"],
    target: Int[Tensor, "edge"],
    ways: int = 1,
) -> Float[Tensor, "atom *rest channel"]:
    """Sum over the edges of each target of the source's values times the weight of the pair.

    With two `ways`, edges are all pairs one way, then, in the same order, the other way, as in `AtomPairs`. Summed in
    single precision or better.
    """
    values, weight = _single(values, weight)
    if _is_large(source.shape[0], values):
        return _derivative(_Neighbors(source, target, ways), RESULT, (None, values, weight))
    message = take(values, source).unflatten(0, (ways, weight.shape[0])) * _beside(weight, values)
    return segment_sum(message.flatten(0, 1), target, values.shape[0])


def correlate(
    first: Float[Tensor, "atom *rest channel"],
    second: Float[Tensor, "atom *rest channel"],
    source: Int[Tensor, "edge"],
    target: Int[Tensor, "edge"],
    ways: int = 1,
) -> Float[Tensor, "pair channel"]:
    """Products of the first at the target and the second at the source, summed over `rest` and the ways of the pair.

    The gradient of `convolve` for its weight.
    """
    first, second = _single(first, second)
    if _is_large(source.shape[0], first):
        return _derivative(_Neighbors(source, target, ways), WEIGHT, (first, second, None))
    product = _over_rest(take(first, target) * take(second, source))
    return product.unflatten(0, (ways, source.shape[0] // ways)).sum(0)


def messages(
    values: Float[Tensor, "atom channel"],
    weight: Float[Tensor, "pair channel"],
    source: Int[Tensor, "edge"],
    ways: int = 1,
) -> Float[Tensor, "edge channel"]:
    """The source's values times the weight of the pair, where every message is needed by itself.

    `ways` as in `convolve`.
    """
    values, weight = _single(values, weight)
    if _is_large(source.shape[0], values):
        return _derivative(_Messages(source, values.shape[0], ways), RESULT, (None, values, weight))
    return _messages(values, weight, source, ways)


def _messages(values: Tensor, weight: Tensor, source: Tensor, ways: int) -> Tensor:
    return (take(values, source).view(ways, *weight.shape) * weight).view(-1, weight.shape[1])


def _single(*inputs: Tensor) -> list[Tensor]:
    return [each.to(at_least_single(each.dtype)) for each in inputs]


def _is_large(edges: int, values: Tensor) -> bool:
    """Whether blocks pay; sizes are symbols where a graph is traced, and functional transforms take the plain form."""
    size = edges * math.prod(values.shape[1:])
    least = LARGE if values.dim() > 2 else SCALARS * LARGE
    return isinstance(size, int) and size >= least and not torch._C._are_functorch_transforms_active()


def _beside(weight: Tensor, values: Tensor) -> Tensor:
    """Weights of pairs with axes of length one where the values have more."""
    return weight.view(-1, *[1] * (values.dim() - 2), weight.shape[-1])


def _over_rest(product: Tensor) -> Tensor:
    return product if product.dim() == 2 else product.sum(tuple(range(1, product.dim() - 1)))


def _blocks(rows: int, like: Tensor) -> Iterator[slice]:
    """Ranges of rows, each row as wide as those of `like`."""
    row = like.element_size() * math.prod(like.shape[1:])
    step = max(1, (CACHE if like.device.type == "cpu" else MEMORY) // max(row, 1))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _zeros(like: Tensor, *others: Tensor) -> Tensor:
    """To add into: a stack of zeros where any of the tensors is a stack that is mapped over."""
    zeros = torch.zeros_like(like)
    for other in others:
        zeros = zeros + torch.zeros_like(other[(0,) * other.dim()])
    return zeros


class _Form(ABC):
    """A number that is linear in each of its inputs."""

    @abstractmethod
    def derivative(self, which: int, inputs: Sequence[Tensor]) -> Tensor:
        """For one of the inputs, which itself is not looked at."""


@dataclass(frozen=True, eq=False)
class _Neighbors(_Form):
    """Σ over edges of result[target] · values[source] · weight[pair]."""

    source: Int[Tensor, "edge"]
    target: Int[Tensor, "edge"]
    ways: int

    def derivative(self, which: int, inputs: Sequence[Tensor]) -> Tensor:
        """For the values the sum runs from the targets to the sources."""
        result, values, weight = inputs
        if which == RESULT:
            return self._sum(values, weight, self.source, self.target)
        if which == VALUES:
            return self._sum(result, weight, self.target, self.source)
        return self._products(result, values)

    def _sum(self, values: Tensor, weight: Tensor, source: Tensor, target: Tensor) -> Tensor:
        total, wide, pairs = _zeros(values, weight), _beside(weight, values), weight.shape[0]
        for here, there in zip(source.split(pairs), target.split(pairs), strict=True):
            for block in _blocks(pairs, values):
                total.index_add_(0, there[block], values.index_select(0, here[block]) * wide[block])
        return total

    def _products(self, first: Tensor, second: Tensor) -> Tensor:
        pairs = self.source.shape[0] // self.ways
        both = list(zip(self.source.split(pairs), self.target.split(pairs), strict=True))
        found = []
        for block in _blocks(pairs, first):
            products = [first.index_select(0, t[block]) * second.index_select(0, s[block]) for s, t in both]
            found.append(_over_rest(sum(products[1:], products[0])))
        return torch.cat(found)


@dataclass(frozen=True, eq=False)
class _Messages(_Form):
    """Σ over edges of result[edge] · values[source] · weight[pair]."""

    source: Int[Tensor, "edge"]
    atoms: int
    ways: int

    def derivative(self, which: int, inputs: Sequence[Tensor]) -> Tensor:
        """Sums a block at a time."""
        result, values, weight = inputs
        if which == RESULT:
            return _messages(values, weight, self.source, self.ways)
        pairs = self.source.shape[0] // self.ways
        both = list(zip(self.source.split(pairs), result.split(pairs), strict=True))
        if which == WEIGHT:
            found = []
            for block in _blocks(pairs, values):
                products = [values.index_select(0, here[block]) * part[block] for here, part in both]
                found.append(sum(products[1:], products[0]))
            return torch.cat(found)
        total = _zeros(weight.new_zeros(self.atoms, weight.shape[1]), result)
        for here, part in both:
            for block in _blocks(pairs, weight):
                total.index_add_(0, here[block], part[block] * weight[block])
        return total


class _Derivative(torch.autograd.Function):
    """Of a form for one of its inputs; keeps the others."""

    generate_vmap_rule = True

    @staticmethod
    def forward(form: _Form, which: int, *inputs: Tensor) -> Tensor:
        """The derivative."""
        return form.derivative(which, inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """The other inputs, for either way."""
        ctx.form, ctx.which, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Derivatives of the same form, with the gradient in the place of the input that this one is for."""
        inputs = list(ctx.saved_tensors)
        inputs[ctx.which] = gradients[0]
        needed = ctx.needs_input_grad[2:]
        return None, None, *(_derivative(ctx.form, k, inputs) if needed[k] else None for k in range(len(inputs)))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        """Linear in each input."""
        parts = []
        for k, tangent in enumerate(tangents[2:]):
            if tangent is not None:
                inputs = list(ctx.saved_tensors)
                inputs[k] = tangent
                parts.append(_derivative(ctx.form, ctx.which, inputs))
        return sum(parts[1:], parts[0])


def _derivative(form: _Form, which: int, inputs: Sequence[Tensor | None]) -> Tensor:
    others = [None if k == which else tensor for k, tensor in enumerate(inputs)]
    return _Derivative.apply(form, which, *others)
