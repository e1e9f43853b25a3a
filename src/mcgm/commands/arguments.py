"""What the subcommands' parsers share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mcgm.training.recipe import RECIPE_SUFFIXES, merge, overrides, read_recipe, to_config

C = TypeVar("C")
T = TypeVar("T")

CLI = "command line"


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
    content, source = content_of(source, kind)
    return configure_from(content, source, settings, kind, changes, complete)


def content_of(source: str, kind: type) -> tuple[dict[str, Any], str]:
    """What a recipe (.yaml) says, or that a file is the data; and what to call it in errors."""
    path = Path(source)
    return (read_recipe(path, kind), source) if path.suffix in RECIPE_SUFFIXES else ({"data": {"path": source}}, CLI)


def configure_from(
    content: dict[str, Any],
    source: str,
    settings: list[str],
    kind: type[C],
    changes: dict[str, Any],
    complete: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> C:
    """As `configure`, from what a recipe says."""
    merged = merge(merge(content, changes), overrides(settings, kind))
    return to_config(complete(merged), kind, source=source)


def without_settings(arguments: Sequence[str], own: Collection[str]) -> tuple[list[str], list[str]]:
    """A command's own arguments, and the settings `--section.key VALUE` among them, each with its value."""
    kept: list[str] = []
    settings: list[str] = []
    remaining = list(arguments)
    while remaining:
        item = remaining.pop(0)
        if not item.startswith("--") or item.partition("=")[0] in own:
            kept.append(item)
            if item in own and remaining and item != "--help":
                kept.append(remaining.pop(0))
            continue
        settings.append(item)
        if "=" not in item and remaining:
            settings.append(remaining.pop(0))
    return kept, settings


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
