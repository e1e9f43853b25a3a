"""Local networks on one contract. Never imports `mcgm.long_range`."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Any

from mcgm.backbones.base import Backbone
from mcgm.errors import ConfigError, unknown_name

BACKBONES: dict[str, str] = {
    "schnet": "mcgm.backbones.schnet:SchNet",
    "painn": "mcgm.backbones.painn:PaiNN",
    "dimenet++": "mcgm.backbones.dimenet:DimeNetPlusPlus",
    "gemnet-t": "mcgm.backbones.gemnet:GemNetT",
    "visnet": "mcgm.backbones.visnet:ViSNet",
}
"""Own backbones: name -> module and class. Each module has a table `SIZES` of constructor settings."""

ENTRY_POINTS = "mcgm.backbones"
"""Installed packages add backbones of theirs under this entry-point group."""


def backbone_names() -> list[str]:
    """Every name that `backbone_class` knows."""
    return [*BACKBONES, *(point.name for point in entry_points(group=ENTRY_POINTS))]


def backbone_class(name: str) -> type[Backbone]:
    """The class behind a name.

    Raises:
        ConfigError: unknown name.
    """
    if name in BACKBONES:
        module, attribute = BACKBONES[name].split(":")
        return getattr(importlib.import_module(module), attribute)
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == name:
            return point.load()
    raise ConfigError(unknown_name("backbone", name, backbone_names()))


def backbone_sizes(name: str) -> dict[str, dict[str, Any]]:
    """Named constructor settings of a backbone; empty for one that has none."""
    module = importlib.import_module(backbone_class(name).__module__)
    return getattr(module, "SIZES", {})


__all__ = ["BACKBONES", "Backbone", "backbone_class", "backbone_names", "backbone_sizes"]
