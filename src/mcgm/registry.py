"""From names to objects and back: closed tables, so that no file or configuration can name code to run."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mcgm.backbones import Backbone, backbone_class, backbone_names, backbone_sizes
from mcgm.defaults import LONG_RANGE
from mcgm.errors import ConfigError, unknown_name
from mcgm.long_range import BLOCKS, SPECIFICATIONS, LongRangeSpec
from mcgm.long_range.mcgm.clusterers import CLUSTERERS
from mcgm.potential import NetworkPotential, References


def build(
    *,
    backbone: str | Backbone = "schnet",
    long_range: str | LongRangeSpec = LONG_RANGE,
    size: str = "small",
    cutoff: float = 6.0,
    backbone_options: Mapping[str, Any] | None = None,
    long_range_options: Mapping[str, Any] | None = None,
    references: References | None = None,
    scale: float = 1.0,
    shift: float = 0.0,
    elements: Sequence[int] | None = None,
) -> NetworkPotential:
    """A fresh potential from names, or from objects in their place.

    Args:
        backbone: "schnet", "painn", …, or a `Backbone`; then `size`, `cutoff` and `backbone_options` have no say.
        long_range: "none", "mcgm", "mcgm_oriented", …, or a `LongRangeSpec`; then `long_range_options` has no say.
        size: "small", or "paper" for the published widths.
        cutoff: Å.
        backbone_options: constructor settings that replace those of the size.
        long_range_options: settings of the block, such as `{"levels": 2}`.
        references: energies of free elements, eV.
        scale: eV per unit of network output.
        shift: eV per atom.
        elements: atomic numbers to accept; `None`: any.

    Raises:
        ConfigError: a name or option that is not in the tables; a scale or shift that is no finite number.
    """
    if isinstance(backbone, str):
        sizes = backbone_sizes(backbone)
        if sizes and size not in sizes:
            raise ConfigError(unknown_name(f"size of {backbone}", size, sizes))
        options = sizes.get(size, {}) | {"cutoff": cutoff} | dict(backbone_options or {})
        network: Backbone = _call(backbone_class(backbone), options, f"backbone {backbone}")
    else:
        network = backbone
    if isinstance(long_range, str):
        if long_range not in BLOCKS:
            raise ConfigError(unknown_name("long-range block", long_range, BLOCKS))
        block: LongRangeSpec = _call(BLOCKS[long_range], long_range_options or {}, f"long-range block {long_range}")
    else:
        block = long_range
    if (
        not all(isinstance(each, int | float | np.number) and math.isfinite(each) for each in (scale, shift))
        or scale == 0
    ):
        raise ConfigError(f"scale is {scale!r}, shift is {shift!r}; required: numbers, the scale not zero.")
    _require(network, Backbone, "backbone", "its name, such as 'schnet', or a Backbone")
    _require(block, LongRangeSpec, "long_range", "a name ('none' for no block), or a specification such as MCGM()")
    return NetworkPotential(network, block, references=references, scale=scale, shift=shift, elements=elements)


def _require(item: object, kind: type, key: str, required: str) -> None:
    if not isinstance(item, kind):
        raise ConfigError(f"{key} is {item!r}; required: {required}.")


def describe_backbone(backbone: Backbone) -> dict[str, Any]:
    """Name and hyperparameters of a backbone, plain JSON values."""
    for name in backbone_names():
        if type(backbone) is backbone_class(name):
            return {"name": name} | backbone.hyperparameters
    raise ConfigError(
        f"{type(backbone).__name__} is in no table of backbones, so a model file cannot name it. Register it under the "
        "entry-point group 'mcgm.backbones'."
    )


def restore_backbone(description: Mapping[str, Any]) -> Backbone:
    """The backbone that `describe_backbone` described, with fresh weights."""
    options = dict(description)
    name = options.pop("name", None)
    return _call(backbone_class(name), options, f"backbone {name}")


def describe_block(specification: LongRangeSpec) -> dict[str, Any]:
    """Name and options of a long-range block, plain JSON values."""
    return _describe(specification, SPECIFICATIONS)


def restore_block(description: Mapping[str, Any]) -> LongRangeSpec:
    """The specification that `describe_block` described."""
    options = dict(description)
    name = options.pop("name", None)
    if name not in SPECIFICATIONS:
        raise ConfigError(unknown_name("long-range block", name, SPECIFICATIONS))
    if options.get("clusterers") is not None:
        options["clusterers"] = tuple(_restore_clusterer(item) for item in options["clusterers"])
    if "blocks" in options:
        options["blocks"] = tuple(restore_block(item) for item in options["blocks"])
    return _call(SPECIFICATIONS[name], options, f"long-range block {name}")


def _restore_clusterer(description: Mapping[str, Any]) -> Any:
    options = dict(description)
    name = options.pop("name", None)
    if name not in CLUSTERERS:
        raise ConfigError(unknown_name("clusterer", name, CLUSTERERS))
    return _call(CLUSTERERS[name], options, f"clusterer {name}")


def _describe(item: Any, table: Mapping[str, type[Any]]) -> dict[str, Any]:
    names = [name for name, kind in table.items() if type(item) is kind]
    if not names:
        raise ConfigError(f"{type(item).__name__} is in no table; known: {', '.join(table)}.")
    values = {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
    if values.get("clusterers") is not None:
        values["clusterers"] = [_describe(rule, CLUSTERERS) for rule in values["clusterers"]]
    if "blocks" in values:
        values["blocks"] = [_describe(block, SPECIFICATIONS) for block in values["blocks"]]
    return {"name": names[0]} | values


def _call(function: Callable[..., Any], options: Mapping[str, Any], what: str) -> Any:
    """Call with keyword options, after checking their names: a wrong one is the user's mistake, not a TypeError."""
    known = _option_names(function)
    for key in options:
        if key not in known:
            raise ConfigError(f"{what}: " + unknown_name("option", key, known))
    return function(**options)


def _option_names(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters
    names = [name for name, p in parameters.items() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    owner = getattr(function, "__self__", None)  # presets pass the rest on to the class they belong to
    if len(names) < len(parameters) and owner is not None:
        names += [name for name in inspect.signature(owner).parameters if name not in names]
    return names
