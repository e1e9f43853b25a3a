"""Mixed precision: where a network may compute in bfloat16, and where it never does."""

from __future__ import annotations

import torch

HALF = (torch.bfloat16, torch.float16)


def exact(device: torch.device) -> torch.autocast:
    """Whatever surrounds it, single precision or better: for geometry, clusters and energies."""
    return torch.autocast(device.type, enabled=False)


def at_least_single(dtype: torch.dtype) -> torch.dtype:
    """What to add up in: eight bits lose the small terms of a sum. Whole numbers stay what they are."""
    return torch.float32 if dtype in HALF else dtype
