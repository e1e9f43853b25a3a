"""How the C library and the system treat memory: kept between steps, given back after a failure, refused in time."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt."""

LEFT_FREE = 0.05
"""Share of the available memory that a bounded process leaves to the system."""

CONTROL_GROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)
"""Where a container's limit and use are found, in versions 2 and 1."""


def keep_freed_memory() -> None:
    """Keep freed memory in the process instead of returning it: a step's tensors then cause no page faults.

    With glibc (Linux); elsewhere nothing happens. The process holds its peak memory until it ends.
    """
    library = _c_library()
    if hasattr(library, "mallopt"):
        library.mallopt(TRIM_THRESHOLD, -1)  # nothing
        library.mallopt(MMAP_MAX, 0)  # large tensors as well, which had pages of their own


def return_freed_memory() -> None:
    """Give everything that is free back to the system and the GPU: after a failure, before a smaller attempt."""
    gc.collect()
    library = _c_library()
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _c_library() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None)
    except OSError:
        return None


@contextmanager
def bounded_memory(*, processes: int = 1) -> Iterator[None]:
    """Refuse this process more memory than there is, so that it can react instead of being killed by the system.

    Sets the soft limit RLIMIT_DATA to a share of what is available now, as one of so many processes; an existing
    lower limit stays. On Linux without a GPU, whose driver would count as well; elsewhere nothing happens.
    """
    available = available_bytes()
    if available is None or torch.cuda.is_available():
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    bound = _data_bytes() + int((1 - LEFT_FREE) * available / processes)
    known = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([bound, *known]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def available_bytes() -> int | None:
    """Memory that this machine or container can still give without swapping; `None` where it does not tell."""
    found = _field(Path("/proc/meminfo"), "MemAvailable:")
    if found is None:
        return None
    for limit, use in CONTROL_GROUPS:
        most = _number(limit)
        if most is not None:
            found = min(found, max(0, most - (_number(use) or 0)))
    return found


def _data_bytes() -> int:
    """What RLIMIT_DATA counts, in this process."""
    return _field(Path("/proc/self/status"), "VmData:") or 0


def _field(path: Path, name: str) -> int | None:
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(name)), None)


def _number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
