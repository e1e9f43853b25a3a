"""`last.ckpt`: everything a training needs to go on, in a sealed file without any pickle."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from torch import Tensor

from mcgm.errors import CheckpointError
from mcgm.sealed import Sealed

STATE = Sealed("a training checkpoint", "mcgm_training", newest=1)


def write_state(state: dict[str, Any], path: str | Path) -> None:
    """Write nested dictionaries, lists and tuples of tensors and plain values; the file is whole or not there.

    Raises:
        CheckpointError: the state holds something else, such as an object.
    """
    tensors: dict[str, Tensor] = {}
    STATE.write(path, {"state": _encode(state, "state", tensors)}, tensors)


def read_state(path: str | Path) -> dict[str, Any]:
    """What `write_state` wrote, on the CPU, or what Lightning wrote (mcgm 0.1), read by torch's restricted loader.

    Raises:
        CheckpointError: another kind of file, damaged, or newer than this package.
    """
    path = Path(path)
    if path.is_file() and zipfile.is_zipfile(path):
        return _read_zipped(path)
    header, tensors = STATE.read(path)
    try:
        return dict(_decode(header["state"], tensors))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: a training checkpoint, but its state is damaged ({error!r}).") from error


class StateFile(CheckpointIO):
    """How Lightning's Trainer writes and reads its state."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """See `write_state`."""
        write_state(checkpoint, path)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """See `read_state`."""
        return read_state(path)

    def remove_checkpoint(self, path: Any) -> None:
        """Delete the file, if there is one."""
        Path(path).unlink(missing_ok=True)


def _encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Plain JSON in which containers and tensors carry their kind; tensors are put aside under their path."""
    if isinstance(value, Tensor):
        # a copy: two names of one storage are refused by the format
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[_key(key, name), _encode(item, f"{name}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_encode(item, f"{name}.{k}", tensors) for k, item in enumerate(value)]}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise CheckpointError(f"{name}: required: a tensor or a plain value; got {type(value).__name__}. Nothing written.")


def _key(key: Any, name: str) -> Any:
    if type(key) not in (int, str):
        raise CheckpointError(f"{name}: required: keys that are words or numbers; got {key!r}. Nothing written.")
    return key


def _decode(item: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(item, dict):
        return item
    (kind, content), *_ = item.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _decode(value, tensors) for key, value in content}
    entries = [_decode(value, tensors) for value in content]
    return entries if kind == "list" else tuple(entries)


def _read_zipped(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError(f"holds a {type(state).__name__}")
    except Exception as error:  # the loader fails in many ways, none of them an error of ours
        raise CheckpointError(
            f"{path}: cannot be read as a training checkpoint ({str(error).splitlines()[0][:200]}). It is damaged, "
            "another kind of file, or holds more than weights and numbers. Remove it to start again."
        ) from error
    return state
