"""Tensors and a JSON header in one safetensors file with a checksum over every byte of it.

The checksum (SHA-256) is that of the file with 64 zeros in the checksum's own place.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save as serialize
from torch import Tensor

import mcgm
from mcgm.errors import CheckpointError
from mcgm.files import replacing

BLANK = "0" * 64
SIZE = struct.Struct("<Q")


@dataclass(frozen=True)
class Sealed:
    """A kind of file: what messages call it, the header's key, the newest version, the last one without checksum."""

    what: str
    key: str
    newest: int
    last_unsealed: int = 0

    def write(self, path: str | Path, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """One file with the header (plain JSON), its format version and the checksum; it appears whole or not at all.

        The same content gives the same bytes.
        """
        text = json.dumps({"format": self.newest} | header)
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        content = _in_order(serialize(whole, {self.key: text, "sha256": BLANK}))
        digest = hashlib.sha256(content).hexdigest()
        with replacing(path) as temporary:
            temporary.write_bytes(content.replace(_seal(BLANK), _seal(digest), 1))

    def read(self, path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Header and tensors as they were written, the checksum verified. Nothing in the file is executed.

        Raises:
            CheckpointError: another kind of file, damaged, or newer than this package.
        """
        path = Path(path)
        content, metadata = self._open(path)
        if self.key not in metadata:
            raise CheckpointError(f"{path}: a safetensors file, but not {self.what} of mcgm (no header of that name).")
        header, version = _header(path, metadata[self.key])
        if version > self.newest:
            raise CheckpointError(
                f"{path}: format version {version}; this mcgm {mcgm.__version__} reads up to {self.newest}. "
                "Upgrade mcgm."
            )
        digest = metadata.get("sha256")
        if (digest is not None or version > self.last_unsealed) and not _matches(content, digest):
            raise CheckpointError(
                f"{path}: is truncated or damaged: the checksum of its content is not the one it was written with. "
                "Copy it again from where it came."
            )
        try:
            return header, parse(content)
        except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
            raise CheckpointError(self._unreadable(path, error)) from error

    def _open(self, path: Path) -> tuple[bytes, dict[str, Any]]:
        """Bytes and metadata; a file of another kind is not read to its end."""
        if not path.is_file():
            found = "is a folder" if path.is_dir() else "no such file" if not path.exists() else "not a regular file"
            raise CheckpointError(f"{path}: {found}; required: {self.what}.")
        try:
            with path.open("rb") as file:
                head = _head(file, path.stat().st_size)
                metadata = json.loads(head[SIZE.size :]).get("__metadata__") or {}
                if not isinstance(metadata, dict):
                    raise ValueError("its metadata are not a table")
                return head + file.read(), metadata
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise CheckpointError(self._unreadable(path, error)) from error

    def _unreadable(self, path: Path, error: Exception) -> str:
        return (
            f"{path}: cannot be read as {self.what} ({_first_line(error)}). It is truncated, damaged, or another kind "
            "of file."
        )


def _in_order(content: bytes) -> bytes:
    """The file with its metadata in order of names: safetensors leaves the order to chance."""
    end = SIZE.size + SIZE.unpack_from(content)[0]
    table = json.loads(content[SIZE.size : end])
    ordered = {"__metadata__": dict(sorted(table.pop("__metadata__").items()))} | table
    text = json.dumps(ordered, separators=(",", ":")).encode()
    text += b" " * (-len(text) % SIZE.size)  # tensors start at a multiple of 8
    return SIZE.pack(len(text)) + text + content[end:]


def _head(file: BinaryIO, total: int) -> bytes:
    start = file.read(SIZE.size)
    size = SIZE.unpack(start)[0] if len(start) == SIZE.size else 0
    if not 2 <= size <= total - SIZE.size:
        raise ValueError("it does not begin with the size of a safetensors header")
    text = file.read(size)
    if not text.startswith(b"{"):
        raise ValueError("it does not begin with a safetensors header")
    return start + text


def _header(path: Path, text: Any) -> tuple[dict[str, Any], int]:
    try:
        header = json.loads(text)
        version = header["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: the header is damaged ({_first_line(error)}).") from error
    if type(version) is not int or version < 1:
        raise CheckpointError(f"{path}: format version {version!r} never existed; the header is damaged.")
    return header, version


def _seal(digest: str) -> bytes:
    return f'"sha256":"{digest}"'.encode()


def _matches(content: bytes, digest: Any) -> bool:
    """Whether the file is the one that was sealed with this digest."""
    if not isinstance(digest, str) or len(digest) != len(BLANK) or content.count(_seal(digest)) != 1:
        return False
    return hashlib.sha256(content.replace(_seal(digest), _seal(BLANK), 1)).hexdigest() == digest


def _first_line(error: Exception) -> str:
    """An error in few words: some quote the whole file."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"
