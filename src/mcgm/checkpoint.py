"""Model files: safetensors with a JSON header. Reading one executes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

import mcgm
from mcgm.errors import CheckpointError
from mcgm.files import replacing
from mcgm.potential import Potential
from mcgm.registry import describe_backbone, describe_block, restore_backbone, restore_block

FORMAT = 1
"""Version of the header that this package writes."""

UNITS = {"energy": "eV", "length": "Å", "charge": "e"}

UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Header of version n -> header of version n + 1."""


def save(potential: Potential, path: str | Path, *, extra: dict[str, Any] | None = None) -> None:
    """Write a potential to one file: weights, and a header with configuration, units, elements and references.

    `extra` (plain JSON) is kept under that name for whoever reads the header. The file appears whole or not at all.
    """
    header = {
        "format": FORMAT,
        "mcgm": mcgm.__version__,
        "units": UNITS,
        "backbone": describe_backbone(potential.backbone),
        "long_range": describe_block(potential.specification),
        "elements": None if potential.elements is None else list(potential.elements),
        "extra": extra or {},
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in potential.state_dict().items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"mcgm": json.dumps(header)})


def read_header(path: str | Path) -> dict[str, Any]:
    """The header of a model file, upgraded to the present version.

    Raises:
        CheckpointError: not a model file of this package, damaged, or newer than this package.
    """
    return _read(Path(path), tensors=False)[0]


def load(path: str | Path, *, device: str | torch.device = "cpu") -> Potential:
    """Read a potential that `save` wrote, in evaluation mode.

    Raises:
        CheckpointError: not a model file of this package, damaged, or newer than this package.
    """
    path = Path(path)
    header, tensors = _read(path, tensors=True)
    try:
        potential = Potential(
            restore_backbone(header["backbone"]), restore_block(header["long_range"]), elements=header["elements"]
        )
        potential = potential.to(tensors["scale"].dtype)
    except Exception as error:  # a damaged header can make any constructor fail in any way
        raise CheckpointError(f"{path}: the header does not describe a model: {error!r}") from error
    try:
        potential.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: the weights do not fit the model in the header: {error}") from error
    return potential.to(device).eval()


def _read(path: Path, *, tensors: bool) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    if path.is_dir() or not path.exists():
        raise CheckpointError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; required: a model file.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            content = {name: file.get_tensor(name) for name in file.keys()} if tensors else {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as a model file ({error}). It is truncated, damaged, or another kind of file."
        ) from error
    if "mcgm" not in metadata:
        raise CheckpointError(f"{path}: a safetensors file, but not of mcgm (no header of that name).")
    try:
        header = json.loads(metadata["mcgm"])
        version = int(header["format"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{path}: the header is damaged ({error!r}).") from error
    if version < FORMAT and version not in UPGRADES:
        raise CheckpointError(f"{path}: format version {version} never existed; the header is damaged.")
    if version > FORMAT:
        raise CheckpointError(
            f"{path}: format version {version}; this mcgm {mcgm.__version__} reads up to {FORMAT}. Upgrade mcgm."
        )
    while version < FORMAT:
        header = UPGRADES[version](header)
        version = int(header["format"])
    return header, content
