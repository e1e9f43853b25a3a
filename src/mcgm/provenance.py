"""Where a figure comes from: command, commit, machine, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def provenance(command: Sequence[str]) -> dict[str, Any]:
    """Plain values that say how to get a result again."""
    return {"command": " ".join(command), "commit": commit(), "date": datetime.now(UTC).isoformat("T", "seconds")} | {
        "machine": machine()
    }


def commit() -> str:
    """The commit of the checkout this package runs from, "-dirty" added where files differ; "" outside of one."""
    if not _git("ls-files", "--error-unmatch", Path(__file__).name):
        return ""  # installed inside somebody's repository
    return _git("describe", "--always", "--dirty", "--exclude=*")


def _git(*arguments: str) -> str:
    """What git says beside this file; "" where it fails."""
    settings: dict[str, Any] = {"cwd": Path(__file__).parent, "capture_output": True, "text": True, "timeout": 10}
    try:
        shown = subprocess.run(["git", *arguments], check=False, **settings)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return shown.stdout.strip() if shown.returncode == 0 else ""


def machine() -> dict[str, Any]:
    """Processor, cores and versions."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "mcgm")}
    return {"processor": _processor(), "cores": os.cpu_count(), "python": platform.python_version()} | versions


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
