"""Sums over pairs of edges that arrive at one atom, without a list of triplets.

A message that depends on the angle between two edges is a sum of Legendre polynomials P_l(u·v). By the addition theorem
these are products of harmonics of u and of v, so the sum over all partners v is done once per atom, exactly:
time and memory grow with the number of edges where a list of triplets grows with edges times neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mcgm.neighbors import Neighbors
from mcgm.segments import rank_in_segment, segment_count


@dataclass(frozen=True, eq=False)
class EdgePairs:
    """Where each edge stands among those that arrive at its target, and which edge runs the other way.

    `slot` is a row of a table with `width` rows for each of the `atoms`; `reverse` has the opposite image.
    """

    slot: Int[Tensor, "edge"]
    reverse: Int[Tensor, "edge"]
    atoms: int
    width: int

    @classmethod
    def from_neighbors(cls, neighbors: Neighbors, atoms: int) -> EdgePairs:
        """Count once, where batches are made; an atom may be its own neighbour through an image of itself."""
        sizes = segment_count(neighbors.target, atoms)
        width = int(sizes.max()) if atoms else 0
        slot = neighbors.target * width + rank_in_segment(neighbors.target, atoms)
        return cls(slot, reverse_edges(neighbors, atoms), atoms, width)

    def spread(self, values: Float[Tensor, "edge channel"]) -> Float[Tensor, "atom slot channel"]:
        """Edges as a table with one row of slots for each target atom, zeros where there is no edge."""
        table = values.new_zeros(self.atoms * self.width, values.shape[1]).index_copy(0, self.slot, values)
        return table.view(self.atoms, self.width, values.shape[1])

    def collect(self, table: Float[Tensor, "atom slot channel"]) -> Float[Tensor, "edge channel"]:
        """Edges back from the table."""
        return table.flatten(0, 1).index_select(0, self.slot)


def reverse_edges(neighbors: Neighbors, atoms: int) -> Int[Tensor, "edge"]:
    """Index of the edge from target to source with the opposite image, for every edge."""
    source, target, image = neighbors.source, neighbors.target, neighbors.image
    if not len(source):
        return source
    reach = int(image.abs().max())
    base = 2 * reach + 1

    def code(first: Tensor, second: Tensor, cells: Tensor) -> Tensor:
        x, y, z = (cells + reach).unbind(1)
        return (((first * atoms + second) * base + x) * base + y) * base + z

    there = torch.argsort(code(target, source, image))
    back = torch.argsort(code(source, target, -image))
    reverse = torch.empty_like(there)
    reverse[back] = there
    return reverse


def convolve_pairs(
    pairs: EdgePairs, harmonics: Float[Tensor, "atom slot harmonic"], values: Float[Tensor, "degree edge channel"]
) -> Float[Tensor, "edge channel"]:
    """Σ_l Σ_p P_l(angle between edge and p) values[l, p] over the other edges p at the same target."""
    moments = [
        harmonics[:, :, degree**2 : (degree + 1) ** 2].transpose(1, 2) @ pairs.spread(part)
        for degree, part in enumerate(values.unbind(0))
    ]
    everyone = pairs.collect(harmonics @ torch.cat(moments, dim=1))
    return everyone - values.sum(dim=0)


def expand_pairs(
    pairs: EdgePairs,
    harmonics: Float[Tensor, "atom slot harmonic"],
    values: Float[Tensor, "edge channel"],
    degrees: int,
) -> Float[Tensor, "edge degree channel"]:
    """Σ_p P_l(angle between edge and p) values[p] over the other edges p at the same target, for every degree l."""
    moments = harmonics.transpose(1, 2) @ pairs.spread(values)
    parts = [
        harmonics[:, :, degree**2 : (degree + 1) ** 2] @ moments[:, degree**2 : (degree + 1) ** 2]
        for degree in range(degrees)
    ]
    everyone = pairs.collect(torch.cat(parts, dim=-1))
    return everyone.view(len(values), degrees, values.shape[1]) - values[:, None]
