"""Comparisons that are shipped with the package: a recipe of variants by name, for any of the data sets by name.

`mcgm compare --suite rivals --data conformers_xtb`. Tables are closed: no name can lead to another file or to code.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

from mcgm.errors import ConfigError, unknown_name
from mcgm.suites.data_sets import DATA_SETS, data_recipe, data_settings
from mcgm.training.config import CompareConfig
from mcgm.training.recipe import read_recipe

SUITES = MappingProxyType(
    {
        "rivals": "every block beside the others in the same slot",
        "controls": "MCGM beside each trivial explanation of what it brings",
        "levels": "levels, ratio and moment of clustering of the published method",
        "oe62": "OE62 with the settings of its literature, four backbones",
        "aqm": "AQM, SchNet and PaiNN as in RANGE, ViSNet as in Neural P3M",
    }
)
"""What each suite compares; its recipe is the file of that name."""


def suite_recipe(name: str) -> dict[str, Any]:
    """The recipe of a suite, as read from YAML.

    Raises:
        ConfigError: unknown name.
    """
    if name not in SUITES:
        raise ConfigError(unknown_name("suite", name, SUITES))
    return read_recipe(Path(__file__).with_name(f"{name}.yaml"), CompareConfig)


__all__ = ["DATA_SETS", "SUITES", "data_recipe", "data_settings", "suite_recipe"]
