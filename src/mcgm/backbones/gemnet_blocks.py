"""Embedding, interaction and output blocks of GemNet-T."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear

from mcgm.activations import silu
from mcgm.backbones.atom_pairs import times_pair, turned_round
from mcgm.backbones.directional import EdgeTable, expand_pairs
from mcgm.backbones.gemnet_bases import InitialScales, standard_orthogonal
from mcgm.backbones.scale_factors import ScaleFactor
from mcgm.mixed import at_least_single, exact
from mcgm.segments import segment_sum, take


@dataclass(frozen=True, eq=False)
class Geometry:
    """What the blocks read of the positions, the same for every layer; `circular` is the basis of distance and angle.

    `gate`, `atom_gate` and `output_gate` are the radial basis for triplets, atom updates and output blocks.
    """

    gate: Float[Tensor, "pair basis"]
    atom_gate: Float[Tensor, "pair basis"]
    output_gate: Float[Tensor, "pair basis"]
    circular: Float[Tensor, "edge basis degree"]
    harmonics: Float[Tensor, "atom slot harmonic"]
    table: EdgeTable


class Dense(nn.Linear):
    """Linear layer without bias whose initial weights keep the variance."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        standard_orthogonal(self.weight)


class ActivatedDense(Dense):
    """Linear layer without bias and its activation."""

    def forward(self, x: Float[Tensor, "row input"]) -> Float[Tensor, "row output"]:
        """Activated features."""
        return scaled_silu(super().forward(x))


SILU_GAIN = 1 / 0.6
"""What keeps the variance of standard normal inputs through the activation."""


def scaled_silu(x: Tensor) -> Tensor:
    """Activation that keeps the variance of standard normal inputs."""
    return silu(x) * SILU_GAIN


class Residual(nn.Module):
    """Two dense layers, each with its activation, and a skip, over the square root of two."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = Dense(channels, channels)
        self.second = Dense(channels, channels)

    def forward(self, x: Float[Tensor, "row channel"]) -> Float[Tensor, "row channel"]:
        """Refined features; the activations' gains go into the next weights and the sum, not over every row."""
        hidden = linear(silu(self.first(x)), SILU_GAIN * self.second.weight)
        return halve(torch.add(x, silu(hidden), alpha=SILU_GAIN))


def residuals(channels: int, count: int) -> nn.Sequential:
    """So many residual blocks one after the other."""
    return nn.Sequential(*[Residual(channels) for _ in range(count)])


def halve(x: Tensor) -> Tensor:
    """Half the variance: what the sum of two independent terms needs."""
    return x * math.sqrt(0.5)


class EdgeEmbedding(nn.Module):
    """Edge features from the atoms at both ends and features of the edge, through one dense layer."""

    def __init__(self, atoms: int, inputs: int, messages: int) -> None:
        super().__init__()
        self.dense = Dense(2 * atoms + inputs, messages)

    def forward(
        self,
        atom: Float[Tensor, "atom feature"],
        edge: Float[Tensor, "edge input"],
        source: Int[Tensor, "edge"],
        target: Int[Tensor, "edge"],
    ) -> Float[Tensor, "edge message"]:
        """New edge features; the part of the atoms is mapped once per atom, not once per edge."""
        width = atom.shape[1]
        sent, received, own = self.dense.weight.split([width, width, edge.shape[1]], dim=1)
        ends = take(linear(atom, sent), source) + take(linear(atom, received), target)
        return scaled_silu(ends + linear(edge, own))


class AtomUpdate(nn.Module):
    """Atom features from the messages that arrive, gated by distance (arXiv:2106.08903, Fig. 4)."""

    def __init__(self, atoms: int, messages: int, basis: int, depth: int, scales: InitialScales) -> None:
        super().__init__()
        self.gate = Dense(basis, messages)
        self.sum_scale = ScaleFactor(scales.atoms)
        self.dense = ActivatedDense(messages, atoms)
        self.residuals = residuals(atoms, depth)

    def forward(
        self,
        message: Float[Tensor, "edge message"],
        gate: Float[Tensor, "pair basis"],
        target: Int[Tensor, "edge"],
        atoms: int,
    ) -> Float[Tensor, "atom feature"]:
        """Features of so many atoms."""
        arrived = segment_sum(times_pair(message, self.gate(gate)), target, atoms)
        return self.residuals(self.dense(self.sum_scale(message, arrived)))


class TripletInteraction(nn.Module):
    """Messages from the other edges at the target, by distance and angle, and the same for the reverse edge."""

    def __init__(self, messages: int, triplets: int, bilinear: int, basis: int, scales: InitialScales) -> None:
        super().__init__()
        self.dense = ActivatedDense(messages, messages)
        self.gate = Dense(basis, messages)
        self.gate_scale = ScaleFactor(scales.gate)
        self.down = ActivatedDense(messages, triplets)
        self.bilinear = Dense(basis * triplets, bilinear)
        self.sum_scale = ScaleFactor(scales.triplets)
        self.up = ActivatedDense(bilinear, messages)
        self.up_reverse = ActivatedDense(bilinear, messages)

    def forward(self, message: Float[Tensor, "edge message"], geometry: Geometry) -> Float[Tensor, "edge message"]:
        """What arrives at each edge."""
        x = self.dense(message)
        x = self.down(self.gate_scale(x, times_pair(x, self.gate(geometry.gate))))
        by_degree = expand_pairs(geometry.table.slots, geometry.harmonics, x, geometry.circular.shape[2])
        mixed = torch.bmm(geometry.circular, by_degree).flatten(1)
        arrived = self.sum_scale(x, self.bilinear(mixed))
        return halve(self.up(arrived) + turned_round(self.up_reverse(arrived)))


class InteractionBlock(nn.Module):
    """Triplet messages, then atoms from messages, then messages from atoms (arXiv:2106.08903, Fig. 4)."""

    def __init__(
        self,
        atoms: int,
        messages: int,
        triplets: int,
        bilinear: int,
        basis: int,
        *,
        depths: tuple[int, int, int, int],
        scales: InitialScales,
    ) -> None:
        super().__init__()
        before, after, concatenated, atom = depths
        self.dense = ActivatedDense(messages, messages)
        self.triplets = TripletInteraction(messages, triplets, bilinear, basis, scales)
        self.before = residuals(messages, before)
        self.after = residuals(messages, after)
        self.atom_update = AtomUpdate(atoms, messages, basis, atom, scales)
        self.concatenate = EdgeEmbedding(atoms, messages, messages)
        self.refine = residuals(messages, concatenated)

    def forward(
        self, atom: Float[Tensor, "atom feature"], message: Float[Tensor, "edge message"], geometry: Geometry
    ) -> tuple[Float[Tensor, "atom feature"], Float[Tensor, "edge message"]]:
        """Atom and edge features after this block."""
        source, target = geometry.table.pairs.source, geometry.table.pairs.target
        x = self.before(halve(self.dense(message) + self.triplets(message, geometry)))
        message = self.after(halve(message + x))
        atom = halve(atom + self.atom_update(message, geometry.atom_gate, target, atom.shape[0]))
        return atom, halve(message + self.refine(self.concatenate(atom, message, source, target)))


class OutputBlock(nn.Module):
    """Atom features from the messages that arrive, and their energies."""

    def __init__(self, channels: int, messages: int, basis: int, depth: int, scales: InitialScales) -> None:
        super().__init__()
        self.atoms = AtomUpdate(channels, messages, basis, depth, scales)
        self.readout = Dense(channels, 1)

    def features(
        self, message: Float[Tensor, "edge message"], geometry: Geometry, atoms: int
    ) -> Float[Tensor, "atom channel"]:
        """Atom features before the last linear layer."""
        hidden = self.atoms(message, geometry.output_gate, geometry.table.pairs.target, atoms)
        return hidden.to(at_least_single(hidden.dtype))

    def energies(self, hidden: Float[Tensor, "atom channel"]) -> Float[Tensor, "atom"]:
        """The last linear layer."""
        with exact(hidden.device):
            return self.readout(hidden)[:, 0]
