"""Nested frozen dataclasses and tuples as flat lists of what varies from batch to batch: tensors and counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator, Sequence
from functools import cache
from typing import Any

from torch import SymInt, Tensor

Leaf = Tensor | int
"""A tensor, or a whole number (a symbol, while lengths are symbols)."""


def take_apart(item: Any) -> tuple[list[Leaf], Hashable]:
    """Tensors and whole numbers of an item, depth first, and its form: all else.

    Code that never looks at the numbers in tensors runs alike on items of one form, but for conditions on lengths.
    Lengths of zero and one are a part of it, for they broadcast.
    """
    found: list[Leaf] = []
    return found, _form(item, found)


def put_together(item: Any, values: Sequence[Leaf]) -> Any:
    """The same item with other leaves, in the order of `take_apart`."""
    return _rebuilt(item, iter(values))


@cache
def _names(kind: Hashable) -> tuple[str, ...] | None:
    """Fields of a dataclass, `None` for any other type."""
    return tuple(field.name for field in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else None


def _form(item: Any, found: list[Leaf]) -> Hashable:
    if isinstance(item, Tensor):
        found.append(item)
        return item.dtype, item.device, item.requires_grad, *(length if length < 2 else 2 for length in item.shape)
    kind: Any = type(item)
    if kind is int or kind is SymInt:
        found.append(item)
        return item if item < 2 else 2  # of a symbol this asks no more than that
    if isinstance(item, tuple):
        return kind, *(_form(value, found) for value in item)
    names = _names(kind)
    return item if names is None else (kind, *(_form(getattr(item, name), found) for name in names))


def _rebuilt(item: Any, values: Iterator[Leaf]) -> Any:
    kind: Any = type(item)
    if isinstance(item, Tensor) or kind is int or kind is SymInt:
        return next(values)
    if isinstance(item, tuple):
        parts = [_rebuilt(value, values) for value in item]
        return kind(*parts) if hasattr(item, "_fields") else tuple(parts)
    names = _names(kind)
    return item if names is None else kind(*(_rebuilt(getattr(item, name), values) for name in names))
