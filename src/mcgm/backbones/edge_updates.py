"""Two ways in which an update of the atoms enters a network whose features live on edges."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mcgm.activations import silu
from mcgm.errors import ConfigError, unknown_name
from mcgm.segments import take


@dataclass(frozen=True, eq=False)
class EdgeState:
    """What DimeNet++ and GemNet-T pass between their layers.

    `message` are the edge features, `hidden` the last output block's atom features, `stream` the sum of the updates
    kept apart, `energy` that of the output blocks already closed; `own` is the network's own and opaque here.
    """

    layer: int
    message: Float[Tensor, "edge message"]
    hidden: Float[Tensor, "atom channel"]
    stream: Float[Tensor, "atom channel"]
    energy: Float[Tensor, "atom"]
    source: Int[Tensor, "edge"]
    target: Int[Tensor, "edge"]
    own: Any


class EdgeUpdate(nn.Module, ABC):
    """How the scalars are read from the state, where an update goes, and what energy it has by itself.

    In every way `scalars(absorb(state, update)) == scalars(state) + update`, as in networks that live on atoms.
    """

    @abstractmethod
    def scalars(self, state: EdgeState) -> Float[Tensor, "atom channel"]:
        """Invariant features of the atoms."""

    @abstractmethod
    def absorb(self, state: EdgeState, update: Float[Tensor, "atom channel"]) -> EdgeState:
        """State after the update."""

    @abstractmethod
    def energies(self, state: EdgeState) -> Float[Tensor, "atom"]:
        """Energies of the atoms beyond those of the output blocks."""


class AtomStream(EdgeUpdate):
    """The updates gather in a stream of their own, which is read out with the edges and never enters them.

    No bias anywhere, so that a stream without updates has no energy. Source: Ewald MP, arXiv:2303.04791, section 4.
    """

    def __init__(self, channels: int, messages: int, layers: int) -> None:
        super().__init__()
        self.dense = nn.Linear(channels, channels, bias=False)
        self.readout = nn.Linear(channels, 1, bias=False)

    def scalars(self, state: EdgeState) -> Float[Tensor, "atom channel"]:
        """The output block's features plus the stream."""
        return state.hidden + state.stream

    def absorb(self, state: EdgeState, update: Float[Tensor, "atom channel"]) -> EdgeState:
        """The update joins the stream."""
        return replace(state, stream=state.stream + update)

    def energies(self, state: EdgeState) -> Float[Tensor, "atom"]:
        """The stream through one dense layer."""
        return self.readout(silu(self.dense(state.stream)))[:, 0]


class PairToEdge(EdgeUpdate):
    """The updates of both ends of an edge enter its message through a linear map, one per layer but the last.

    The update also joins the atom features that the output block reads, so that the last one has an effect.
    Source: Neural P3M, arXiv:2409.17622, its DimeNet++ and GemNet.
    """

    def __init__(self, channels: int, messages: int, layers: int) -> None:
        super().__init__()
        maps = [nn.Linear(channels, 2 * messages, bias=False) for _ in range(layers - 1)]
        self.maps = nn.ModuleList(maps)

    def scalars(self, state: EdgeState) -> Float[Tensor, "atom channel"]:
        """The output block's features."""
        return state.hidden

    def absorb(self, state: EdgeState, update: Float[Tensor, "atom channel"]) -> EdgeState:
        """The update joins the atom features and, where a layer follows, the messages."""
        state = replace(state, hidden=state.hidden + update)
        if state.layer >= len(self.maps):
            return state
        sent, received = self.maps[state.layer](update).chunk(2, dim=1)
        return replace(state, message=state.message + take(sent, state.source) + take(received, state.target))

    def energies(self, state: EdgeState) -> Float[Tensor, "atom"]:
        """None beyond the output blocks."""
        return torch.zeros_like(state.energy)


class NoUpdate(EdgeUpdate):
    """For the network by itself: no parameters, and an update is an error."""

    def __init__(self, channels: int, messages: int, layers: int) -> None:
        super().__init__()

    def scalars(self, state: EdgeState) -> Float[Tensor, "atom channel"]:
        """The output block's features."""
        return state.hidden

    def absorb(self, state: EdgeState, update: Float[Tensor, "atom channel"]) -> EdgeState:
        """Raises: ConfigError, always."""
        raise ConfigError('this network was built with update="none"; build it with update="edges" or "atom_stream".')

    def energies(self, state: EdgeState) -> Float[Tensor, "atom"]:
        """None beyond the output blocks."""
        return torch.zeros_like(state.energy)


UPDATES: dict[str, type[EdgeUpdate]] = {"atom_stream": AtomStream, "edges": PairToEdge, "none": NoUpdate}
"""Ways by the name under which a configuration asks for them."""


def build_update(name: str, channels: int, messages: int, layers: int) -> EdgeUpdate:
    """The module of this name.

    Raises:
        ConfigError: unknown name.
    """
    if name not in UPDATES:
        raise ConfigError(f"update: {unknown_name('way', name, UPDATES)}")
    return UPDATES[name](channels, messages, layers)  # type: ignore[call-arg]
