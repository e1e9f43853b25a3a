"""How surroundings are turned against each other, however far apart: vectors and tensors in the cluster exchange.

Pooled scalars do not know how one end of a molecule is turned against the other. Here every atom makes a vector and a
second-rank tensor of its near neighbours, clusters hold their means, and atoms read the products of their own with
themselves, which depend on the angles between neighbours, and with those of their cluster: invariant scalars that
depend on angles between surroundings at any distance.

| quantity | equation | here |
|---|---|---|
| harmonics | Y_1m(u), Y_2m(u) of the direction u, products over m sum to P_l(u·v) | `harmonics` |
| surroundings | T_i,lm,c = sum_j (R e(r_ij))_c (S h_j)_c Y_lm(u_ij) over neighbours within reach | `surroundings` |
| cluster | M_k,lm,c = sum_i w_ic T_i,lm,c / sum_i w_ic, w_ic = exp(3 tanh((A h_i)_c / 3)) | `attended_mean` |
| products | q_i,lc = (sum_m T_i,lm,c T_i,lm,c, sum_m T_i,lm,c M_k(i),lm,c) | `products` |
| update | O silu(LN(B h_i + Q q_i)) | `OrientationLayer` |

Radial functions e vanish at the reach, with three derivatives. The means are order parameters: of first degree as in a
polar, of second degree as in a nematic liquid (de Gennes and Prost, The Physics of Liquid Crystals). The block is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mcgm.activations import silu
from mcgm.batch import Batch
from mcgm.convolution import messages
from mcgm.errors import ConfigError
from mcgm.harmonics import second_degree
from mcgm.long_range.base import Contribution, IndexReads, LongRange, LongRangeSpec
from mcgm.long_range.mcgm.aggregation import attended_mean
from mcgm.long_range.mcgm.assignment import Assignment
from mcgm.long_range.mcgm.clusterers import ByAtom, ByElement, Clusterer, Everything
from mcgm.long_range.mcgm.fading import FadingMolecules
from mcgm.long_range.mcgm.hierarchy import small
from mcgm.long_range.mcgm.scope import Guests, Scope, WholeSystem
from mcgm.long_range.options import require_choice, require_positive, require_whole
from mcgm.neighbors import Edges, Neighbors, edge_vectors
from mcgm.radial import BesselBasis, PolynomialEnvelope
from mcgm.segments import take
from mcgm.slots import Slots

CLUSTERS: dict[str, Clusterer] = {"element": ByElement(), "system": Everything(), "atom": ByAtom()}
"""Who shares vectors and tensors, by the name that specifications use."""

SCOPES: dict[str, type[Scope]] = {"system": WholeSystem, "molecule": FadingMolecules}

SPREAD = 1.5
"""Standard deviation of fresh radial weights: products are then of order one."""


@dataclass(frozen=True)
class Orientations(LongRangeSpec):
    """Exchange of vectors and second-rank tensors within clusters. Ours; see the module.

    Smooth, invariant, size-consistent for copies, periodic; exactly additive over molecules with scope "molecule".
    Gives no energies of its own; meant beside `MCGM` (`long_range="mcgm_oriented"`).

    Args:
        tensors: vectors and tensors for each atom and cluster, as channels.
        reach: Å, how far an atom looks for its own surroundings; at most the backbone's cutoff.
        radial: radial functions of those neighbours.
        hidden: width of the layer in which products meet the atom's own scalars.
        clusters: "element": an exchange among the atoms of each element; "system": among all; "atom": a control, every
            atom a cluster by itself, so that all layers are there and nothing is exchanged.
        scope: "system": over the whole structure; "molecule": within covalently connected molecules, fading as bonds
            break.
    """

    tensors: int = 16
    reach: float = 3.0
    radial: int = 8
    hidden: int = 64
    clusters: Literal["element", "system", "atom"] = "element"
    scope: Literal["system", "molecule"] = "system"

    def __post_init__(self) -> None:
        require_whole("tensors", self.tensors, 1)
        require_whole("radial", self.radial, 1)
        require_whole("hidden", self.hidden, 1)
        require_positive("reach", self.reach, "Å")
        require_choice("clusters", self.clusters, CLUSTERS)
        require_choice("scope", self.scope, SCOPES)

    @property
    def is_separable(self) -> bool:
        """Where molecules share nothing (scope "molecule"), or atoms do not."""
        return self.scope == "molecule" or self.clusters == "atom"

    @property
    def index_reads(self) -> IndexReads:
        """With scope "molecule" who shares with whom follows from positions."""
        return "positions" if self.scope == "molecule" else "neighbors"

    @property
    def index_reach(self) -> float:
        """The reach."""
        return self.reach

    def build(self, channels: int, layers: int) -> LongRange:
        """The module for a backbone of this width and depth."""
        return OrientationExchange(channels, layers, self)


@dataclass(frozen=True, eq=False)
class OrientationIndex:
    """Rows of the batch's neighbours that are near, these neighbours, their slots, and who shares: guests stand after
    all atoms."""

    row: Int[Tensor, "edge"]
    near: Neighbors
    slots: Slots
    assignment: Assignment
    guests: Guests | None


@dataclass(frozen=True, eq=False)
class OrientationState:
    """What every layer reads: near neighbours, their harmonics and radial functions, and who shares with whom.

    `pooled` is the assignment of atoms and guests as present as they are, `home` that of the atoms alone.
    """

    batch: Batch
    near: Neighbors
    slots: Slots
    harmonics: Float[Tensor, "atom harmonic slot"]
    radial: Float[Tensor, "edge radial"]
    guests: Guests | None
    pooled: Assignment
    home: Assignment


def harmonics(direction: Float[Tensor, "edge 3"]) -> Float[Tensor, "edge 8"]:
    """Real harmonics of degree 1 (three) and 2 (five): products over one degree sum to its Legendre polynomial."""
    return torch.cat([direction, second_degree(direction)], dim=-1)


def products(
    own: Float[Tensor, "atom harmonic tensor"], other: Float[Tensor, "atom harmonic tensor"]
) -> Float[Tensor, "atom product"]:
    """Scalar products degree by degree."""
    vectors, tensors = (own * other).split((3, 5), dim=1)
    return torch.cat([vectors.sum(1), tensors.sum(1)], dim=-1)


class OrientationLayer(nn.Module):
    """One layer's exchange."""

    def __init__(self, channels: int, tensors: int, radial: int, hidden: int) -> None:
        super().__init__()
        self.source = nn.Linear(channels, tensors, bias=False)
        self.filter = nn.Linear(radial, tensors, bias=False)
        self.score = nn.Linear(channels, tensors, bias=False)
        self.atom = nn.Linear(channels, hidden)
        self.product = nn.Linear(4 * tensors, hidden, bias=False)
        self.norm = nn.LayerNorm(hidden)
        self.output = small(nn.Linear(hidden, channels))
        nn.init.normal_(self.source.weight, std=channels**-0.5)
        nn.init.normal_(self.filter.weight, std=SPREAD)
        nn.init.zeros_(self.score.weight)

    def forward(self, scalars: Float[Tensor, "atom channel"], state: OrientationState) -> Float[Tensor, "atom channel"]:
        """Update of the atoms' scalars."""
        source, score, atom = self.read(scalars)
        own = self.surroundings(source, state)
        shared = own
        if state.guests is not None:
            shared = torch.cat([shared, take(shared, state.guests.atom)])
            score = torch.cat([score, take(score, state.guests.atom)])
        clusters = attended_mean(shared, score, state.pooled)
        received = state.home.broadcast(clusters.flatten(1)).view_as(own)
        invariant = torch.cat([products(own, own), products(own, received)], dim=-1)
        return self.output(silu(self.norm(atom + self.product(invariant))))

    def read(
        self, scalars: Float[Tensor, "atom channel"]
    ) -> tuple[Float[Tensor, "atom tensor"], Float[Tensor, "atom tensor"], Float[Tensor, "atom hidden"]]:
        """S h, A h and B h in one product: the scalars, the largest array here, are read once each way."""
        maps = (self.source.weight, self.score.weight, self.atom.weight)
        together = nn.functional.linear(scalars, torch.cat(maps))
        source, score, atom = together.split([len(weight) for weight in maps], dim=1)
        return source, score, atom + self.atom.bias

    def surroundings(
        self, source: Float[Tensor, "atom tensor"], state: OrientationState
    ) -> Float[Tensor, "atom harmonic tensor"]:
        """Vectors and tensors of every atom's near neighbours."""
        message = messages(source, self.filter(state.radial), state.near.source)
        return torch.bmm(state.harmonics, state.slots.spread(message))


class OrientationExchange(LongRange):
    """The module behind `Orientations`."""

    def __init__(self, channels: int, layers: int, options: Orientations) -> None:
        super().__init__()
        self.reach = float(options.reach)
        self.rule = CLUSTERS[options.clusters]
        self.scope = SCOPES[options.scope]()
        self.basis = BesselBasis(self.reach, options.radial)
        self.envelope = PolynomialEnvelope(self.reach)
        sizes = (channels, options.tensors, options.radial, options.hidden)
        self.layers = nn.ModuleList(OrientationLayer(*sizes) for _ in range(layers))

    def index(self, batch: Batch) -> OrientationIndex:
        """Near neighbours, and groups.

        Raises:
            ConfigError: the batch has no neighbours so far away.
        """
        if batch.cutoff < self.reach:
            raise ConfigError(
                f"orientations reach {self.reach:g} Å, neighbours are known within {batch.cutoff:g} Å; required: a "
                "cutoff at least as long (model.cutoff; attach(..., cutoff=5.0)), or a shorter reach "
                "(long_range_options)."
            )
        found = self.scope(batch)
        nodes = found.nodes(batch.numbers)
        assignment = self.rule.known(nodes, self.rule.layout(nodes), batch.positions.dtype)
        assert assignment is not None, "rules of `CLUSTERS` look at the composition alone."
        with torch.no_grad():
            row = torch.nonzero(batch.edges.length < self.reach + batch.skin).flatten()
        all_of_them, image = batch.neighbors, batch.neighbors.image[row]
        crossing = torch.nonzero(image.any(dim=1)).flatten()
        near = Neighbors(all_of_them.source[row], all_of_them.target[row], image, crossing)
        slots = Slots.from_targets(near.target, batch.n_atoms)
        return OrientationIndex(row, near, slots, assignment, found.guests)

    def begin(
        self,
        batch: Batch,
        index: OrientationIndex,
        *,
        clusters: tuple[tuple[Assignment, ...], ...] | None,
        generator: torch.Generator | None,
    ) -> OrientationState:
        """Harmonics and radial functions of the near neighbours."""
        edges = self._edges(batch, index)
        radial = self.basis(edges.length) * self.envelope(edges.length)[:, None]
        angular = index.slots.spread(harmonics(edges.vector / edges.length[:, None])).transpose(1, 2)
        pooled = home = index.assignment
        if index.guests is not None:
            present = index.guests.presence(batch).weight
            pooled = pooled.faded(torch.cat([present.new_ones(batch.n_atoms), present]))
            home = home.first(batch.n_atoms)
        return OrientationState(batch, index.near, index.slots, angular, radial, index.guests, pooled, home)

    @staticmethod
    def _edges(batch: Batch, index: OrientationIndex) -> Edges:
        rounding = None if batch.rounding is None else take(batch.rounding.vectors, index.row)
        return edge_vectors(index.near, batch.positions, batch.cell, batch.molecule, rounding)

    def exchange(
        self, layer: int, scalars: Float[Tensor, "atom channel"], state: OrientationState
    ) -> tuple[Float[Tensor, "atom channel"], OrientationState]:
        """Products of the atoms' own vectors and tensors with those of their cluster."""
        return self.layers[layer](scalars, state), state

    def contribution(self, scalars: Float[Tensor, "atom channel"], state: Any) -> Contribution:
        """No energy of its own."""
        return Contribution.none(state.batch)
