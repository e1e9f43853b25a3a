"""Bases, embedding, interaction and output blocks of GemNet-T."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from mcgm.backbones.angular import exact_constant
from mcgm.backbones.bessel import LearnedBesselBasis, SphericalBesselBasis
from mcgm.backbones.directional import EdgePairs, expand_pairs
from mcgm.backbones.radial import GaussianBasis
from mcgm.backbones.scale_factors import ScaleFactor
from mcgm.segments import segment_sum


@dataclass(frozen=True, eq=False)
class Geometry:
    """What the blocks read of the positions, the same for every layer; `circular` is the basis of distance and angle.

    `gate`, `atom_gate` and `output_gate` are the radial basis for triplets, atom updates and output blocks.
    """

    gate: Float[Tensor, "edge basis"]
    atom_gate: Float[Tensor, "edge basis"]
    output_gate: Float[Tensor, "edge basis"]
    circular: Float[Tensor, "edge basis degree"]
    harmonics: Float[Tensor, "atom slot harmonic"]
    pairs: EdgePairs
    source: Int[Tensor, "edge"]
    target: Int[Tensor, "edge"]


@torch.no_grad()
def standard_orthogonal(weight: Float[Tensor, "output input"]) -> Float[Tensor, "output input"]:
    """Orthogonal rows brought to mean 0 and variance 1 / inputs, in place (arXiv:2106.08903, section 6)."""
    nn.init.orthogonal_(weight)
    variance, mean = torch.var_mean(weight, dim=1, keepdim=True)
    return weight.sub_(mean).div_(torch.sqrt(variance * weight.shape[1] + 1e-6))


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


def scaled_silu(x: Tensor) -> Tensor:
    """Activation that keeps the variance of standard normal inputs."""
    return silu(x) / 0.6


class Residual(nn.Module):
    """Two dense layers and a skip, over the square root of two."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ActivatedDense(channels, channels)
        self.second = ActivatedDense(channels, channels)

    def forward(self, x: Float[Tensor, "row channel"]) -> Float[Tensor, "row channel"]:
        """Refined features."""
        return halve(x + self.second(self.first(x)))


def residuals(channels: int, count: int) -> nn.Sequential:
    """So many residual blocks one after the other."""
    return nn.Sequential(*[Residual(channels) for _ in range(count)])


def halve(x: Tensor) -> Tensor:
    """Half the variance: what the sum of two independent terms needs."""
    return x * math.sqrt(0.5)


class Basis(nn.Module, ABC):
    """Radial basis without its envelope, and circular basis with its linear map."""

    @abstractmethod
    def radial(self, length: Float[Tensor, "edge"]) -> Float[Tensor, "edge radial"]:
        """Functions of the distance, Å."""

    @abstractmethod
    def circular(
        self, length: Float[Tensor, "edge"], envelope: Float[Tensor, "edge 1"], radial: Float[Tensor, "edge radial"]
    ) -> Float[Tensor, "edge degree basis"]:
        """Radial factors of each degree's Legendre polynomial, linearly mapped; `radial` already has its envelope."""


class BesselBases(Basis):
    """Learnt Bessel functions and spherical Fourier-Bessel functions: the paper's (arXiv:2106.08903, Eqs. 8 and 9)."""

    def __init__(self, cutoff: float, size: int, degrees: int, basis: int) -> None:
        super().__init__()
        self.bessel = LearnedBesselBasis(cutoff, size)
        self.spherical = SphericalBesselBasis(cutoff, degrees, size)
        self.weight = nn.Parameter(circular_weight(degrees, size, basis))

    def radial(self, length: Float[Tensor, "edge"]) -> Float[Tensor, "edge radial"]:
        """Bessel functions."""
        return self.bessel(length)

    def circular(
        self, length: Float[Tensor, "edge"], envelope: Float[Tensor, "edge 1"], radial: Float[Tensor, "edge radial"]
    ) -> Float[Tensor, "edge degree basis"]:
        """Spherical Bessel functions of each degree."""
        return torch.bmm(envelope * self.spherical(length), self.weight).transpose(0, 1)


class GaussianBases(Basis):
    """Gaussians, and their products with the Legendre polynomials: the form trained on OC20 and OE62."""

    norms: Tensor

    def __init__(self, cutoff: float, size: int, degrees: int, basis: int) -> None:
        super().__init__()
        self.gaussians = GaussianBasis(cutoff, size)
        self.weight = nn.Parameter(circular_weight(degrees, size, basis))
        norms = np.sqrt((2 * np.arange(degrees) + 1) / (4 * np.pi))
        self.register_buffer("norms", exact_constant(norms[:, None]), persistent=False)

    def radial(self, length: Float[Tensor, "edge"]) -> Float[Tensor, "edge radial"]:
        """Gaussians."""
        return self.gaussians(length)

    def circular(
        self, length: Float[Tensor, "edge"], envelope: Float[Tensor, "edge 1"], radial: Float[Tensor, "edge radial"]
    ) -> Float[Tensor, "edge degree basis"]:
        """The same Gaussians for each degree."""
        degrees, size, basis = self.weight.shape
        mapped = radial @ self.weight.transpose(0, 1).reshape(size, degrees * basis)
        return mapped.view(-1, degrees, basis) * self.norms.view(torch.float64).to(mapped.dtype)


BASES: dict[str, type[Basis]] = {"bessel": BesselBases, "gaussian": GaussianBases}
"""Bases by the name under which a configuration asks for them."""


def circular_weight(degrees: int, size: int, basis: int) -> Float[Tensor, "degree radial basis"]:
    """Initial linear map of the circular basis."""
    return standard_orthogonal(torch.empty(basis, degrees * size)).T.reshape(degrees, size, basis)


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
        ends = linear(atom, sent).index_select(0, source) + linear(atom, received).index_select(0, target)
        return scaled_silu(ends + linear(edge, own))


class AtomUpdate(nn.Module):
    """Atom features from the messages that arrive, gated by distance (arXiv:2106.08903, Fig. 4)."""

    def __init__(self, atoms: int, messages: int, basis: int, depth: int) -> None:
        super().__init__()
        self.gate = Dense(basis, messages)
        self.sum_scale = ScaleFactor()
        self.dense = ActivatedDense(messages, atoms)
        self.residuals = residuals(atoms, depth)

    def forward(
        self,
        message: Float[Tensor, "edge message"],
        gate: Float[Tensor, "edge basis"],
        target: Int[Tensor, "edge"],
        atoms: int,
    ) -> Float[Tensor, "atom feature"]:
        """Features of so many atoms."""
        arrived = segment_sum(message * self.gate(gate), target, atoms)
        return self.residuals(self.dense(self.sum_scale(message, arrived)))


class TripletInteraction(nn.Module):
    """Messages from the other edges at the target, by distance and angle, and the same for the reverse edge."""

    def __init__(self, messages: int, triplets: int, bilinear: int, basis: int) -> None:
        super().__init__()
        self.dense = ActivatedDense(messages, messages)
        self.gate = Dense(basis, messages)
        self.gate_scale = ScaleFactor()
        self.down = ActivatedDense(messages, triplets)
        self.bilinear = Dense(basis * triplets, bilinear)
        self.sum_scale = ScaleFactor()
        self.up = ActivatedDense(bilinear, messages)
        self.up_reverse = ActivatedDense(bilinear, messages)

    def forward(self, message: Float[Tensor, "edge message"], geometry: Geometry) -> Float[Tensor, "edge message"]:
        """What arrives at each edge."""
        x = self.dense(message)
        x = self.down(self.gate_scale(x, x * self.gate(geometry.gate)))
        by_degree = expand_pairs(geometry.pairs, geometry.harmonics, x, geometry.circular.shape[2])
        mixed = torch.bmm(geometry.circular, by_degree).flatten(1)
        arrived = self.sum_scale(x, self.bilinear(mixed))
        return halve(self.up(arrived) + self.up_reverse(arrived).index_select(0, geometry.pairs.reverse))


class InteractionBlock(nn.Module):
    """Triplet messages, then atoms from messages, then messages from atoms (arXiv:2106.08903, Fig. 4)."""

    def __init__(
        self, atoms: int, messages: int, triplets: int, bilinear: int, basis: int, depths: tuple[int, int, int, int]
    ) -> None:
        super().__init__()
        before, after, concatenated, atom = depths
        self.dense = ActivatedDense(messages, messages)
        self.triplets = TripletInteraction(messages, triplets, bilinear, basis)
        self.before = residuals(messages, before)
        self.after = residuals(messages, after)
        self.atom_update = AtomUpdate(atoms, messages, basis, atom)
        self.concatenate = EdgeEmbedding(atoms, messages, messages)
        self.refine = residuals(messages, concatenated)

    def forward(
        self, atom: Float[Tensor, "atom feature"], message: Float[Tensor, "edge message"], geometry: Geometry
    ) -> tuple[Float[Tensor, "atom feature"], Float[Tensor, "edge message"]]:
        """Atom and edge features after this block."""
        source, target = geometry.source, geometry.target
        x = self.before(halve(self.dense(message) + self.triplets(message, geometry)))
        message = self.after(halve(message + x))
        atom = halve(atom + self.atom_update(message, geometry.atom_gate, target, len(atom)))
        return atom, halve(message + self.refine(self.concatenate(atom, message, source, target)))


class OutputBlock(nn.Module):
    """Atom features from the messages that arrive, and their energies."""

    def __init__(self, channels: int, messages: int, basis: int, depth: int) -> None:
        super().__init__()
        self.atoms = AtomUpdate(channels, messages, basis, depth)
        self.readout = Dense(channels, 1)

    def features(
        self, message: Float[Tensor, "edge message"], geometry: Geometry, atoms: int
    ) -> Float[Tensor, "atom channel"]:
        """Atom features before the last linear layer."""
        return self.atoms(message, geometry.output_gate, geometry.target, atoms)

    def energies(self, hidden: Float[Tensor, "atom channel"]) -> Float[Tensor, "atom"]:
        """The last linear layer."""
        return self.readout(hidden)[:, 0]
