"""Model files: safetensors with a JSON header. Reading one executes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import mcgm
from mcgm.committee import Committee
from mcgm.domain import Domain
from mcgm.errors import CheckpointError, ConfigError
from mcgm.potential import NetworkPotential, Potential
from mcgm.registry import describe_backbone, describe_block, restore_backbone, restore_block
from mcgm.sealed import Sealed

FORMAT = 4
"""Version of the header that this package writes.

2: with a checksum; 3: MCGM says what it does with the charge; 4: several members, or one.
"""

MODEL = Sealed("a model file", "mcgm", newest=FORMAT, last_unsealed=1)

UNITS = {"energy": "eV", "length": "Å", "charge": "e"}


def _with_checksum(header: dict[str, Any]) -> dict[str, Any]:
    """1 -> 2: the checksum stands outside the header, which stays as it is."""
    return header | {"format": 2}


def _with_total_charge(header: dict[str, Any]) -> dict[str, Any]:
    """2 -> 3: until then MCGM ignored the total charge."""
    block = header["long_range"]
    if block["name"] == "mcgm":
        block = block | {"total_charge": "ignored"}
    return header | {"format": 3, "long_range": block}


def _with_committee(header: dict[str, Any]) -> dict[str, Any]:
    """3 -> 4: until then every file held one network."""
    return header | {"format": 4, "committee": None}


UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: _with_checksum,
    2: _with_total_charge,
    3: _with_committee,
}
"""Header of version n -> header of version n + 1."""


def save(potential: Potential, path: str | Path, *, extra: dict[str, Any] | None = None) -> None:
    """Write a potential to one file: weights, and a header with configuration, units, elements and references.

    `extra` (plain JSON) is kept under that name for whoever reads the header. The file appears whole or not at all.
    """
    header = {
        "mcgm": mcgm.__version__,
        "units": UNITS,
        "backbone": describe_backbone(potential.backbone),
        "long_range": describe_block(potential.specification),
        "elements": None if potential.elements is None else list(potential.elements),
        "committee": _describe_committee(potential),
        "extra": extra or {},
    }
    MODEL.write(path, header, potential.state_dict())


def read_header(path: str | Path) -> dict[str, Any]:
    """The header of a model file, upgraded to the present version.

    Raises:
        CheckpointError: not a model file of this package, damaged, or newer than this package.
    """
    return _read(path)[0]


def load(path: str | Path, *, device: str | torch.device = "cpu") -> Potential:
    """Read a potential that `save` wrote, in evaluation mode.

    Raises:
        CheckpointError: not a model file of this package, damaged, or newer than this package.
        ConfigError: no such device here.
    """
    require_device(device)
    header, tensors = _read(path)
    try:
        potential = _restore(header, tensors)
    except Exception as error:  # a damaged header can make any constructor fail in any way
        raise CheckpointError(f"{path}: the header does not describe a model: {error!r}") from error
    try:
        potential.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: the weights do not fit the model in the header: {error}") from error
    return potential.to(device).eval()


def require_device(device: str | torch.device) -> None:
    """Refuse a device that is not there.

    Raises:
        ConfigError: with those that are.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        there = ", ".join(["cpu", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))])
        said = (str(error).splitlines() or [""])[0].rstrip(".")
        raise ConfigError(f"device {str(device)!r}: cannot be used ({said}). There are here: {there}.") from error


def _describe_committee(potential: Potential) -> dict[str, Any] | None:
    """How many members, and what spread is usual; `None` for a single network."""
    if not isinstance(potential, Committee):
        return None
    domain = None if potential.domain is None else dataclasses.asdict(potential.domain)
    return {"members": len(potential.members), "domain": domain}


def _restore(header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Potential:
    """The potential of a header, its weights still fresh."""

    def network(scale: str) -> NetworkPotential:
        backbone, block = restore_backbone(header["backbone"]), restore_block(header["long_range"])
        return NetworkPotential(backbone, block, elements=header["elements"]).to(tensors[scale].dtype)

    committee = header["committee"]
    if committee is None:
        return network("scale")
    domain = None if committee["domain"] is None else Domain(**committee["domain"])
    return Committee([network(f"members.{k}.scale") for k in range(committee["members"])], domain)


def _read(path: str | Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    header, tensors = MODEL.read(path)
    while header["format"] < FORMAT:
        header = UPGRADES[header["format"]](header)
    return header, tensors
