"""What the subcommands' parsers share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from mcgm.training.recipe import RECIPE_SUFFIXES, merge, overrides, read_recipe, to_config

C = TypeVar("C")
T = TypeVar("T")


def make_parser(name: str, description: str, example: str) -> argparse.ArgumentParser:
    """A parser whose help ends with an example."""
    return argparse.ArgumentParser(
        prog=f"mcgm {name}",
        description=description,
        epilog=f"Example:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def configure(
    source: str,
    settings: list[str],
    kind: type[C],
    changes: dict[str, Any],
    complete: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> C:
    """The recipe of a command: YAML file or data file, then `changes`, then `--section.key value`, then `complete`.

    Raises:
        ConfigError: unknown key or wrong type; nothing else was read until then.
    """
    path = Path(source)
    is_recipe = path.suffix in RECIPE_SUFFIXES
    content = read_recipe(path, kind) if is_recipe else {"data": {"path": source}}
    content = merge(merge(content, changes), overrides(settings, kind))
    return to_config(complete(content), kind, source=source if is_recipe else "command line")


def watched(description: str) -> Callable[[Iterable[T]], Iterable[T]]:
    """Passes items on under a progress bar, which is drawn on a terminal only and leaves nothing behind."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    hidden = not console.is_terminal
    return lambda items: track(items, description=description, console=console, transient=True, disable=hidden)


def model_path(text: str) -> Path:
    """A model file, or the one in the folder of a training."""
    path = Path(text)
    return path / "model.safetensors" if path.is_dir() else path
