"""Kernels of a GPU recorded once and replayed: what Python takes to ask for them one by one is saved.

A CUDA graph holds the kernels of a function with the memory that they use, and starts them all with one call. It is
right for as long as nothing changes but numbers: lengths and addresses of all tensors are part of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")

_log = logging.getLogger("mcgm")


class CudaGraphs:
    """Recordings on one device, which use the same memory: results of one are overwritten by the next that runs.

    On a CPU there is nothing to record, and functions run as they are. So they do on a GPU after one was met that waits
    for the device, which cannot be recorded, or for which there was no memory: a warning says so.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.is_possible = device.type == "cuda"
        self.made = 0
        self._pool: _Pool | None = None
        self._stream: torch.cuda.Stream | None = None

    def record(self, function: Callable[[], T]) -> tuple[Callable[[], None], T] | None:
        """What replays the function, and where its results then are; `None` where it cannot be recorded.

        The function must have run before, so that libraries are initialised.
        """
        if not self.is_possible:
            return None
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.device(self.device), torch.cuda.stream(self._aside):
                self._pool = self._pool or _Pool(self._aside)
                with torch.cuda.graph(graph, pool=self._pool.handle, stream=self._aside):
                    found = function()
        except RuntimeError as error:  # memory that is refused, too: it has run without a recording
            self.is_possible = False
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            _log.warning("cuda_graphs: this potential cannot be recorded and runs as it is: %s", reason)
            return None
        self.made += 1
        return graph.replay, found

    def on_another_stream(self, function: Callable[[], object]) -> None:
        """Run the function as it will be recorded: not on the stream of everything else."""
        if not self.is_possible:
            function()
            return
        aside, here = self._aside, torch.cuda.current_stream(self.device)
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            function()
        here.wait_stream(aside)

    @property
    def _aside(self) -> torch.cuda.Stream:
        """A stream of this device: torch's own for recordings is of the device that was the first to have one."""
        self._stream = self._stream or torch.cuda.Stream(self.device)
        return self._stream


class _Pool:
    """Memory that torch keeps for recordings, as long as there is one: this one."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self.handle = torch.cuda.graph_pool_handle()
        self._graph = torch.cuda.CUDAGraph()
        number = torch.zeros(1, device=stream.device)
        with torch.cuda.graph(self._graph, pool=self.handle, stream=stream):
            number.add_(1)
