"""Blocks for the slot after every interaction layer: MCGM, controls and rivals. Never imports `mcgm.backbones`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mcgm.long_range.base import Clusters, Contribution, LongRange, LongRangeSpec
from mcgm.long_range.controls import ElementMean, GlobalMean, NoLongRange
from mcgm.long_range.mcgm.specification import MCGM

BLOCKS: dict[str, Callable[..., LongRangeSpec]] = {
    "none": NoLongRange,
    "mcgm": MCGM.smooth,
    "mcgm_paper": MCGM.paper,
    "mcgm_random": MCGM.random,
    "global_mean": GlobalMean,
    "element_mean": ElementMean,
}
"""Blocks by the name that `build` and configurations use."""

SPECIFICATIONS: dict[str, type[Any]] = {
    "none": NoLongRange,
    "mcgm": MCGM,
    "global_mean": GlobalMean,
    "element_mean": ElementMean,
}
"""Specifications by the name that model files use."""

__all__ = [
    "BLOCKS",
    "MCGM",
    "SPECIFICATIONS",
    "Clusters",
    "Contribution",
    "ElementMean",
    "GlobalMean",
    "LongRange",
    "LongRangeSpec",
    "NoLongRange",
]
