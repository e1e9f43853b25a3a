"""Reading recipes: YAML and command line into the dataclasses of `config`, with errors that name the key."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, Union

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from mcgm.errors import ConfigError, unknown_name

C = TypeVar("C")

RECIPE_SUFFIXES = (".yaml", ".yml")


def read_recipe(path: Path, kind: type) -> dict[str, Any]:
    """The mapping in a YAML file, its keys checked against a dataclass.

    Raises:
        ConfigError: the file is missing, is not YAML, or has a key that the dataclass lacks.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}). Give a recipe (.yaml) or a data file."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path}: required: a mapping of settings; got {type(content).__name__}.")
    require_known_keys(content, kind, source=str(path))
    return dict(content)


def require_known_keys(content: Mapping[str, Any], kind: type, *, prefix: str = "", source: str = "") -> None:
    """Refuse a key that the dataclass (or a dataclass inside it) does not have, naming the nearest one."""
    hints = typing.get_type_hints(kind)
    names = [item.name for item in dataclasses.fields(kind)]
    for key, value in content.items():
        if key not in names:
            where = f"{source}: " if source else ""
            known = unknown_name("setting", f"{prefix}{key}", [prefix + name for name in names])
            raise ConfigError(where + known)
        if isinstance(value, Mapping):
            _require_known_inside(value, hints[key], f"{prefix}{key}.", source)
        else:
            _require_fitting(value, hints[key], prefix + key, source)


def _require_fitting(value: Any, hint: Any, key: str, source: str) -> None:
    """The two mistakes that jsonargparse lets pass: a plain value for a section, and null for what is not optional."""
    section = isinstance(hint, type) and dataclasses.is_dataclass(hint)
    if section or (value is None and types.NoneType not in typing.get_args(hint)):
        required = "a section of settings" if section else getattr(hint, "__name__", str(hint))
        raise ConfigError(f"{source}: {key}: required: {required}; got {value!r}.".removeprefix(": "))


def _require_known_inside(value: Mapping[str, Any], hint: Any, prefix: str, source: str) -> None:
    nested = _dataclass_in(hint)
    if nested is not None:
        require_known_keys(value, nested, prefix=prefix, source=source)
    elif typing.get_origin(hint) is dict:
        entry = _dataclass_in(typing.get_args(hint)[1])
        for name, item in value.items():
            if entry is not None and isinstance(item, Mapping):
                require_known_keys(item, entry, prefix=f"{prefix}{name}.", source=source)


def _dataclass_in(hint: Any) -> type | None:
    options = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    return next((item for item in options if isinstance(item, type) and dataclasses.is_dataclass(item)), None)


def to_config(content: Mapping[str, Any], kind: type[C], *, source: str = "settings") -> C:
    """A dataclass from plain values, every type checked.

    Raises:
        ConfigError: a value has another type than the dataclass declares; the message names the key.
    """
    require_known_keys(content, kind, source=source)
    parser = _parser(kind)  # type: ignore[arg-type]
    return _instantiate(parser, lambda: parser.parse_object(dict(content)), kind, source)


@cache
def _parser(kind: type) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, fail_untyped=True)
    return parser


def _instantiate(parser: ArgumentParser, parse: typing.Callable[[], Namespace], kind: type[C], source: str) -> C:
    try:
        values = parser.instantiate(parse())
    except (ArgumentError, TypeError, ValueError) as error:
        raise ConfigError(f"{source}: {_one_line(str(error))}") from error
    return kind(**{item.name: values[item.name] for item in dataclasses.fields(kind)})  # type: ignore[arg-type]


def _one_line(message: str) -> str:
    """jsonargparse's message in this package's words: `training.epochs: required: int; got abc.`"""
    found = re.search(r'"([\w.]+)":\s*Expected an? (?:<class )?\'?(.+?)\'?>?\. Got value: (.*)', message, re.DOTALL)
    if found is None:
        return " ".join(message.split())
    key, required, value = found.groups()
    return f"{key}: required: {required.replace('typing.', '')}; got {value.strip()!r}."


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings with the second's values over the first's."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def overrides(arguments: Sequence[str], kind: type) -> dict[str, Any]:
    """Nested mapping from `--data.path=x --training.epochs 5`; values are read as YAML.

    Raises:
        ConfigError: an argument is not `--key value`, or the key is unknown.
    """
    content: dict[str, Any] = {}
    remaining = list(arguments)
    while remaining:
        item = remaining.pop(0)
        if not item.startswith("--"):
            raise ConfigError(f"unexpected argument {item!r}. Settings are given as --section.key VALUE.")
        key, equals, text = item[2:].partition("=")
        if not equals:
            if not remaining:
                raise ConfigError(f"--{key}: required: a value; got none.")
            text = remaining.pop(0)
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--{key}: cannot read the value {text!r}: {error}") from error
        nested: Any = value
        for name in reversed(key.split(".")):
            nested = {name: nested}
        content = merge(content, nested)
    require_known_keys(content, kind, source="command line")
    return content


def as_plain(config: Any) -> dict[str, Any]:
    """A configuration as nested plain values, as they go into JSON."""
    return dataclasses.asdict(config)
