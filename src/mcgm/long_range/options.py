"""Checks of the options of blocks: each names the key, what came, and what was required."""

from __future__ import annotations

import math
from collections.abc import Iterable

from mcgm.errors import ConfigError, unknown_name


def require_whole(key: str, value: object, least: int) -> None:
    """A whole number that is at least so large.

    Raises:
        ConfigError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{key} is {value!r}; required: a whole number, at least {least}.")


def require_positive(key: str, value: object, unit: str) -> None:
    """A finite number above zero.

    Raises:
        ConfigError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigError(f"{key} is {value!r}; required: a number above 0 ({unit}).")


def require_three(key: str, values: object, least: int) -> tuple[int, int, int]:
    """Three whole numbers, one for each axis.

    Raises:
        ConfigError: they are not.
    """
    if not isinstance(values, list | tuple) or len(values) != 3:
        raise ConfigError(f"{key} is {values!r}; required: three whole numbers, one for each axis.")
    for value in values:
        require_whole(key, value, least)
    return (values[0], values[1], values[2])


def require_choice(key: str, value: object, table: Iterable[str]) -> None:
    """One of the names in a table.

    Raises:
        ConfigError: it is in none.
    """
    if not isinstance(value, str) or value not in table:
        raise ConfigError(f"{key}: " + unknown_name("choice", value, table))
