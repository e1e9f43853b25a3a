"""Dataclasses from and to plain JSON values, with every field checked against its annotation."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from mcgm.errors import DataError, unknown_name

T = TypeVar("T")


_hints = functools.cache(typing.get_type_hints)
"""Evaluated from text: many times what a check takes."""


def check_fields(record: Any) -> None:
    """Check each field of a frozen dataclass and turn NumPy's scalars into Python's; for `__post_init__`.

    Raises:
        DataError: a value of another type than annotated, or a number that is not finite.
    """
    hints = _hints(record.__class__)
    for field in dataclasses.fields(record):
        where = f"{type(record).__name__}.{field.name}"
        object.__setattr__(record, field.name, _checked(getattr(record, field.name), hints[field.name], where))


def from_plain(kind: type[T], values: Any, where: str) -> T:
    """Build a dataclass from the values of a JSON object.

    Raises:
        DataError: not an object, a field missing, or one that is unknown; names the place and the nearest field.
    """
    if not isinstance(values, Mapping):
        raise DataError(f"{where}: required: an object with the fields of {kind.__name__}, got {values!r:.60}.")
    known = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise DataError(f"{where}: {unknown_name('field', name, known)}")
    for name, field in known.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise DataError(f"{where}: the field {name!r} of {kind.__name__} is missing.")
    try:
        return kind(**values)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _checked(value: Any, hint: Any, where: str) -> Any:
    """The value, as the annotated type; records inside a tuple are built from their plain values."""
    if isinstance(hint, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        return _checked(value, next(option for option in options if option is not type(None)), where)
    origin = typing.get_origin(hint) or hint
    if origin is tuple:
        if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__"):
            raise DataError(f"{where} is {value!r:.60}; required: a sequence.")
        item = typing.get_args(hint)[0]
        return tuple(_checked(entry, item, f"{where}[{k}]") for k, entry in enumerate(value))
    if origin is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise DataError(f"{where} is {value}; required: a finite number.")
        return float(value)
    if origin is int and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    if dataclasses.is_dataclass(origin):
        return value if isinstance(value, origin) else from_plain(origin, value, where)  # type: ignore[arg-type]
    if origin in (float, int) or not isinstance(value, origin):
        name = getattr(origin, "__name__", str(origin))
        raise DataError(f"{where} is {value!r:.60} of type {type(value).__name__}; required: {name}.")
    return value
