"""PaiNN: equivariant messages of scalars and vectors (Schütt, Unke, Gastegger 2021, arXiv:2102.03150)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from mcgm.activations import SiLU
from mcgm.backbones.base import Backbone
from mcgm.backbones.directional import EdgeTable
from mcgm.backbones.linear_parts import linear_parts
from mcgm.batch import Batch
from mcgm.convolution import messages
from mcgm.heads import EnergyHead
from mcgm.neighbors import Edges
from mcgm.radial import BesselBasis, envelope_named
from mcgm.structure import HEAVIEST

SIZES: dict[str, dict[str, Any]] = {
    "paper": {"channels": 512, "radial": 128, "layers": 4},
    "small": {"channels": 64, "radial": 20, "layers": 3},
}


SCALAR, CARRIED, ALONG = 0, 1, 2
"""Thirds of the message maps: what joins the scalars, scales the sources' vectors, makes vectors along the edge."""


@dataclass(frozen=True, eq=False)
class PaiNNState:
    """Scalars s and vectors v of the atoms, and what every layer reads of the edges.

    `basis` is the radial basis and a constant, both times the envelope: what it is mapped to has the envelope as well.
    """

    features: Float[Tensor, "atom channel"]
    vectors: Float[Tensor, "atom 3 channel"]
    table: EdgeTable
    direction: Float[Tensor, "atom 3 slot"]
    basis: Float[Tensor, "pair radial_and_one"]


class MessageBlock(nn.Module, ABC):
    """Residuals from the neighbours (Eqs. 7 and 8)."""

    def __init__(self, channels: int, radial: int) -> None:
        super().__init__()
        self.source = nn.Sequential(nn.Linear(channels, channels), SiLU(), nn.Linear(channels, 3 * channels))
        self.filter = nn.Linear(radial, 3 * channels)

    @abstractmethod
    def forward(self, state: PaiNNState) -> tuple[Float[Tensor, "atom channel"], Float[Tensor, "atom 3 channel"]]:
        """Residuals of scalars and vectors."""

    def sent_and_filters(
        self, state: PaiNNState, *thirds: int
    ) -> list[tuple[Float[Tensor, "atom channel"], Float[Tensor, "pair channel"]]]:
        """What every atom sends and the filters of the pairs, each third of the maps by itself."""
        first, activation, last = self.source
        sent = linear_parts(cast(nn.Linear, last), activation(first(state.features)), 3, thirds)
        maps = torch.cat([self.filter.weight, self.filter.bias[:, None]], dim=1).chunk(3)
        return list(zip(sent, (linear(state.basis, maps[k]) for k in thirds), strict=True))

    def along_edges(
        self, state: PaiNNState, sent: Float[Tensor, "atom channel"], weight: Float[Tensor, "pair channel"]
    ) -> Float[Tensor, "atom 3 channel"]:
        """Σ direction x message over the edges of each target, as matrix products: no vector is built on an edge."""
        message = messages(sent, weight, state.table.pairs.source, ways=2)
        return torch.bmm(state.direction, state.table.slots.spread(message))


class FirstMessage(MessageBlock):
    """While all vectors are zero: none are gathered."""

    def forward(self, state: PaiNNState) -> tuple[Float[Tensor, "atom channel"], Float[Tensor, "atom 3 channel"]]:
        """Residuals of scalars and vectors."""
        scalar, along = self.sent_and_filters(state, SCALAR, ALONG)
        return state.table.pairs.convolve(*scalar), self.along_edges(state, *along)


class Message(MessageBlock):
    """With the vectors of the sources."""

    def forward(self, state: PaiNNState) -> tuple[Float[Tensor, "atom channel"], Float[Tensor, "atom 3 channel"]]:
        """Residuals of scalars and vectors."""
        convolve = state.table.pairs.convolve
        scalar, (sent, weight), along = self.sent_and_filters(state, SCALAR, CARRIED, ALONG)
        carried = convolve(state.vectors * sent[:, None], weight)
        return convolve(*scalar), carried + self.along_edges(state, *along)


class Update(nn.Module):
    """Residuals from the atom's own scalars and vectors (Eqs. 9 and 10)."""

    def __init__(self, channels: int, softness: float) -> None:
        super().__init__()
        self.floor = softness**2
        self.mix = nn.Linear(channels, 2 * channels, bias=False)
        self.gate = nn.Sequential(nn.Linear(2 * channels, channels), SiLU(), nn.Linear(channels, 3 * channels))

    def forward(self, state: PaiNNState) -> tuple[Float[Tensor, "atom channel"], Float[Tensor, "atom 3 channel"]]:
        """Residuals of scalars and vectors."""
        u, v = self.mix(state.vectors).chunk(2, dim=-1)
        norm = torch.sqrt(v.square().sum(1) + self.floor)
        gate_vv, gate_sv, gate_ss = self.gate(torch.cat([state.features, norm], dim=-1)).chunk(3, dim=-1)
        return gate_ss + gate_sv * (u * v).sum(1), gate_vv[:, None] * u


class PaiNN(Backbone):
    """PaiNN of the original paper: plain SiLU, no layer norm, none of the scaling factors that OCP adds.

    Chosen because the published equations are complete without them; parameter counts agree within 0.1 %. The cutoff is
    a polynomial envelope with three vanishing derivatives (`envelope="cosine"` gives the published one).
    Norms are sqrt(|V v|² + softness²): without it they have a kink where symmetry makes a vector vanish, and forces
    jump there. Vectors pass near zero in any dynamics, and what bends within less than a step lets the energy drift.
    """

    def __init__(
        self,
        *,
        channels: int = 64,
        radial: int = 20,
        layers: int = 3,
        cutoff: float = 6.0,
        envelope: str = "polynomial",
        softness: float = 0.1,
    ) -> None:
        super().__init__(
            channels=channels, layers=layers, cutoff=cutoff, radial=radial, envelope=envelope, softness=softness
        )
        self.embedding = nn.Embedding(HEAVIEST + 1, channels)
        self.basis = BesselBasis(cutoff, radial)
        self.envelope = envelope_named(envelope, cutoff)
        kinds = [FirstMessage, *[Message] * (layers - 1)][:layers]
        self.messages = nn.ModuleList(kind(channels, radial) for kind in kinds)
        self.updates = nn.ModuleList(Update(channels, softness) for _ in range(layers))
        self.head = EnergyHead(channels)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def index(self, batch: Batch) -> EdgeTable:
        """Pairs, each with both of its edges, and their places at their targets."""
        return EdgeTable.from_neighbors(batch.neighbors, batch.n_atoms)

    def embed(self, batch: Batch, edges: Edges, index: EdgeTable) -> PaiNNState:
        """Element embeddings, zero vectors."""
        features = self.embedding(batch.numbers)
        length = index.pairs.length(edges)
        basis = torch.cat([self.basis(length), torch.ones_like(length)[:, None]], dim=1)
        return PaiNNState(
            features=features,
            vectors=features.new_zeros((batch.n_atoms, 3, self.channels)),
            table=index,
            direction=index.slots.spread(index.pairs.direction(edges)).transpose(1, 2),
            basis=basis * self.envelope(length)[:, None],
        )

    def interact(self, layer: int, state: PaiNNState) -> PaiNNState:
        """One message and one update, both added."""
        for block in (self.messages[layer], self.updates[layer]):
            scalar, vector = block(state)
            state = replace(state, features=state.features + scalar, vectors=state.vectors + vector)
        return state

    def scalars(self, state: PaiNNState) -> Float[Tensor, "atom channel"]:
        """The scalars s; vectors are no long-range block's business."""
        return state.features

    def absorb(self, state: PaiNNState, update: Float[Tensor, "atom channel"]) -> PaiNNState:
        """Added to the scalars; vectors untouched."""
        return replace(state, features=state.features + update)

    def atom_energies(self, state: PaiNNState) -> Float[Tensor, "atom"]:
        """Two atom-wise layers on the scalars."""
        return self.head(state.features)
