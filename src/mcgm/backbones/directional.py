"""Sums over pairs of edges that arrive at one atom, without a list of triplets.

A message that depends on the angle between two edges is a sum of Legendre polynomials P_l(u·v). By the addition theorem
these are products of harmonics of u and of v, so the sum over all partners v is done once per atom, exactly:
time and memory grow with the number of edges where a list of triplets grows with edges times neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mcgm.backbones.atom_pairs import AtomPairs
from mcgm.neighbors import Neighbors
from mcgm.slots import Slots


@dataclass(frozen=True, eq=False)
class EdgeTable:
    """Pairs, each with both of its edges, and the slots of the edges in that order."""

    pairs: AtomPairs
    slots: Slots

    @classmethod
    def from_neighbors(cls, neighbors: Neighbors, atoms: int) -> EdgeTable:
        """Find and count once, where batches are made."""
        pairs = AtomPairs.from_neighbors(neighbors, atoms)
        return cls(pairs, Slots.from_targets(pairs.target, atoms))


def convolve_pairs(
    slots: Slots, harmonics: Float[Tensor, "atom slot harmonic"], values: Float[Tensor, "degree edge channel"]
) -> Float[Tensor, "edge channel"]:
    """Σ_l Σ_p P_l(angle between edge and p) values[l, p] over the other edges p at the same target."""
    moments = [
        torch.bmm(harmonics[:, :, degree**2 : (degree + 1) ** 2].transpose(1, 2), slots.spread(part))
        for degree, part in enumerate(values.unbind(0))
    ]
    everyone = slots.collect(torch.bmm(harmonics, torch.cat(moments, dim=1)))
    return everyone - values.sum(dim=0)


def expand_pairs(
    slots: Slots,
    harmonics: Float[Tensor, "atom slot harmonic"],
    values: Float[Tensor, "edge channel"],
    degrees: int,
) -> Float[Tensor, "edge degree channel"]:
    """Σ_p P_l(angle between edge and p) values[p] over the other edges p at the same target, for every degree l."""
    moments = torch.bmm(harmonics.transpose(1, 2), slots.spread(values))
    parts = [
        torch.bmm(harmonics[:, :, degree**2 : (degree + 1) ** 2], moments[:, degree**2 : (degree + 1) ** 2])
        for degree in range(degrees)
    ]
    everyone = slots.collect(torch.cat(parts, dim=-1))
    return everyone.view(values.shape[0], degrees, values.shape[1]) - values[:, None]
