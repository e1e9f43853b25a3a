"""Other programs' packages, which are imported when they are needed."""

from __future__ import annotations

import importlib
from types import ModuleType

from mcgm.errors import ConfigError


def needed(module: str, extra: str) -> ModuleType:
    """Import a module that an extra of this package installs.

    Raises:
        ConfigError: it is not installed; the message has the command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        command = f"pip install 'mcgm[{extra}]'"
        raise ConfigError(f"{module} cannot be imported ({error}). Install it with: {command}") from error
