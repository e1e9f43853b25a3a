"""The two halves of a ViSNet layer: messages between atoms, and the update of what each pair carries."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear

from mcgm.activations import silu
from mcgm.backbones.linear_parts import linear_parts
from mcgm.convolution import convolve, correlate
from mcgm.segments import segment_sum, take
from mcgm.slots import Slots


@dataclass(frozen=True, eq=False)
class PairGeometry:
    """Pairs sorted by target, an atom with itself included: that one has length and direction zero.

    `across` is what is left of d . d in a . b - (a . d)(b . d)(2 - d . d): each degree of harmonics adds 1 to d . d.
    """

    source: Int[Tensor, "pair"]
    target: Int[Tensor, "pair"]
    reverse: Int[Tensor, "pair"]
    slots: Slots
    length: Float[Tensor, "pair"]
    envelope: Float[Tensor, "pair"]
    direction: Float[Tensor, "atom slot component"]
    across: float

    def along(self, vectors: Float[Tensor, "atom component channel"]) -> Float[Tensor, "pair channel"]:
        """Vectors of the targets along each pair, as matrix products: no vector is built on a pair."""
        return self.slots.collect(torch.bmm(self.direction, vectors))

    def from_pairs(self, values: Float[Tensor, "pair channel"]) -> Float[Tensor, "atom component channel"]:
        """Σ direction x value over the pairs of each target."""
        return torch.bmm(self.direction.transpose(1, 2), self.slots.spread(values))


class Messages(nn.Module, ABC):
    """Attention without softmax from the sources of a pair to its target, for scalars and vectors.

    Source: ViSNet, doi:10.1038/s41467-023-43720-2, section "Vector-scalar interactive message passing" (Methods). Every
    message carries the envelope: `spread` has no bias, so that vector messages vanish with the scalar ones.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.query = glorot(nn.Linear(channels, channels))
        self.key_value = glorot(nn.Linear(channels, 2 * channels), blocks=2)
        self.pair_key_value = glorot(nn.Linear(channels, 2 * channels), blocks=2)
        self.spread = glorot(nn.Linear(channels, 2 * channels, bias=False))
        self.inner = glorot(nn.Linear(channels, 3 * channels, bias=False))
        self.out = glorot(nn.Linear(channels, 3 * channels))

    def forward(
        self,
        scalars: Float[Tensor, "atom channel"],
        vectors: Float[Tensor, "atom component channel"],
        pairs: Float[Tensor, "pair channel"],
        geometry: PairGeometry,
    ) -> tuple[Float[Tensor, "atom channel"], Float[Tensor, "atom component channel"]]:
        """What to add to scalars and vectors."""
        message = self._attend(self.norm(scalars), pairs, geometry)
        gathered = self.gathered(vectors, message, geometry)
        gate, scale, shift = self.out(segment_sum(message, geometry.target, scalars.shape[0])).chunk(3, dim=-1)
        first, second, third = linear_parts(self.inner, vectors, 3)
        return (first * second).sum(1) * scale + shift, third * gate[:, None] + gathered

    @abstractmethod
    def gathered(
        self,
        vectors: Float[Tensor, "atom component channel"],
        message: Float[Tensor, "pair channel"],
        geometry: PairGeometry,
    ) -> Float[Tensor, "atom component channel"]:
        """Vectors that the messages bring."""

    def _attend(
        self, normed: Float[Tensor, "atom channel"], pairs: Float[Tensor, "pair channel"], geometry: PairGeometry
    ) -> Float[Tensor, "pair channel"]:
        sent, weight = linear_parts(self.key_value, normed, 2), linear_parts(self.pair_key_value, pairs, 2)
        key, value = (take(a, geometry.source) * silu(b) for a, b in zip(sent, weight, strict=True))
        overlap = (take(self.query(normed), geometry.target) * key).unflatten(-1, (self.heads, -1)).sum(-1)
        attention = silu(overlap) * geometry.envelope[:, None]
        return (value.unflatten(-1, (self.heads, -1)) * attention[..., None]).flatten(-2)


class FirstMessages(Messages):
    """While all vectors are zero: none are gathered."""

    def gathered(
        self,
        vectors: Float[Tensor, "atom component channel"],
        message: Float[Tensor, "pair channel"],
        geometry: PairGeometry,
    ) -> Float[Tensor, "atom component channel"]:
        """New vectors along the pairs."""
        _, along_pair = self.spread.weight.chunk(2)
        return geometry.from_pairs(silu(linear(message, along_pair)))


class LaterMessages(Messages):
    """With the vectors of the sources."""

    def gathered(
        self,
        vectors: Float[Tensor, "atom component channel"],
        message: Float[Tensor, "pair channel"],
        geometry: PairGeometry,
    ) -> Float[Tensor, "atom component channel"]:
        """The sources' vectors, scaled, and new ones along the pairs."""
        along_vector, along_pair = (silu(part) for part in linear_parts(self.spread, message, 2))
        carried = convolve(vectors, along_vector, geometry.source, geometry.target)
        return carried + geometry.from_pairs(along_pair)


class PairUpdate(nn.Module):
    """Updates the features of a pair with angles between the vectors of its ends, seen along the pair.

    With P = the part of a vector across the direction d of the pair, P(W v_target) . P(V v_source) is the dihedral
    term and P(T v_target) . P(U v_target) the improper one. P a . P b is expanded as
    a . b - (a . d)(b . d)(2 - d . d), so that no vector is built on a pair.

    Source: ViSNet, doi:10.1038/s41467-023-43720-2, Eqs. for vector rejection (Methods).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pair = glorot(nn.Linear(channels, 2 * channels))
        self.of_target = glorot(nn.Linear(channels, 3 * channels, bias=False), blocks=3)
        self.of_source = glorot(nn.Linear(channels, channels, bias=False))

    def forward(
        self,
        vectors: Float[Tensor, "atom component channel"],
        pairs: Float[Tensor, "pair channel"],
        geometry: PairGeometry,
    ) -> Float[Tensor, "pair channel"]:
        """The updated features of the pairs."""
        first, second, third = linear_parts(self.of_target, vectors, 3)
        of_source = self.of_source(vectors)
        # a source is the target of the reverse pair, whose direction has the other sign
        turned = -take(geometry.along(of_source), geometry.reverse)
        dihedral = correlate(first, of_source, geometry.source, geometry.target)
        dihedral = dihedral - geometry.across * geometry.along(first) * turned
        improper = take((second * third).sum(1), geometry.target)
        improper = improper - geometry.across * geometry.along(second) * geometry.along(third)
        strength, other = (silu(part) for part in linear_parts(self.pair, pairs, 2))
        return pairs + strength * dihedral + other * improper


class FirstPairUpdate(PairUpdate):
    """While all vectors are zero the update is zero: its weights, counted by the publication, can learn nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.requires_grad_(False)

    def forward(
        self,
        vectors: Float[Tensor, "atom component channel"],
        pairs: Float[Tensor, "pair channel"],
        geometry: PairGeometry,
    ) -> Float[Tensor, "pair channel"]:
        """The same features."""
        return pairs


class KeepPairs(nn.Module):
    """Leaves the features of the pairs alone: after the last layer nothing reads them."""

    def forward(
        self,
        vectors: Float[Tensor, "atom component channel"],
        pairs: Float[Tensor, "pair channel"],
        geometry: PairGeometry,
    ) -> Float[Tensor, "pair channel"]:
        """The same features."""
        return pairs


def softened_norm(vectors: Float[Tensor, "atom component channel"], softness: float) -> Float[Tensor, "atom channel"]:
    """sqrt(|v|^2 + s^2) - s: zero and smooth at v = 0, |v| - s far from it.

    The bare norm has no derivative at zero, where the vectors of every atom on a centre of inversion are.
    """
    return torch.sqrt(vectors.square().sum(1) + softness**2) - softness


def glorot(linear: nn.Linear, blocks: int = 1) -> nn.Linear:
    """Uniform Glorot weights, each block of outputs as if it were a layer of its own; bias zero."""
    for block in linear.weight.chunk(blocks, dim=0):
        nn.init.xavier_uniform_(block)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
    return linear
