"""ViSNet: attention over neighbours, with angles and dihedrals from vectors that every atom carries."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mcgm.activations import SiLU, silu
from mcgm.backbones.atom_pairs import reverse_edges
from mcgm.backbones.base import Backbone
from mcgm.backbones.visnet_layers import (
    FirstMessages,
    FirstPairUpdate,
    KeepPairs,
    LaterMessages,
    PairGeometry,
    PairUpdate,
    glorot,
    softened_norm,
)
from mcgm.batch import Batch
from mcgm.errors import ConfigError
from mcgm.harmonics import second_degree
from mcgm.neighbors import Edges
from mcgm.radial import envelope_named
from mcgm.segments import segment_sum, take
from mcgm.slots import Slots
from mcgm.structure import HEAVIEST

SIZES: dict[str, dict[str, Any]] = {
    "paper": {"channels": 128, "layers": 6, "heads": 8, "radial": 32, "degree": 1},
    "small": {"channels": 64, "layers": 3, "heads": 4, "radial": 32, "degree": 1},
}
"""`paper` is Neural P3M's setting for MD22: 6 layers of 128 channels, 8 heads, 32 radial functions, degree 1; with the
dihedral term of the edge update 1,936,897 parameters (1.94 M)."""


@dataclass(frozen=True, eq=False)
class PairIndex:
    """Ordered pairs, sorted by target: every edge, and every atom with itself. `row` is where each edge stands."""

    source: Int[Tensor, "pair"]
    target: Int[Tensor, "pair"]
    reverse: Int[Tensor, "pair"]
    slots: Slots
    row: Int[Tensor, "edge"]


@dataclass(frozen=True, eq=False)
class ViSNetState:
    """What passes between layers; `vectors` has 3 components of degree 1, then 5 of degree 2 where asked for."""

    scalars: Float[Tensor, "atom channel"]
    vectors: Float[Tensor, "atom component channel"]
    pairs: Float[Tensor, "pair channel"]
    geometry: PairGeometry


class ViSNet(Backbone):
    """Vector-scalar interactive message passing, with the edge update that sees angles and dihedrals.

    Options: attention heads, size of the radial basis, degree of the spherical harmonics (1 or 2), name of the cutoff
    envelope. Vectors are not normalised (the published option, max-min, is not smooth). Two further differences to
    the publication keep the energy smooth: the bias between attention and vector messages is absent, since it carried
    them past the cutoff undamped, and the norms of the readout are rounded off at zero over `softness`.

    Raises:
        ConfigError: heads do not divide the channels, unknown envelope, degree not 1 or 2, softness not positive.

    Source: Wang et al., Nat. Commun. 15, 313 (2024), doi:10.1038/s41467-023-43720-2.
    """

    def __init__(
        self,
        *,
        channels: int = 128,
        layers: int = 6,
        cutoff: float = 5.0,
        heads: int = 8,
        radial: int = 32,
        degree: int = 1,
        envelope: str = "polynomial",
        softness: float = 0.1,
    ) -> None:
        options = {"heads": heads, "radial": radial, "degree": degree, "envelope": envelope, "softness": softness}
        _check(channels, options)
        super().__init__(channels=channels, layers=layers, cutoff=cutoff, **options)
        self.components = 3 if degree == 1 else 8
        self.across = 2.0 - degree
        self.envelope = envelope_named(envelope, cutoff)
        self.basis = ExpNormalBasis(cutoff, radial)
        self.element = nn.Embedding(HEAVIEST + 1, channels)
        self.neighbor_element = nn.Embedding(HEAVIEST + 1, channels)
        self.neighbor_filter = glorot(nn.Linear(radial, channels))
        self.combine = glorot(nn.Linear(2 * channels, channels))
        self.pair_filter = glorot(nn.Linear(radial, channels))
        messages = [FirstMessages, *[LaterMessages] * (layers - 1)]
        self.messages = nn.ModuleList(kind(channels, heads) for kind in messages)
        updates = [FirstPairUpdate, *[PairUpdate] * (layers - 2)][: layers - 1]
        self.pair_updates = nn.ModuleList([*(kind(channels) for kind in updates), KeepPairs()])
        self.readout = Readout(channels, softness)

    def index(self, batch: Batch) -> PairIndex:
        """The edges and every atom with itself, sorted by target."""
        atoms = torch.arange(batch.n_atoms, device=batch.device)
        source = torch.cat([batch.neighbors.source, atoms])
        target = torch.cat([batch.neighbors.target, atoms])
        order = torch.argsort(target, stable=True)
        row = torch.empty_like(order)
        row[order] = torch.arange(len(order), device=batch.device)
        opposite = torch.cat([reverse_edges(batch.neighbors, batch.n_atoms), len(source) - batch.n_atoms + atoms])
        source, target, edges = source[order], target[order], len(batch.neighbors.source)
        slots = Slots.from_targets(target, batch.n_atoms)
        return PairIndex(source, target, row[opposite][order], slots, row[:edges])

    def embed(self, batch: Batch, edges: Edges, index: PairIndex) -> ViSNetState:
        """Elements seen together with their neighbours' elements; no vectors yet."""
        geometry = self._geometry(edges, index)
        basis = self.envelope(geometry.length)[:, None] * self.basis(geometry.length)
        near = self.neighbor_filter(take(basis, index.row)) * take(geometry.envelope, index.row)[:, None]
        near = take(self.neighbor_element(batch.numbers), edges.source) * near
        near = segment_sum(near, edges.target, batch.n_atoms)
        scalars = self.combine(torch.cat([self.element(batch.numbers), near], dim=-1))
        pairs = (take(scalars, index.source) + take(scalars, index.target)) * self.pair_filter(basis)
        vectors = scalars.new_zeros(batch.n_atoms, self.components, self.channels)
        return ViSNetState(scalars, vectors, pairs, geometry)

    def _geometry(self, edges: Edges, index: PairIndex) -> PairGeometry:
        unit = edges.vector / edges.length[:, None]
        harmonics = unit if self.components == 3 else torch.cat([unit, second_degree(unit)], dim=-1)
        count = index.source.shape[0]
        length = edges.length.new_zeros(count).index_add(0, index.row, edges.length)
        direction = harmonics.new_zeros(count, self.components).index_add(0, index.row, harmonics)
        return PairGeometry(
            source=index.source,
            target=index.target,
            reverse=index.reverse,
            slots=index.slots,
            length=length,
            envelope=self.envelope(length),
            direction=index.slots.spread(direction),
            across=self.across,
        )

    def interact(self, layer: int, state: ViSNetState) -> ViSNetState:
        """Attention between neighbours; scalars, vectors and pairs are all updated from the former state."""
        scalars, vectors = self.messages[layer](state.scalars, state.vectors, state.pairs, state.geometry)
        pairs = self.pair_updates[layer](state.vectors, state.pairs, state.geometry)
        return ViSNetState(state.scalars + scalars, state.vectors + vectors, pairs, state.geometry)

    def scalars(self, state: ViSNetState) -> Float[Tensor, "atom channel"]:
        """Scalar features of the atoms, before the last normalisation."""
        return state.scalars

    def absorb(self, state: ViSNetState, update: Float[Tensor, "atom channel"]) -> ViSNetState:
        """Add the update to the scalars; vectors and pairs stay."""
        return dataclasses.replace(state, scalars=state.scalars + update)

    def atom_energies(self, state: ViSNetState) -> Float[Tensor, "atom"]:
        """Energy of every atom from its scalars and the lengths of its vectors."""
        return self.readout(state.scalars, state.vectors)


class ExpNormalBasis(nn.Module):
    """exp(-b (exp(-5 r / cutoff) - m)^2) with m on an even grid from exp(-cutoff) to 1: finest near the nucleus.

    Source: PhysNet, arXiv:1902.08408, Eq. 7, in the form of TorchMD-NET, arXiv:2202.02541, with fixed m and b.
    """

    centers: Tensor

    def __init__(self, cutoff: float, size: int) -> None:
        super().__init__()
        start = math.exp(-cutoff)
        self.decay = 5.0 / cutoff
        self.sharpness = (2 / size * (1 - start)) ** -2
        self.register_buffer("centers", torch.linspace(start, 1, size))

    def forward(self, length: Float[Tensor, "pair"]) -> Float[Tensor, "pair radial"]:
        """Basis values at each length, Å; no envelope."""
        return torch.exp(-self.sharpness * (torch.exp(-self.decay * length)[:, None] - self.centers).square())


class Readout(nn.Module):
    """Two gated equivariant steps from scalars and vectors to one energy per atom.

    Source: PaiNN, arXiv:2102.03150, Fig. 3, as used by ViSNet. The last step makes no vectors, so it has no gate.
    """

    def __init__(self, channels: int, softness: float) -> None:
        super().__init__()
        half = channels // 2
        self.softness = softness
        self.norm = nn.LayerNorm(channels)
        self.measure = glorot(nn.Linear(channels, channels, bias=False))
        self.turn = glorot(nn.Linear(channels, half, bias=False))
        self.gate = nn.Sequential(
            glorot(nn.Linear(2 * channels, channels)), SiLU(), glorot(nn.Linear(channels, 2 * half))
        )
        self.last_measure = glorot(nn.Linear(half, half, bias=False))
        self.last = nn.Sequential(glorot(nn.Linear(2 * half, half)), SiLU(), glorot(nn.Linear(half, 1)))

    def forward(
        self, scalars: Float[Tensor, "atom channel"], vectors: Float[Tensor, "atom component channel"]
    ) -> Float[Tensor, "atom"]:
        """Energy of every atom."""
        norms = softened_norm(self.measure(vectors), self.softness)
        hidden, gate = self.gate(torch.cat([self.norm(scalars), norms], dim=-1)).chunk(2, dim=-1)
        turned = gate[:, None] * self.turn(vectors)
        norms = softened_norm(self.last_measure(turned), self.softness)
        return self.last(torch.cat([silu(hidden), norms], dim=-1)).squeeze(-1)


def _check(channels: int, options: dict[str, Any]) -> None:
    if channels % options["heads"] or channels % 2:
        raise ConfigError(
            f"visnet: channels={channels} must be even and divisible by heads={options['heads']}; "
            f"the nearest that is: {math.lcm(2, options['heads']) * max(1, channels // math.lcm(2, options['heads']))}."
        )
    if options["degree"] not in (1, 2):
        raise ConfigError(f"visnet: degree={options['degree']}; required: 1 or 2.")
    if not options["softness"] > 0:
        raise ConfigError(f"visnet: softness={options['softness']}; required: above 0, e.g. 0.1.")
