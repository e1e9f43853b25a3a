"""Edges as a table, so that sums over the edges of an atom are products of matrices."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mcgm.segments import rank_in_segment, segment_count, take


@dataclass(frozen=True, eq=False)
class Slots:
    """Where each edge stands among those that arrive at its target: a row of a table, `width` rows for each atom."""

    slot: Int[Tensor, "edge"]
    atoms: int
    width: int

    @classmethod
    def from_targets(cls, target: Int[Tensor, "edge"], atoms: int) -> Slots:
        """Count once, where batches are made; an atom may be its own neighbour through an image of itself."""
        width = int(segment_count(target, atoms).max()) if atoms else 0
        return cls(target * width + rank_in_segment(target, atoms), atoms, width)

    def widened(self, width: int) -> Slots:
        """The same edges in a table with more rows for each atom."""
        return Slots(
            self.slot + torch.div(self.slot, self.width, rounding_mode="floor") * (width - self.width),
            self.atoms,
            width,
        )

    def spread(self, values: Float[Tensor, "edge channel"]) -> Float[Tensor, "atom slot channel"]:
        """Edges as a table with one row of slots for each target atom, zeros where there is no edge."""
        table = values.new_zeros(self.atoms * self.width, values.shape[1]).index_copy(0, self.slot, values)
        return table.view(self.atoms, self.width, values.shape[1])

    def collect(self, table: Float[Tensor, "atom slot channel"]) -> Float[Tensor, "edge channel"]:
        """Edges back from the table."""
        return take(table.flatten(0, 1), self.slot)
