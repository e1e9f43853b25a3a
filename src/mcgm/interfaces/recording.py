"""What a GPU does for one prediction, recorded once and replayed for other positions: no kernel is launched by hand.

A step of a small system takes a GPU less time than Python takes to ask for it. A CUDA graph holds all kernels of the
step with the memory that they use, and starts with one call. It is right for as long as nothing changes but numbers:
lengths and addresses of all tensors are part of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import torch

from mcgm.batch import Batch
from mcgm.potential import Potential, Prediction
from mcgm.splitting import is_out_of_memory

NUMBERS = ("positions", "cell", "charge", "spin")
"""What may change from one batch to the next without another recording."""

_log = logging.getLogger("mcgm")


class Recorder:
    """Makes recordings of one potential; they share memory, so that only the last one made may be called.

    A potential that waits for the device cannot be recorded: a warning says so, and it runs as it is from then on. So
    it does on a CPU, where there is nothing to record.
    """

    def __init__(self, potential: Potential) -> None:
        self.potential = potential
        self.is_possible = potential.device.type == "cuda"
        self.made = 0
        self._pool = torch.cuda.graph_pool_handle() if self.is_possible else None

    @property
    def runs_before(self) -> int:
        """How often a prediction runs as it is before it is recorded; a compiled network compiles at the second."""
        return 2 if self.made == 0 else 1

    def of(self, batch: Batch, *, stress: bool) -> Recording:
        """A recording for batches of these atoms and pairs, whose numbers alone differ."""
        return Recording(self, batch.to(self.potential.device), stress)

    def record(self, function: Callable[[], Prediction]) -> tuple[Callable[[], None], Prediction] | None:
        """What replays the function, and where its results then are; `None` where it cannot be recorded."""
        if not self.is_possible:
            return None
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                found = function()
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self.is_possible = False
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            _log.warning("cuda_graphs: this potential cannot be recorded and runs as it is: %s", reason)
            return None
        self.made += 1
        return graph.replay, found


class Recording:
    """Predictions for one list of pairs: as they are at first, then recorded, then replayed.

    Results of a replay are overwritten by the next.
    """

    def __init__(self, recorder: Recorder, batch: Batch, stress: bool) -> None:
        potential = recorder.potential
        self.stress = stress
        self._recorder = recorder
        self._batch = batch
        self._index = potential.index(batch.to(potential.dtype)).index
        self._runs = 0
        self._replay: Callable[[], None] | None = None
        self._found: Prediction | None = None

    def __call__(self, batch: Batch) -> Prediction:
        """The prediction for a batch that differs in `NUMBERS` alone."""
        for name in NUMBERS:
            getattr(self._batch, name).copy_(getattr(batch, name), non_blocking=True)
        if self._replay is None and self._runs >= self._recorder.runs_before:
            recorded = self._recorder.record(self._predict)
            if recorded is not None:
                self._replay, self._found = recorded
        if self._replay is None or self._found is None:
            self._runs += 1
            return self._predict()
        self._replay()
        return self._found

    def _predict(self) -> Prediction:
        potential = self._recorder.potential
        batch = replace(self._batch.to(potential.dtype), index=self._index)
        return potential(batch, forces=True, stress=self.stress)
