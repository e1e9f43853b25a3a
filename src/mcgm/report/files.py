"""Files that are either whole or not there."""

from __future__ import annotations

from pathlib import Path

from mcgm.files import replacing


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader never meets half of it; missing folders are made."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)
