"""What a network must offer so that any long-range block fits into it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from mcgm.batch import Batch
from mcgm.errors import ConfigError
from mcgm.neighbors import Edges


class Backbone(nn.Module, ABC):
    """A local atomistic network, cut into layers.

    `Potential` drives it: `embed`, then for each layer `interact`, `scalars` (read), `absorb` (write), then
    `atom_energies`. The state is whatever the network passes between its layers, a frozen dataclass of its own.
    Subclasses are final and never import `mcgm.long_range`.

    Attributes:
        channels: width of the invariant scalars.
        layers: number of interaction layers.
        cutoff: Å.
        hyperparameters: keyword arguments that build this network again; plain JSON values.

    Raises:
        ConfigError: no channels, layers or cutoff.
    """

    def __init__(self, *, channels: int, layers: int, cutoff: float, **hyperparameters: Any) -> None:
        super().__init__()
        for name, value in (("channels", channels), ("layers", layers)):
            if not isinstance(value, int | np.integer) or value < 1:
                raise ConfigError(f"{name} is {value!r}; required: a whole number, at least 1.")
        if not isinstance(cutoff, int | float | np.number) or not 0 < cutoff < math.inf:
            raise ConfigError(f"cutoff is {cutoff!r} Å; required: a finite length above zero.")
        self.channels = channels
        self.layers = layers
        self.cutoff = cutoff
        self.hyperparameters = {"channels": channels, "layers": layers, "cutoff": cutoff} | hyperparameters

    def index(self, batch: Batch) -> Any:
        """Index tensors derived once from the neighbours (triplets, reverse edges), a frozen dataclass; default none.

        Called where batches are made, so that `embed` does no counting. Depends on `batch.neighbors`, not on
        positions; pairs in `batch.skin` are among these, and must add nothing.
        """
        return None

    @abstractmethod
    def embed(self, batch: Batch, edges: Edges, index: Any) -> Any:
        """First state, before any interaction."""

    @abstractmethod
    def interact(self, layer: int, state: Any) -> Any:
        """State after the local messages of one layer."""

    @abstractmethod
    def scalars(self, state: Any) -> Float[Tensor, "atom channel"]:
        """Features of the atoms that no rotation, reflection or translation changes."""

    @abstractmethod
    def absorb(self, state: Any, update: Float[Tensor, "atom channel"]) -> Any:
        """State after adding an update to the scalars."""

    @abstractmethod
    def atom_energies(self, state: Any) -> Float[Tensor, "atom"]:
        """Energy of every atom from the last state, before scale, shift and element references."""
