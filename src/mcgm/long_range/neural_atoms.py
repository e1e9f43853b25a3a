"""Neural Atoms: a few learned queries gather a structure's atoms, talk, and are handed back (arXiv:2311.01276).

For N atoms h_i of C channels, K neural atoms with learned seeds, and heads a:

| step | equation | here |
|---|---|---|
| before | h <- residual(h), residual(x) = (x + f(W_2 f(W_1 x))) / sqrt(2), f = SiLU / 0.6 | `Residual` |
| queries | Q = W_q seeds + b, keys K = W_k h + b, values V = W_v h + b | `Attention` |
| allocation | S_a = softmax over neural atoms of Q_a K_a^T / sqrt(C) | `Layer.allocation` |
| projecting | Z = M(concat_a (Q_a + S_a V_a)) | `Layer.project` |
| M | x <- LN(x), then LN(x + g(W_o x + b)), g = ReLU (Set Transformer, arXiv:1810.00825) | `Attention.gathered` |
| exchanging | the same with Z in the place of seeds and of h | `Layer.talk` |
| back | h_i <- mean over heads of sum_k S_a,ki Z_k | `Layer.forward` |
| after | f(W h_i), then some residuals | `Layer.forward` |
| number | K = ceil(p n) for n atoms on average in the data, and so on layer by layer | `NeuralAtoms.counts` |

Equations as the authors' published program has them, where the paper's text was not at hand. There padded places of a
batch take part in the sums; here they do not, so that batch mates do not matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mcgm.activations import ACTIVATIONS
from mcgm.batch import Batch
from mcgm.errors import ConfigError, unknown_name
from mcgm.long_range.base import Contribution, LongRange, LongRangeSpec, Promise
from mcgm.long_range.mcgm.assignment import Assignment, Nodes

ORDERS = ("fixed", "descending", "ascending")

FEED_FORWARD: dict[str, type[nn.Module]] = {"relu": nn.ReLU} | ACTIVATIONS
"""Activations inside the attention blocks by name."""

GAIN = 1 / 0.6
"""Keeps the variance of what SiLU is applied to (GemNet, arXiv:2106.08903)."""


@dataclass(frozen=True)
class NeuralAtoms(LongRangeSpec):
    """Neural Atoms, arXiv:2311.01276, Li, Zhou, Yao, Rong, Zhang and Han (2024).

    Holds no positions, so it takes periodic structures as it takes open ones. Every atom shares itself out among the
    neural atoms, which sum over atoms: neither size-consistent nor additive over copies. Smooth but for the published
    ReLU: `feed_forward="silu"` is smooth. No energy of the neural atoms (paper). Here the atoms are read after the
    local messages of a layer, not before them (decided: the slot of every block).

    Args:
        expected_atoms: mean number of atoms of the data's structures; 100 in the authors' settings for OE62.
        proportion: neural atoms per atom; 0.1 there.
        order: "fixed": as many in every layer; "descending": each layer has the proportion of the layer before;
            "ascending": the same numbers, fewest first.
        heads: of the attention to the atoms.
        exchange_heads: of the attention among neural atoms.
        residuals: blocks after the way back.
        activation: of the dense layers.
        feed_forward: inside the attention blocks; "relu" as published.
    """

    expected_atoms: int = 100
    proportion: float = 0.1
    order: Literal["fixed", "descending", "ascending"] = "fixed"
    heads: int = 1
    exchange_heads: int = 2
    residuals: int = 3
    activation: str = "silu"
    feed_forward: str = "relu"

    def __post_init__(self) -> None:
        for key, least in (("expected_atoms", 1), ("heads", 1), ("exchange_heads", 1), ("residuals", 0)):
            value = getattr(self, key)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"{key} is {value!r}; required: a whole number, at least {least}.")
        if not isinstance(self.proportion, int | float) or not 0 < self.proportion <= 1:
            raise ConfigError(f"proportion is {self.proportion!r}; required: a number above 0, at most 1.")
        for key, table in (("order", ORDERS), ("activation", ACTIVATIONS), ("feed_forward", FEED_FORWARD)):
            if getattr(self, key) not in table:
                raise ConfigError(f"{key}: " + unknown_name("choice", getattr(self, key), table))

    @property
    def not_promised(self) -> dict[Promise, str]:
        """Sums over copies, because sums are normalised; and what ReLU bends."""
        sums = "Neural Atoms normalise sums over all atoms of a structure"
        left_out: dict[Promise, str] = {"copies": sums, "supercell": sums}
        if self.feed_forward == "relu":
            bends = "the ReLU of Neural Atoms bends the energy (feed_forward='silu' does not)"
            left_out |= {"smooth": bends, "derivatives": bends}
        return left_out

    @property
    def reads_positions(self) -> bool:
        """No."""
        return False

    def counts(self, layers: int) -> tuple[int, ...]:
        """Neural atoms of every layer, at least one."""
        found = [self._part(self.expected_atoms)]
        for _ in range(layers - 1):
            found.append(found[-1] if self.order == "fixed" else self._part(found[-1]))
        return tuple(found[::-1] if self.order == "ascending" else found)

    def _part(self, atoms: int) -> int:
        # 0.1 of 30 are three, whatever the nearest binary number says
        return max(1, math.ceil(self.proportion * atoms * (1 - 1e-12)))

    def build(self, channels: int, layers: int) -> LongRange:
        """The module for a backbone of this width and depth.

        Raises:
            ConfigError: the width is no multiple of both numbers of heads.
        """
        for key in ("heads", "exchange_heads"):
            if channels % getattr(self, key):
                raise ConfigError(
                    f"{key} is {getattr(self, key)}; required: a number that the backbone's {channels} channels can be "
                    "divided by."
                )
        return NeuralAtomsBlock(channels, layers, self)


class Residual(nn.Module):
    """Two dense layers around which the input passes, both halves of the variance."""

    def __init__(self, channels: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.first, self.second = (_dense(channels) for _ in range(2))
        self.activation = activation()

    def forward(self, features: Float[Tensor, "*rest channel"]) -> Float[Tensor, "*rest channel"]:
        """Features of the same width."""
        hidden = GAIN * self.activation(self.first(features))
        return (features + GAIN * self.activation(self.second(hidden))) / math.sqrt(2)


class Attention(nn.Module):
    """Maps of an attention whose weights sum to one over the queries: each member shares itself out among these."""

    def __init__(self, channels: int, heads: int, feed_forward: type[nn.Module]) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(channels, channels) for _ in range(4))
        self.norm, self.last_norm = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.activation = feed_forward()
        self.scale = channels**-0.5

    def split(self, features: Float[Tensor, "*rest channel"]) -> Float[Tensor, "*rest head part"]:
        """A part of the channels for each head."""
        return features.unflatten(-1, (self.heads, -1))

    def gathered(
        self, query: Float[Tensor, "*molecule k channel"], sums: Float[Tensor, "molecule k head part"]
    ) -> Float[Tensor, "molecule k channel"]:
        """Queries with what they gathered, through the feed-forward layer."""
        features = self.norm(query + sums.flatten(-2))
        return self.last_norm(features + self.activation(self.output(features)))


class Layer(nn.Module):
    """Projecting, exchanging and the way back of one layer."""

    def __init__(self, channels: int, count: int, options: NeuralAtoms) -> None:
        super().__init__()
        activation, feed_forward = ACTIVATIONS[options.activation], FEED_FORWARD[options.feed_forward]
        self.seeds = nn.Parameter(torch.empty(count, channels))
        nn.init.xavier_uniform_(self.seeds)
        self.before = Residual(channels, activation)
        self.projecting = Attention(channels, options.heads, feed_forward)
        self.exchanging = Attention(channels, options.exchange_heads, feed_forward)
        self.dense = _dense(channels)
        self.activation = activation()
        self.residuals = nn.Sequential(*(Residual(channels, activation) for _ in range(options.residuals)))

    def allocation(self, atoms: Float[Tensor, "atom channel"]) -> Float[Tensor, "atom head k"]:
        """How each atom shares itself out among the neural atoms."""
        attention = self.projecting
        query, key = attention.split(attention.query(self.seeds)), attention.split(attention.key(atoms))
        return torch.softmax(attention.scale * torch.einsum("ahd,khd->ahk", key, query), dim=-1)

    def project(
        self,
        atoms: Float[Tensor, "atom channel"],
        share: Float[Tensor, "molecule largest head k"],
        members: Nodes,
    ) -> Float[Tensor, "molecule k channel"]:
        """Neural atoms from the atoms of their structure."""
        attention = self.projecting
        value = attention.split(members.pad(attention.value(atoms)))
        sums = torch.einsum("mlhk,mlhd->mkhd", share, value)
        return attention.gathered(attention.query(self.seeds), sums)

    def talk(self, nodes: Float[Tensor, "molecule k channel"]) -> Float[Tensor, "molecule k channel"]:
        """Neural atoms from those of their structure."""
        attention = self.exchanging
        query = attention.query(nodes)
        pairs = torch.einsum("mqhd,mkhd->mhqk", attention.split(query), attention.split(attention.key(nodes)))
        weight = torch.softmax(attention.scale * pairs, dim=2)
        sums = torch.einsum("mhqk,mkhd->mqhd", weight, attention.split(attention.value(nodes)))
        return attention.gathered(query, sums)

    def forward(self, scalars: Float[Tensor, "atom channel"], members: Nodes) -> Float[Tensor, "atom channel"]:
        """Update of the atoms."""
        atoms = self.before(scalars)
        share = self.allocation(atoms)
        padded = members.pad(share.flatten(1)).unflatten(-1, share.shape[1:])
        nodes = self.talk(self.project(atoms, padded, members))
        returned = members.unpad(torch.einsum("mlk,mkc->mlc", padded.mean(2), nodes))
        return self.residuals(GAIN * self.activation(self.dense(returned)))


class NeuralAtomsBlock(LongRange):
    """The module behind `NeuralAtoms`; its state is the batch."""

    def __init__(self, channels: int, layers: int, options: NeuralAtoms) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(channels, count, options) for count in options.counts(layers))

    def index(self, batch: Batch) -> Nodes:
        """Atoms by structure."""
        return Nodes.grouped(batch.molecule, batch.n_molecules)

    def begin(
        self,
        batch: Batch,
        index: Nodes,
        *,
        clusters: tuple[tuple[Assignment, ...], ...] | None,
        generator: torch.Generator | None,
    ) -> Batch:
        """The batch, with the index at hand."""
        return batch.replace(index=index)

    def exchange(
        self, layer: int, scalars: Float[Tensor, "atom channel"], state: Batch
    ) -> tuple[Float[Tensor, "atom channel"], Batch]:
        """See `Layer`."""
        return self.layers[layer](scalars, state.index), state

    def contribution(self, scalars: Float[Tensor, "atom channel"], state: Batch) -> Contribution:
        """No energy: the paper reads energies from the atoms alone."""
        return Contribution.none(state)


def _dense(channels: int) -> nn.Linear:
    """Square, without bias, orthogonal."""
    linear = nn.Linear(channels, channels, bias=False)
    nn.init.orthogonal_(linear.weight)
    return linear
