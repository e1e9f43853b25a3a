"""Time several functions in turns, so that their ratios hold on a noisy machine, and keep what came out."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mcgm.files import replacing
from mcgm.provenance import provenance

RESULTS = Path(__file__).parent / "results"


MMAP_THRESHOLD = -3
"""Parameter of glibc's mallopt."""


def count_exactly() -> None:
    """Every tensor in pages of its own from now on, which are given back when it is freed: a process then holds what
    is in use, and no gaps."""
    ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 64 * 1024)


def seconds(
    functions: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each call, one round after another, after one warm-up round.

    Processor time (`clock=time.process_time`) is that of one thread, whoever else is on the machine.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds + 1):
        for name, function in functions.items():
            start = clock()
            function()
            if turn:
                times[name].append(clock() - start)
    return times


def one_process(command: list[str]) -> tuple[resource.struct_rusage, float]:
    """What a process of one thread used, and its seconds with starting it.

    Raises:
        SystemExit: it failed.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{' '.join(command)}: ended with status {status}.")
    return used, time.perf_counter() - started


def ratio(times: dict[str, list[float]], numerator: str, denominator: str) -> dict[str, float]:
    """Ratio round by round: median and quartiles."""
    ratios = sorted(a / b for a, b in zip(times[numerator], times[denominator], strict=True))
    low, median, high = statistics.quantiles(ratios, n=4)
    return {"median": round(median, 4), "quartile_1": round(low, 4), "quartile_3": round(high, 4)}


def store(name: str, figures: dict[str, Any]) -> None:
    """Print the figures, and write them with command, commit and machine to `benchmarks/results`."""
    write(RESULTS / f"{name}.json", figures | {"provenance": provenance(["python", *sys.argv])})
    print(json.dumps(figures, indent=1, ensure_ascii=False))


def kept(name: str) -> dict[str, Any]:
    """Figures of earlier calls, without where they came from."""
    path = RESULTS / f"{name}.json"
    figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    figures.pop("provenance", None)
    return figures


def write(path: Path, record: dict[str, Any]) -> None:
    """A record as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
