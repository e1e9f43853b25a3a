"""Long-range, global context for atomistic graph networks, as potentials to trust in simulations.

```python
from mcgm import Batch, build, load
potential = build(backbone="painn", long_range="mcgm_oriented", size="small", cutoff=6.0)
```
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mcgm.attachment import attach
    from mcgm.batch import Batch
    from mcgm.checkpoint import load
    from mcgm.committee import Committee
    from mcgm.potential import Potential, Prediction
    from mcgm.registry import build
    from mcgm.structure import Structure

_HOMES = {
    "Batch": "mcgm.batch",
    "Committee": "mcgm.committee",
    "Potential": "mcgm.potential",
    "Prediction": "mcgm.potential",
    "Structure": "mcgm.structure",
    "attach": "mcgm.attachment",
    "build": "mcgm.registry",
    "load": "mcgm.checkpoint",
}

__all__ = ["Batch", "Committee", "Potential", "Prediction", "Structure", "attach", "build", "load"]


def __getattr__(name: str) -> Any:
    # imported when first asked for, so that `mcgm --help` does not wait for torch
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mcgm' has no attribute {name!r}")
