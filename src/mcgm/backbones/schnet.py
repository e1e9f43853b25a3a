"""SchNet: continuous-filter convolutions (Schütt et al. 2017, arXiv:1706.08566)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from mcgm.activations import ShiftedSoftplus
from mcgm.backbones.atom_pairs import AtomPairs
from mcgm.backbones.base import Backbone
from mcgm.batch import Batch
from mcgm.heads import EnergyHead
from mcgm.neighbors import Edges
from mcgm.radial import GaussianBasis, envelope_named
from mcgm.structure import HEAVIEST

SIZES: dict[str, dict[str, Any]] = {
    "paper": {"channels": 512, "filters": 256, "radial": 200, "layers": 4},
    "small": {"channels": 64, "filters": 64, "radial": 32, "layers": 3},
}


@dataclass(frozen=True, eq=False)
class SchNetState:
    """Atom features, and what every layer reads of the pairs: filters are the same both ways."""

    features: Float[Tensor, "atom channel"]
    pairs: AtomPairs
    basis: Float[Tensor, "pair radial"]
    envelope: Float[Tensor, "pair 1"]


class Interaction(nn.Module):
    """Filters from distances, convolution over neighbours, atom-wise layers."""

    def __init__(self, channels: int, filters: int, radial: int) -> None:
        super().__init__()
        self.filter = nn.Sequential(nn.Linear(radial, filters), ShiftedSoftplus(), nn.Linear(filters, filters))
        self.source = nn.Linear(channels, filters, bias=False)
        self.output = nn.Sequential(nn.Linear(filters, channels), ShiftedSoftplus(), nn.Linear(channels, channels))

    def forward(self, state: SchNetState) -> Float[Tensor, "atom channel"]:
        """Residual of the features."""
        weight = self.filter(state.basis) * state.envelope
        return self.output(state.pairs.convolve(self.source(state.features), weight))


class SchNet(Backbone):
    """SchNet with shifted softplus throughout, as in the original paper and in PyG.

    Differs in the cutoff: a polynomial envelope with three vanishing derivatives instead of the cosine
    (`envelope="cosine"` gives that one), and no cap on neighbours.
    """

    def __init__(
        self,
        *,
        channels: int = 64,
        filters: int = 64,
        radial: int = 32,
        layers: int = 3,
        cutoff: float = 6.0,
        envelope: str = "polynomial",
    ) -> None:
        super().__init__(
            channels=channels, layers=layers, cutoff=cutoff, filters=filters, radial=radial, envelope=envelope
        )
        self.embedding = nn.Embedding(HEAVIEST + 1, channels)
        self.basis = GaussianBasis(cutoff, radial)
        self.envelope = envelope_named(envelope, cutoff)
        self.interactions = nn.ModuleList(Interaction(channels, filters, radial) for _ in range(layers))
        self.head = EnergyHead(channels, ShiftedSoftplus())
        for module in [*self.interactions.modules(), *self.head.modules()]:
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def index(self, batch: Batch) -> AtomPairs:
        """Pairs, each with both of its edges."""
        return AtomPairs.from_neighbors(batch.neighbors, batch.n_atoms)

    def embed(self, batch: Batch, edges: Edges, index: AtomPairs) -> SchNetState:
        """Element embeddings."""
        length = index.length(edges)
        envelope = self.envelope(length)[:, None]
        return SchNetState(self.embedding(batch.numbers), index, self.basis(length), envelope)

    def interact(self, layer: int, state: SchNetState) -> SchNetState:
        """One continuous-filter convolution, added."""
        return replace(state, features=state.features + self.interactions[layer](state))

    def scalars(self, state: SchNetState) -> Float[Tensor, "atom channel"]:
        """All features are invariant."""
        return state.features

    def absorb(self, state: SchNetState, update: Float[Tensor, "atom channel"]) -> SchNetState:
        """Added to the features."""
        return replace(state, features=state.features + update)

    def atom_energies(self, state: SchNetState) -> Float[Tensor, "atom"]:
        """Atom-wise layers."""
        return self.head(state.features)
