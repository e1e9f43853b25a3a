"""MACE (arXiv:2206.07697) of as many parameters as another network, for benchmarks beside it.

Its packages are installed aside (`make bench`), because they pin versions of their own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

WIDTHS = range(4, 257, 4)


def parameters(network: nn.Module) -> int:
    """How many numbers are learnt."""
    return sum(parameter.numel() for parameter in network.parameters())


def nearest(count: int, elements: Collection[int], cutoff: float) -> nn.Module:
    """Two layers of scalars and vectors, correlation order 3, as wide as comes nearest to `count` parameters."""
    made = cache(lambda width: _network(width, sorted(elements), cutoff))
    place = bisect_left(WIDTHS, count, key=lambda width: parameters(made(width)))
    return min(map(made, WIDTHS[max(0, place - 1) : place + 1]), key=lambda network: abs(parameters(network) - count))


def _network(width: int, elements: list[int], cutoff: float) -> nn.Module:
    # e3nn 0.4 keeps a slice in its constants; torch reads nothing else by default
    torch.serialization.add_safe_globals([slice])
    from e3nn import o3
    from mace import modules

    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    settings: dict[str, Any] = {
        "r_max": cutoff,
        "num_bessel": 8,
        "num_polynomial_cutoff": 5,
        "max_ell": 2,
        "interaction_cls": block,
        "interaction_cls_first": block,
        "num_interactions": 2,
        "num_elements": len(elements),
        "hidden_irreps": o3.Irreps(f"{width}x0e + {width}x1o"),
        "MLP_irreps": o3.Irreps("16x0e"),
        "atomic_energies": np.zeros(len(elements)),
        "avg_num_neighbors": 15.0,
        "atomic_numbers": elements,
        "correlation": 3,
        "gate": nn.functional.silu,
        "atomic_inter_scale": 1.0,
        "atomic_inter_shift": 0.0,
        "radial_MLP": [64, 64, 64],
        "radial_type": "bessel",
    }
    return modules.ScaleShiftMACE(**settings).float()
