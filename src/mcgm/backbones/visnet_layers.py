"""The two halves of a ViSNet layer: messages between atoms, and the update of what each pair carries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import silu

from mcgm.segments import segment_sum


@dataclass(frozen=True, eq=False)
class PairGeometry:
    """Pairs sorted by target, an atom with itself included: that one has length and direction zero."""

    source: Int[Tensor, "pair"]
    target: Int[Tensor, "pair"]
    length: Float[Tensor, "pair"]
    envelope: Float[Tensor, "pair"]
    direction: Float[Tensor, "pair component"]


class MessageLayer(nn.Module):
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
        along_vector, along_edge = silu(self.spread(message)).chunk(2, dim=-1)
        carried = (
            vectors[geometry.source] * along_vector[:, None] + along_edge[:, None] * geometry.direction[:, :, None]
        )
        count = len(scalars)
        gathered = segment_sum(carried, geometry.target, count)
        gate, scale, shift = self.out(segment_sum(message, geometry.target, count)).chunk(3, dim=-1)
        first, second, third = self.inner(vectors).chunk(3, dim=-1)
        return (first * second).sum(1) * scale + shift, third * gate[:, None] + gathered

    def _attend(
        self, normed: Float[Tensor, "atom channel"], pairs: Float[Tensor, "pair channel"], geometry: PairGeometry
    ) -> Float[Tensor, "pair channel"]:
        key, value = (self.key_value(normed)[geometry.source] * silu(self.pair_key_value(pairs))).chunk(2, dim=-1)
        overlap = (self.query(normed)[geometry.target] * key).unflatten(-1, (self.heads, -1)).sum(-1)
        weight = silu(overlap) * geometry.envelope[:, None]
        return (value.unflatten(-1, (self.heads, -1)) * weight[..., None]).flatten(-2)


class EdgeUpdate(nn.Module):
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
        direction = geometry.direction[:, :, None]
        of_target, of_source = self.of_target(vectors), self.of_source(vectors)
        _, second, third = of_target.chunk(3, dim=-1)
        at_target, at_source = of_target[geometry.target], of_source[geometry.source]
        across, along, also = (at_target * direction).sum(1).chunk(3, dim=-1)
        share = 2 - geometry.direction.square().sum(-1, keepdim=True)
        dihedral = (at_target[..., : pairs.shape[-1]] * at_source).sum(1) - across * (at_source * direction).sum(
            1
        ) * share
        improper = (second * third).sum(1)[geometry.target] - along * also * share
        strength, other = silu(self.pair(pairs)).chunk(2, dim=-1)
        return pairs + strength * dihedral + other * improper


class KeepEdges(nn.Module):
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
