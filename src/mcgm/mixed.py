"""Mixed precision: where a network may compute in bfloat16, and where it never does."""

from __future__ import annotations

import torch

from mcgm.errors import ConfigError

HALF = (torch.bfloat16, torch.float16)


def exact(device: torch.device) -> torch.autocast:
    """Whatever surrounds it, single precision or better: for geometry, clusters and energies."""
    return torch.autocast(device.type, enabled=False)


def at_least_single(dtype: torch.dtype) -> torch.dtype:
    """What to add up in: eight bits lose the small terms of a sum. Whole numbers stay what they are."""
    return torch.float32 if dtype in HALF else dtype


def require_precision(dtype: torch.dtype) -> None:
    """Refuse networks that were cast to less than single precision.

    Raises:
        ConfigError: with what to do instead.
    """
    if dtype not in (torch.float32, torch.float64):
        raise ConfigError(
            f"the potential is {dtype}; required: float32 or float64. Lower precision: under torch.autocast, or "
            "training.precision: bf16-mixed."
        )
