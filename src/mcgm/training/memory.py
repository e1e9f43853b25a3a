"""How the C library treats memory that training gives back and takes again at every step."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt."""

LARGEST_MMAP_THRESHOLD = 32 * 2**20
"""Bytes; the most that glibc takes."""


def keep_freed_memory() -> None:
    """Keep freed memory in the process instead of returning it: a step's tensors then cause no page faults.

    With glibc (Linux); elsewhere nothing happens. The process holds its peak memory until it ends.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(TRIM_THRESHOLD, 2**31 - 1)
    mallopt(MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
