"""RANGE: master nodes that attend to all atoms of a structure, and that all atoms attend to (arXiv:2502.13797).

For atom i, master node v, heads k of width d, C master channels, and R radial functions of the place x_i of the atom:

| quantity | equation | here |
|---|---|---|
| place | x_i = abs(r_i - c) / max_j abs(r_j - c), c the mean of the r_j | `Centroid` |
| its basis | e_i = exp(-((x_i - m) (R - 1))² / 2), m = 0 … 1 in R steps | `PlaceBasis` |
| score | s_vi = a_k · LeakyReLU(Q h_v + K h_i + E e_i)_k | `Scores` |
| aggregation | h_v <- act(LN(concat_k sum_i softmax_i(s_vi) (V h_i)_k)) | `Aggregation` |
| broadcast | h_i <- O act(LN(P concat_k (sum_v t_v w_iv (V_k h_v,k) + w_ii (V h_i)_k))) | `Broadcast` |
| its weights | w_i = softmax of s_iv over all v (keys K_k h_v,k) and the atom itself (key K h_i, no e) | `Broadcast` |
| regularisation | t_0 = 1, t_v = abs(b_v)^abs(A (1 - n) + A tanh(abs(q_v)) n), A = 1 + abs(p_v) | `Strength` |
| size | n = (N - N_min) / (N_max - N_min) for a structure of N atoms | `Strength` |
| penalty | a weight times the mean of abs(b_v), added to the loss | `Relay.penalty` |

Equations as the authors' published program (MIT) has them, where the paper's text was not at hand.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from mcgm.activations import ACTIVATIONS
from mcgm.batch import Batch
from mcgm.errors import ConfigError, unknown_name
from mcgm.long_range.base import Contribution, IndexReads, LongRange, LongRangeSpec, Promise
from mcgm.long_range.mcgm.assignment import Assignment, Nodes
from mcgm.long_range.options import require_whole
from mcgm.long_range.reciprocal import about_centroid
from mcgm.long_range.updates import UPDATES
from mcgm.segments import take

WIDER = 3
"""Channels of a master node per channel of the backbone (432 for 144 in the authors' settings)."""


@dataclass(frozen=True)
class RANGE(LongRangeSpec):
    """Relaying attention nodes for global encoding, arXiv:2502.13797, Caruso, Venturin et al. (2025).

    Not smooth: the farthest atom and LeakyReLU bend the energy, so that forces jump, though the energy does not; in
    cells that are not right-angled the energy may jump too, where the nearest image of the centroid changes. Periodic
    as published: the centroid is the mean of the positions as given, so it follows an atom that is wrapped. Neither
    size-consistent nor additive over copies: places are relative to the whole. No energy of the master nodes (paper).

    Args:
        nodes: master nodes per structure, learned (the number: decided).
        node_channels: their width; `None`: three times the backbone's, to the next multiple of `heads` (paper).
        heads: of both attentions.
        radial: basis functions of an atom's place.
        activation: after aggregation and inside the broadcast's map.
        regularisation: "by_size": master nodes other than the first have learned strengths that grow with the size of
            the structure (paper); "none": all count fully.
        smallest: number of atoms from which the strengths change, that of the data.
        largest: number of atoms up to which they do.
        penalty: weight of the strengths' L1 term in the training loss, in the loss's unit (decided).
        softening: Å; distances are sqrt(d² + softening²) - softening, so that an atom at the centroid has a second
            derivative (decided; the paper has none).
        update: "replace": the broadcast takes the place of the scalars (paper); "add": it is added to them.
    """

    nodes: int = 4
    node_channels: int | None = None
    heads: int = 8
    radial: int = 10
    activation: str = "tanh"
    regularisation: Literal["by_size", "none"] = "by_size"
    smallest: int = 5
    largest: int = 100
    penalty: float = 1e-3
    softening: float = 0.1
    update: Literal["replace", "add"] = "replace"

    def __post_init__(self) -> None:
        for key, least in (("nodes", 1), ("heads", 1), ("radial", 2), ("smallest", 1)):
            require_whole(key, getattr(self, key), least)
        require_whole("largest", self.largest, self.smallest + 1)
        if self.node_channels is not None:
            require_whole("node_channels", self.node_channels, 1)
            if self.node_channels % self.heads:
                raise ConfigError(
                    f"node_channels is {self.node_channels}; required: a multiple of heads={self.heads}, as each head "
                    "has an equal part."
                )
        if not isinstance(self.penalty, int | float) or not self.penalty >= 0:
            raise ConfigError(f"penalty is {self.penalty!r}; required: a number, 0 or above.")
        if not isinstance(self.softening, int | float) or not self.softening > 0:
            raise ConfigError(f"softening is {self.softening!r}; required: a number above 0 (Å).")
        tables = {"activation": ACTIVATIONS, "regularisation": ("by_size", "none"), "update": UPDATES}
        for key, table in tables.items():
            if getattr(self, key) not in table:
                raise ConfigError(f"{key}: " + unknown_name("choice", getattr(self, key), table))

    @property
    def not_promised(self) -> dict[Promise, str]:
        """What follows from places relative to the centroid and the farthest atom, and from LeakyReLU."""
        bends = "RANGE bends the energy where another atom becomes the farthest one, and in LeakyReLU"
        places = "RANGE has the places of atoms relative to the whole structure"
        return {
            "smooth": bends,
            "derivatives": bends,
            "wrapping": "RANGE takes the centroid of the positions as given",
            "copies": places,
            "supercell": places,
            "isolation": places,
        }

    @property
    def index_reads(self) -> IndexReads:
        """The inverse cell."""
        return "cell"

    def build(self, channels: int, layers: int) -> LongRange:
        """The module for a backbone of this width and depth."""
        return Relay(channels, layers, self)

    def width(self, channels: int) -> int:
        """Channels of a master node for a backbone of this width."""
        return self.node_channels or self.heads * -(-WIDER * channels // self.heads)


@dataclass(frozen=True, eq=False)
class RelayIndex:
    """Atoms by structure; and what makes fractional coordinates along the periodic axes, if there are any."""

    members: Nodes
    inverse: Float[Tensor, "molecule 3 3"] | None


@dataclass(frozen=True, eq=False)
class RelayState:
    """What is kept between layers: index, places of the atoms, strengths, and the master nodes' features."""

    batch: Batch
    members: Nodes
    place: Float[Tensor, "atom radial"]
    strength: Float[Tensor, "molecule node"]
    masters: Float[Tensor, "molecule node channel"]


class Centroid(nn.Module):
    """Distance of every atom to the centroid of its structure, relative to the largest one: 0 to 1."""

    def __init__(self, softening: float) -> None:
        super().__init__()
        self.softening = softening

    def forward(self, batch: Batch, index: RelayIndex) -> Float[Tensor, "atom"]:
        """Softened distances; in periodic structures to the nearest image, by rounding fractional coordinates."""
        arm = about_centroid(batch)
        if index.inverse is not None:
            fraction = torch.einsum("ax,axy->ay", arm.detach(), take(index.inverse, batch.molecule))
            arm = arm - torch.einsum("ax,axy->ay", fraction.round(), take(batch.cell, batch.molecule))
        distance = torch.sqrt(arm.square().sum(-1) + self.softening**2) - self.softening
        farthest = index.members.pad(distance[:, None]).amax(dim=(1, 2))
        farthest = torch.where(farthest > 0, farthest, 1.0)  # one atom
        return distance / take(farthest, batch.molecule)


class PlaceBasis(nn.Module):
    """Gaussians at equal distances from 0 to 1, as wide as they are apart."""

    centers: Tensor

    def __init__(self, radial: int) -> None:
        super().__init__()
        self.register_buffer("centers", torch.linspace(0, 1, radial), persistent=False)

    def forward(self, place: Float[Tensor, "atom"]) -> Float[Tensor, "atom radial"]:
        """Values of all functions."""
        scaled = (place[:, None] - self.centers) * (len(self.centers) - 1)
        return torch.exp(-0.5 * scaled.square())


class Scores(nn.Module):
    """Attention scores of each head: a learned direction times LeakyReLU of query + key (GATv2, arXiv:2105.14491)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.direction = nn.Parameter(torch.empty(heads, channels // heads))
        nn.init.xavier_uniform_(self.direction)

    def forward(self, hidden: Float[Tensor, "*rest channel"]) -> Float[Tensor, "*rest head"]:
        """One score per head."""
        return (leaky_relu(hidden).unflatten(-1, (self.heads, -1)) * self.direction).sum(-1)


class Aggregation(nn.Module):
    """Master nodes from all atoms of their structure."""

    def __init__(self, channels: int, width: int, heads: int, radial: int, activation: nn.Module) -> None:
        super().__init__()
        self.scores = Scores(width, heads)
        self.query = _linear(width, width)
        self.key = _linear(channels, width)
        self.value = _linear(channels, width)
        self.place = _linear(radial, width)
        self.output = nn.Sequential(nn.LayerNorm(width), activation)

    def forward(self, atoms: Float[Tensor, "atom channel"], state: RelayState) -> Float[Tensor, "molecule node wide"]:
        """New features of the master nodes."""
        members, heads = state.members, self.scores.heads
        key = self.key(atoms) + self.place(state.place)
        scores = self.scores(take(self.query(state.masters), members.group) + key[:, None])
        padded = members.pad(scores.flatten(1)).masked_fill(~members.present[..., None], -torch.inf)
        weight = torch.softmax(padded, dim=1).unflatten(-1, (-1, heads))
        value = members.pad(self.value(atoms)).unflatten(-1, (heads, -1))
        return self.output(torch.einsum("mlnh,mlhd->mnhd", weight, value).flatten(2))


class Broadcast(nn.Module):
    """Atoms from the master nodes of their structure and from themselves."""

    def __init__(self, channels: int, width: int, heads: int, radial: int, activation: nn.Module) -> None:
        super().__init__()
        self.scores = Scores(width, heads)
        self.query = _linear(channels, width)
        self.key = _linear(channels, width)
        self.value = _linear(channels, width)
        self.place = _linear(radial, width)
        self.node_key = _per_head(width, heads)
        self.node_value = _per_head(width, heads)
        self.output = nn.Sequential(_linear(width, width), nn.LayerNorm(width), activation, _linear(width, channels))

    def forward(self, atoms: Float[Tensor, "atom channel"], state: RelayState) -> Float[Tensor, "atom channel"]:
        """New features of the atoms."""
        group, heads = state.members.group, self.scores.heads
        masters = state.masters.unflatten(-1, (heads, -1))
        key = take(torch.einsum("mnhd,hde->mnhe", masters, self.node_key).flatten(2), group)
        value = take(torch.einsum("mnhd,hde->mnhe", masters, self.node_value), group)
        query = self.query(atoms)
        scores = self.scores(key + (query + self.place(state.place))[:, None])
        own_score = self.scores(query + self.key(atoms))
        weight = torch.softmax(torch.cat([scores, own_score[:, None]], dim=1), dim=1)
        relayed = weight[:, :-1] * take(state.strength, group)[..., None]
        own = weight[:, -1, :, None] * self.value(atoms).unflatten(-1, (heads, -1))
        return self.output((torch.einsum("anh,anhd->ahd", relayed, value) + own).flatten(1))


class Strength(nn.Module):
    """How much each master node counts in a structure of so many atoms: the first fully, the others as learned."""

    def __init__(self, nodes: int, smallest: int, largest: int) -> None:
        super().__init__()
        self.base = nn.Parameter(0.5 + 0.1 * torch.randn(nodes - 1))
        self.steepness = nn.Parameter(torch.full((nodes - 1,), 4.0))
        self.ratio = nn.Parameter(torch.full((nodes - 1,), 2.0))
        self.smallest, self.largest = smallest, largest

    def forward(self, members: Nodes) -> Float[Tensor, "molecule node"]:
        """Between 0 and 1 for a base below 1; more in larger structures."""
        size = (members.count.to(self.base.dtype) - self.smallest) / (self.largest - self.smallest)
        steepness = 1 + self.steepness.abs()
        exponent = steepness * (1 - size[:, None] * (1 - torch.tanh(self.ratio.abs())))
        strength = torch.pow(self.base.abs(), exponent.abs())
        return torch.cat([strength.new_ones(size.shape[0], 1), strength], dim=1)

    def penalty(self) -> Float[Tensor, ""] | None:
        """Mean size of the bases; `None` where there are none."""
        return self.base.abs().mean() if len(self.base) else None


class Equal(nn.Module):
    """Every master node counts fully."""

    ones: Tensor

    def __init__(self, nodes: int, smallest: int, largest: int) -> None:
        super().__init__()
        self.register_buffer("ones", torch.ones(nodes), persistent=False)

    def forward(self, members: Nodes) -> Float[Tensor, "molecule node"]:
        """Ones."""
        return self.ones.expand(members.groups, -1)

    def penalty(self) -> None:
        """None."""


REGULARISATIONS: dict[str, type[Strength] | type[Equal]] = {"by_size": Strength, "none": Equal}
"""How much master nodes count, by the name that specifications use."""


class Relay(LongRange):
    """The module behind `RANGE`."""

    def __init__(self, channels: int, layers: int, options: RANGE) -> None:
        super().__init__()
        width, activation = options.width(channels), ACTIVATIONS[options.activation]
        self.update = UPDATES[options.update]
        self.weight = float(options.penalty)
        self.centroid = Centroid(options.softening)
        self.basis = PlaceBasis(options.radial)
        self.masters = nn.Parameter(torch.randn(options.nodes, width))
        strength = REGULARISATIONS[options.regularisation]
        self.strength = strength(options.nodes, options.smallest, options.largest)
        sizes = (channels, width, options.heads, options.radial)
        self.aggregations = nn.ModuleList(Aggregation(*sizes, activation()) for _ in range(layers))
        self.broadcasts = nn.ModuleList(Broadcast(*sizes, activation()) for _ in range(layers))

    def index(self, batch: Batch) -> RelayIndex:
        """Atoms by structure, and inverse cells along periodic axes (zero along open ones)."""
        cell = batch.cell.detach() * batch.pbc[:, :, None]
        inverse = torch.linalg.pinv(cell) if batch.periodic else None
        return RelayIndex(Nodes.grouped(batch.molecule, batch.n_molecules), inverse)

    def begin(
        self,
        batch: Batch,
        index: RelayIndex,
        *,
        clusters: tuple[tuple[Assignment, ...], ...] | None,
        generator: torch.Generator | None,
    ) -> RelayState:
        """Places of the atoms, and master nodes that are the same in every structure."""
        members = index.members
        place = self.basis(self.centroid(batch, index))
        masters = self.masters.expand(batch.n_molecules, -1, -1)
        return RelayState(batch, members, place, self.strength(members), masters)

    def exchange(
        self, layer: int, scalars: Float[Tensor, "atom channel"], state: RelayState
    ) -> tuple[Float[Tensor, "atom channel"], RelayState]:
        """Aggregate, then broadcast."""
        state = replace(state, masters=self.aggregations[layer](scalars, state))
        return self.update(self.broadcasts[layer](scalars, state), scalars), state

    def contribution(self, scalars: Float[Tensor, "atom channel"], state: RelayState) -> Contribution:
        """No energy: the paper reads energies from the atoms alone."""
        return Contribution.none(state.batch)

    def penalty(self) -> Float[Tensor, ""] | None:
        """The strengths' L1 term, times its weight."""
        size = self.strength.penalty()
        return None if size is None or not self.weight else self.weight * size


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """Without bias, of uniform Glorot weights."""
    linear = nn.Linear(inputs, outputs, bias=False)
    nn.init.xavier_uniform_(linear.weight)
    return linear


def _per_head(width: int, heads: int) -> nn.Parameter:
    """A square matrix for each head, of uniform Glorot weights."""
    part = width // heads
    bound = (3 / part) ** 0.5
    return nn.Parameter(torch.empty(heads, part, part).uniform_(-bound, bound))
