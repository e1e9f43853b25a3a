"""Harmonics of directions."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def second_degree(unit: Float[Tensor, "edge 3"]) -> Float[Tensor, "edge 5"]:
    """Real harmonics of degree 2 with unit sum of squares: products sum to the Legendre polynomial of the angle."""
    x, y, z = unit.unbind(-1)
    root = math.sqrt(3.0)
    parts = (root * x * z, root * x * y, y * y - 0.5 * (x * x + z * z), root * y * z, 0.5 * root * (z * z - x * x))
    return torch.stack(parts, dim=-1)
