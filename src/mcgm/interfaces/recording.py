"""Predictions of frames whose pairs stay listed: recorded at first, then replayed for other positions.

A step of a small system takes a GPU less time than Python takes to ask for it (see `mcgm.cuda_graphs`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mcgm.batch import Batch
from mcgm.cuda_graphs import CudaGraphs
from mcgm.potential import Potential, Prediction

NUMBERS = ("positions", "cell", "charge", "spin")
"""What may change from one batch to the next without another recording."""


class Recording:
    """Predictions of one potential for one list of pairs: as they are at first, then recorded, then replayed.

    Results of a replay are overwritten by the next.

    Args:
        batch: in float64, on any device.
    """

    def __init__(self, potential: Potential, graphs: CudaGraphs, batch: Batch, *, stress: bool) -> None:
        self.stress = stress
        self._potential, self._graphs = potential, graphs
        self._batch = batch.to(potential.device)
        self._index = potential.index(self._batch.to(potential.dtype)).index
        self._runs = 0
        self._replay: Callable[[], None] | None = None
        self._found: Prediction | None = None

    def __call__(self, batch: Batch) -> Prediction:
        """The prediction for a batch that differs in `NUMBERS` alone."""
        for name in NUMBERS:
            getattr(self._batch, name).copy_(getattr(batch, name), non_blocking=True)
        if self._replay is None and self._runs >= self._runs_before:
            recorded = self._graphs.record(self._predict)
            if recorded is not None:
                self._replay, self._found = recorded
        if self._replay is None or self._found is None:
            self._runs += 1
            return self._predict()
        self._replay()
        return self._found

    @property
    def _runs_before(self) -> int:
        """How often it runs as it is before it is recorded; a compiled network compiles at the second."""
        return 2 if self._graphs.made == 0 else 1

    def _predict(self) -> Prediction:
        batch = replace(self._batch.to(self._potential.dtype), index=self._index)
        return self._potential(batch, forces=True, stress=self.stress)
