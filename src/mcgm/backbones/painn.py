"""PaiNN: equivariant messages of scalars and vectors (Schütt, Unke, Gastegger 2021, arXiv:2102.03150)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mcgm.backbones.base import Backbone
from mcgm.backbones.radial import BesselBasis, envelope_named
from mcgm.batch import Batch
from mcgm.heads import EnergyHead
from mcgm.neighbors import Edges
from mcgm.segments import segment_sum, take
from mcgm.structure import HEAVIEST

SIZES: dict[str, dict[str, Any]] = {
    "paper": {"channels": 512, "radial": 128, "layers": 4},
    "small": {"channels": 64, "radial": 20, "layers": 3},
}


@dataclass(frozen=True, eq=False)
class PaiNNState:
    """Scalars s and vectors v of the atoms, and what every layer reads of the edges."""

    features: Float[Tensor, "atom channel"]
    vectors: Float[Tensor, "atom 3 channel"]
    edges: Edges
    direction: Float[Tensor, "edge 3 1"]
    basis: Float[Tensor, "edge radial"]
    envelope: Float[Tensor, "edge 1"]


class Message(nn.Module):
    """Residuals from the neighbours (Eqs. 7 and 8)."""

    def __init__(self, channels: int, radial: int) -> None:
        super().__init__()
        self.source = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, 3 * channels))
        self.filter = nn.Linear(radial, 3 * channels)

    def forward(self, state: PaiNNState) -> tuple[Float[Tensor, "atom channel"], Float[Tensor, "atom 3 channel"]]:
        """Residuals of scalars and vectors."""
        source, target = state.edges.source, state.edges.target
        atoms, channels = state.features.shape
        weight = self.filter(state.basis) * state.envelope
        scalar, vector, along = (take(self.source(state.features), source) * weight).split(channels, dim=-1)
        moved = take(state.vectors, source) * vector[:, None] + along[:, None] * state.direction
        return segment_sum(scalar, target, atoms), segment_sum(moved, target, atoms)


class Update(nn.Module):
    """Residuals from the atom's own scalars and vectors (Eqs. 9 and 10)."""

    def __init__(self, channels: int, softness: float) -> None:
        super().__init__()
        self.floor = softness**2
        self.mix = nn.Linear(channels, 2 * channels, bias=False)
        self.gate = nn.Sequential(nn.Linear(2 * channels, channels), nn.SiLU(), nn.Linear(channels, 3 * channels))

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
    jump there.
    """

    def __init__(
        self,
        *,
        channels: int = 64,
        radial: int = 20,
        layers: int = 3,
        cutoff: float = 6.0,
        envelope: str = "polynomial",
        softness: float = 0.03,
    ) -> None:
        super().__init__(
            channels=channels, layers=layers, cutoff=cutoff, radial=radial, envelope=envelope, softness=softness
        )
        self.embedding = nn.Embedding(HEAVIEST + 1, channels)
        self.basis = BesselBasis(cutoff, radial)
        self.envelope = envelope_named(envelope, cutoff)
        self.messages = nn.ModuleList(Message(channels, radial) for _ in range(layers))
        self.updates = nn.ModuleList(Update(channels, softness) for _ in range(layers))
        self.head = EnergyHead(channels)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def embed(self, batch: Batch, edges: Edges, index: Any) -> PaiNNState:
        """Element embeddings, zero vectors."""
        features = self.embedding(batch.numbers)
        return PaiNNState(
            features=features,
            vectors=features.new_zeros((batch.n_atoms, 3, self.channels)),
            edges=edges,
            direction=(edges.vector / edges.length[:, None])[..., None],
            basis=self.basis(edges.length),
            envelope=self.envelope(edges.length)[:, None],
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
