"""What every interface does first: a copy of the potential, and no jumps that were not asked for."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import torch

from mcgm.checkpoint import load, require_device
from mcgm.errors import ConfigError
from mcgm.interfaces.clusters import ClusterChoice, ClusterSource, cluster_choice
from mcgm.potential import Potential

SYMMETRIES = ("rotation", "reflection", "translation", "wrapping")

PRECISIONS = {"single": torch.float32, "double": torch.float64}
"""Precisions by the name that interfaces without torch types accept."""


def jumps(potential: Potential) -> str:
    """What a potential that jumps is refused with: why it does, and what to do."""
    why = potential.not_promised.get("smooth", "the energy or the force jumps")
    frozen = "clusters='frozen', which keeps the clusters of the first frame; " if potential.has_labels else ""
    return (
        f"this potential is not smooth (is_smooth is false): {why}. Dynamics would not conserve energy and optimisers "
        f"may not converge. Choose: a potential trained with long_range='mcgm', whose energy is smooth; {frozen}or "
        "allow_discontinuous=True, which takes the jumps (single points, comparisons)."
    )


def admit(
    potential: Potential | str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    clusters: str | ClusterChoice = "fresh",
    allow_discontinuous: bool = False,
    compiled: bool = False,
) -> tuple[Potential, ClusterSource]:
    """A copy of the potential, or of the one in the file, for evaluation only, and the source of its clusters.

    A symmetry that the potential does not promise is a warning.

    Args:
        dtype: float32 or float64; default: that of the potential.
        compiled: as a `mcgm.compiled.CompiledPotential`.

    Raises:
        ConfigError: a type that is no precision, a device that is not there, an unknown choice of clusters, jumps that
            were not allowed, or what cannot be compiled.
    """
    if dtype not in (None, torch.float32, torch.float64):
        raise ConfigError(f"dtype is {dtype}; required: torch.float32 or torch.float64.")
    if not isinstance(potential, Potential | str | Path):
        raise ConfigError(f"the potential is {potential!r}; required: a potential, or the path of its file.")
    require_device(device)
    with torch.inference_mode(False):
        given = copy.deepcopy(potential) if isinstance(potential, Potential) else load(potential)
        admitted = given.to(device=device, dtype=dtype or given.dtype).eval().requires_grad_(False)
        admitted = _compiled(admitted) if compiled else admitted
        source = cluster_choice(clusters).source(admitted)
    if not (source.is_smooth or allow_discontinuous):
        raise ConfigError(jumps(admitted))
    for symmetry in SYMMETRIES:
        if symmetry in admitted.not_promised:
            why = admitted.not_promised[symmetry]
            warnings.warn(f"this potential promises no invariance under {symmetry}: {why}.", stacklevel=3)
    return admitted, source


def _compiled(potential: Potential) -> Potential:
    from mcgm.compiled import CompiledPotential  # takes a second to import

    return CompiledPotential(potential)


def precision(name: str | torch.dtype | None) -> torch.dtype | None:
    """The torch type of "single" or "double"; a type, and `None` for that of the potential, stay what they are.

    Raises:
        ConfigError: any other word.
    """
    if name is None or isinstance(name, torch.dtype):
        return name
    if name not in PRECISIONS:
        raise ConfigError(f"precision is {name!r}; required: 'single' or 'double', or none for that of the potential.")
    return PRECISIONS[name]
