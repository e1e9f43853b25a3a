"""Embedding, interaction and output blocks of DimeNet++."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear

from mcgm.activations import SiLU, silu
from mcgm.backbones.atom_pairs import AtomPairs, times_pair, turned_round
from mcgm.backbones.directional import EdgeTable, convolve_pairs
from mcgm.mixed import at_least_single, exact
from mcgm.segments import segment_sum, take
from mcgm.structure import HEAVIEST


@dataclass(frozen=True, eq=False)
class Geometry:
    """What the blocks read of the positions: the same for every layer."""

    radial: Float[Tensor, "pair radial"]
    spherical: Float[Tensor, "degree pair radial"]
    harmonics: Float[Tensor, "atom slot harmonic"]
    table: EdgeTable


def dense(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """Linear layer with orthogonal weights of variance 2 / (inputs + outputs) and zero bias, as in the papers' code."""
    linear = nn.Linear(inputs, outputs, bias=bias)
    with torch.no_grad():
        nn.init.orthogonal_(linear.weight)
        if linear.weight.numel() > 1:
            linear.weight.mul_(torch.sqrt(2 / ((inputs + outputs) * linear.weight.var())))
        if bias:
            linear.bias.zero_()
    return linear


class Residual(nn.Module):
    """Two dense layers and a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = dense(channels, channels)
        self.second = dense(channels, channels)

    def forward(self, x: Float[Tensor, "edge message"]) -> Float[Tensor, "edge message"]:
        """Refined features."""
        return x + silu(self.second(silu(self.first(x))))


class EmbeddingBlock(nn.Module):
    """First messages, from the elements of both ends and the distance (arXiv:2003.03123, Eq. 9)."""

    def __init__(self, channels: int, radial: int) -> None:
        super().__init__()
        self.elements = nn.Embedding(HEAVIEST + 1, channels)
        nn.init.uniform_(self.elements.weight, -math.sqrt(3), math.sqrt(3))
        self.radial = dense(radial, channels)
        self.mix = dense(3 * channels, channels)

    def forward(
        self, numbers: Int[Tensor, "atom"], radial: Float[Tensor, "pair radial"], pairs: AtomPairs
    ) -> Float[Tensor, "edge message"]:
        """Messages from source to target; the part of the atoms is mapped once per atom, that of the basis per pair."""
        element = self.elements(numbers)
        received, sent, own = self.mix.weight.chunk(3, dim=1)
        ends = take(linear(element, received), pairs.target) + take(linear(element, sent), pairs.source)
        both_ways = ends.unflatten(0, (2, radial.shape[0]))
        return silu(both_ways + linear(silu(self.radial(radial)), own, self.mix.bias)).flatten(0, 1)


class InteractionBlock(nn.Module):
    """Messages from the messages that arrive at their source, but the reverse one (arXiv:2011.14115, Fig. 1)."""

    def __init__(self, channels: int, triplets: int, basis: int, radial: int, degrees: int) -> None:
        super().__init__()
        self.own = dense(channels, channels)
        self.sent = dense(channels, channels)
        self.gate = nn.Sequential(dense(radial, basis, bias=False), dense(basis, channels, bias=False))
        self.angle = nn.Sequential(dense(degrees * radial, basis, bias=False), dense(basis, triplets, bias=False))
        with torch.no_grad():
            # The spherical basis has values near 5 at the distances that occur; unscaled, sums over neighbours explode.
            self.angle[0].weight.mul_(0.2)
        self.down = dense(channels, triplets, bias=False)
        self.up = dense(triplets, channels, bias=False)
        self.before = Residual(channels)
        self.join = dense(channels, channels)
        self.after = nn.Sequential(Residual(channels), Residual(channels))

    def forward(self, message: Float[Tensor, "edge message"], geometry: Geometry) -> Float[Tensor, "edge message"]:
        """Messages after this block."""
        sent = times_pair(silu(self.sent(message)), self.gate(geometry.radial))
        weight = torch.bmm(geometry.spherical, self.angular_filter(geometry.spherical))
        both_ways = silu(self.down(sent)).unflatten(0, (2, weight.shape[1]))
        arrived = convolve_pairs(geometry.table.slots, geometry.harmonics, (both_ways * weight[:, None]).flatten(1, 2))
        x = silu(self.own(message)) + silu(self.up(turned_round(arrived)))
        return self.after(message + silu(self.join(self.before(x))))

    def angular_filter(self, spherical: Float[Tensor, "degree pair radial"]) -> Float[Tensor, "degree radial triplet"]:
        """Both linear maps of the spherical basis in one: per edge cheaper than one after the other per triplet."""
        first, second = (layer.weight for layer in self.angle)
        return (second @ first).T.view(spherical.shape[0], spherical.shape[2], -1)


class OutputBlock(nn.Module):
    """Atom features from the messages that arrive, and their energies (arXiv:2011.14115, Fig. 1)."""

    def __init__(self, messages: int, channels: int, radial: int) -> None:
        super().__init__()
        self.gate = dense(radial, messages, bias=False)
        self.up = dense(messages, channels, bias=False)
        widths = pairwise([channels] * 4)
        self.layers = nn.Sequential(*[part for a, b in widths for part in (dense(a, b), SiLU())])
        self.readout = dense(channels, 1, bias=False)
        with torch.no_grad():
            # Small first energies and forces, but not the published zeros, under which no weight below would learn.
            self.readout.weight.mul_(0.1)

    def features(
        self,
        message: Float[Tensor, "edge message"],
        radial: Float[Tensor, "pair radial"],
        target: Int[Tensor, "edge"],
        atoms: int,
    ) -> Float[Tensor, "atom channel"]:
        """Atom features before the last linear layer."""
        hidden = self.layers(self.up(segment_sum(times_pair(message, self.gate(radial)), target, atoms)))
        return hidden.to(at_least_single(hidden.dtype))

    def energies(self, hidden: Float[Tensor, "atom channel"]) -> Float[Tensor, "atom"]:
        """The last linear layer."""
        with exact(hidden.device):
            return self.readout(hidden)[:, 0]
