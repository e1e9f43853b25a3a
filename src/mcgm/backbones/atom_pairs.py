"""Edges in the order that lets both directions of a pair share what depends on their distance only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mcgm.convolution import convolve
from mcgm.neighbors import Edges, Neighbors
from mcgm.segments import is_ascending, take


@dataclass(frozen=True, eq=False)
class AtomPairs:
    """Every pair of neighbours one way, then every pair, in the same order, the other way.

    `row` is the place of each edge in the neighbour list. An atom and an image of itself are a pair as well. Filters
    and bases of the distance, most of the work of many networks, are computed for half of the edges.
    """

    row: Int[Tensor, "edge"]
    source: Int[Tensor, "edge"]
    target: Int[Tensor, "edge"]

    @classmethod
    def from_neighbors(cls, neighbors: Neighbors, atoms: int) -> AtomPairs:
        """Find the pairs once, where batches are made."""
        reverse = reverse_edges(neighbors, atoms)
        first = torch.nonzero(torch.arange(len(reverse), device=reverse.device) < reverse).flatten()
        row = torch.cat([first, reverse[first]])
        return cls(row, neighbors.source[row], neighbors.target[row])

    def length(self, edges: Edges) -> Float[Tensor, "pair"]:
        """Distance of each pair, Å."""
        return take(edges.length, self.row[: self.row.shape[0] // 2])

    def direction(self, edges: Edges) -> Float[Tensor, "edge 3"]:
        """Unit vector of every edge, both ways."""
        one_way = take(edges.vector / edges.length[:, None], self.row[: self.row.shape[0] // 2])
        return torch.cat([one_way, -one_way])

    def convolve(
        self, values: Float[Tensor, "atom *rest channel"], weight: Float[Tensor, "pair channel"]
    ) -> Float[Tensor, "atom *rest channel"]:
        """Sum over the neighbours of each atom of their values times the weight of the pair."""
        return convolve(values, weight, self.source, self.target, ways=2)


def times_pair(
    values: Float[Tensor, "edge channel"], weight: Float[Tensor, "pair channel"]
) -> Float[Tensor, "edge channel"]:
    """Values of the edges, ordered as in `AtomPairs`, times the weight of their pair."""
    return (values.unflatten(0, (2, weight.shape[0])) * weight).flatten(0, 1)


def turned_round(values: Float[Tensor, "edge *rest"]) -> Float[Tensor, "edge *rest"]:
    """The value of the opposite edge for every edge, ordered as in `AtomPairs`."""
    return torch.roll(values, values.shape[0] // 2, dims=0)


def reverse_edges(neighbors: Neighbors, atoms: int) -> Int[Tensor, "edge"]:
    """Index of the edge from target to source with the opposite image, for every edge."""
    source, target, image = neighbors.source, neighbors.target, neighbors.image
    if not len(source):
        return source
    there, other_way = target * atoms + source, source * atoms + target
    if len(neighbors.crossing):
        reach = int(image.abs().max())
        base = 2 * reach + 1

        def with_image(code: Tensor, cells: Tensor) -> Tensor:
            x, y, z = (cells + reach).unbind(1)
            return ((code * base + x) * base + y) * base + z

        there, other_way = with_image(there, image), with_image(other_way, -image)
    back = torch.argsort(other_way)
    reverse = torch.empty_like(back)
    reverse[back] = torch.arange(len(back), device=back.device) if is_ascending(there) else torch.argsort(there)
    return reverse
