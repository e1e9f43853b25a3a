"""Frames of simulations as they come: searched for neighbours, and predicted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from mcgm.cuda_graphs import CudaGraphs
from mcgm.errors import ConfigError
from mcgm.interfaces.clusters import ClusterSource
from mcgm.interfaces.recording import Recording
from mcgm.interfaces.skin import KeptNeighbors
from mcgm.potential import Potential, Prediction
from mcgm.structure import Structure

SKIN, RECORDED_SKIN = 0.5, 1.0
"""Å around the cutoff where nothing is asked for; a recording lasts as long as a search of pairs does."""


class Frames(ABC):
    """What an interface asks for predictions; structures are known by their place in the list.

    Args:
        neighbors: pairs kept from frame to frame.
    """

    def __init__(self, neighbors: KeptNeighbors) -> None:
        self.neighbors = neighbors

    @property
    def recordings(self) -> int:
        """How often kernels were recorded."""
        return 0

    @abstractmethod
    def predict(self, structures: Sequence[Structure], *, stress: bool, name: str) -> Prediction:
        """Energies, forces and, where wanted, stress; errors call the frame by this name."""


class EveryFrame(Frames):
    """Pairs within the cutoff and all that follows from them are found for every frame."""

    def __init__(self, neighbors: KeptNeighbors, clusters: ClusterSource) -> None:
        super().__init__(neighbors)
        self.clusters = clusters

    def predict(self, structures: Sequence[Structure], *, stress: bool, name: str) -> Prediction:
        """See the base class."""
        potential = self.clusters.potential
        batch = self.neighbors.batch(structures).to(potential.dtype).to(potential.device)
        return self.clusters.predict(batch, stress=stress, name=name)


class RecordedFrames(Frames):
    """Pairs in the skin stay in the list, where they add nothing, and frames differ in numbers alone until it is
    searched again: so they can be replayed.

    Raises:
        ConfigError: a potential whose clusters or index are those of one frame.
    """

    def __init__(self, neighbors: KeptNeighbors, potential: Potential) -> None:
        super().__init__(neighbors)
        reads = potential.specification.index_reads
        if potential.has_labels or reads == "positions":
            why = "clusters" if potential.has_labels else "which atoms know of each other"
            raise ConfigError(
                f"cuda_graphs: this potential looks for {why} in every frame, which cannot be recorded; required: "
                "long_range='mcgm_oriented' or 'mcgm', or another block that does not. Leave cuda_graphs out."
            )
        self._reads_cell = reads == "cell"
        self.potential = potential
        self._graphs = CudaGraphs(potential.device)
        self._recording: Recording | None = None
        self._cell: torch.Tensor | None = None

    @property
    def recordings(self) -> int:
        """See the base class."""
        return self._graphs.made

    def predict(self, structures: Sequence[Structure], *, stress: bool, name: str) -> Prediction:
        """See the base class; the next call overwrites the results."""
        batch, is_new = self.neighbors.wide_batch(structures)
        recording = self._recording
        stale = self._reads_cell and self._cell is not None and not torch.equal(self._cell, batch.cell)
        if recording is None or is_new or stale or recording.stress != stress:
            self._recording = None  # not to serve other pairs, should what follows fail
            recording = self._recording = Recording(self.potential, self._graphs, batch, stress=stress)
            self._cell = batch.cell
        return recording(batch)


def frames(potential: Potential, clusters: ClusterSource, *, skin: float | None, cuda_graphs: bool) -> Frames:
    """Frames as an interface was asked to predict them; without a skin, with that of above.

    Raises:
        ConfigError: a skin that is none; or with `cuda_graphs` no GPU, no skin, or what `RecordedFrames` refuses.
    """
    if skin is None:
        skin = RECORDED_SKIN if cuda_graphs else SKIN
    neighbors = KeptNeighbors(potential.cutoff, skin)
    if not cuda_graphs:
        return EveryFrame(neighbors, clusters)
    if potential.device.type != "cuda":
        raise ConfigError(f"cuda_graphs needs a GPU; the device is {potential.device}. Give device='cuda'.")
    if skin == 0:
        raise ConfigError("cuda_graphs needs pairs that last for some frames; required: a skin above 0 Å.")
    return RecordedFrames(neighbors, potential)
