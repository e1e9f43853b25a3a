"""Some structures of a batch side by side, padded to the largest: for products of matrices instead of loops."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mcgm.batch import Batch
from mcgm.errors import StructureError
from mcgm.segments import take


@dataclass(frozen=True, eq=False)
class Selection:
    """Chosen structures of a batch, and where their atoms stand in (structure, size).

    `slot` is the place in that array, flattened; `periodic` the boundary conditions; `present` where it holds an atom.
    """

    structure: Int[Tensor, "structure"]
    periodic: Bool[Tensor, "structure 3"]
    present: Bool[Tensor, "structure size"]
    atom: Int[Tensor, "member"]
    slot: Int[Tensor, "member"]
    size: int

    @classmethod
    def of(cls, batch: Batch, chosen: Bool[Tensor, "molecule"]) -> Selection:
        """The structures where `chosen`; may be none."""
        structure = torch.nonzero(chosen).flatten()
        sizes = torch.bincount(batch.molecule, minlength=batch.n_molecules)
        start = torch.cumsum(sizes, 0) - sizes
        place = torch.full_like(sizes, -1)
        place[structure] = torch.arange(len(structure), device=batch.device)
        atom = torch.nonzero(place[batch.molecule] >= 0).flatten()
        size = int(sizes[structure].max()) if len(structure) else 0
        slot = place[batch.molecule[atom]] * size + atom - start[batch.molecule[atom]]
        present = torch.arange(size, device=batch.device) < sizes[structure][:, None]
        return cls(structure, batch.pbc[structure], present, atom, slot, size)

    @classmethod
    def lattices(cls, batch: Batch) -> Selection:
        """Those that are periodic, for sums over lattice vectors.

        Raises:
            StructureError: periodic along one axis only, or along two with no third lattice vector.
        """
        count = batch.pbc.sum(dim=1)
        flat = (count > 0) & (torch.linalg.det(batch.cell.detach().double()).abs() < 1e-6)
        for wrong in torch.nonzero((count == 1) | flat).flatten().tolist():
            raise StructureError(
                f"structure {wrong} of the batch: pbc is {batch.pbc[wrong].tolist()}, the cell "
                f"{batch.cell[wrong].tolist()} Å. Sums over lattice vectors need three periodic axes, or two and a "
                "third lattice vector that holds the vacuum. For a wire set pbc=True, with vacuum around it."
            )
        return cls.of(batch, count > 0)

    def __len__(self) -> int:
        """Number of structures."""
        return len(self.structure)

    def pad(self, values: Float[Tensor, "atom *rest"]) -> Float[Tensor, "structure size *rest"]:
        """Values of the atoms, zero where a structure is smaller."""
        structures = self.structure.shape[0]
        padded = values.new_zeros((structures * self.size, *values.shape[1:]))
        padded = padded.index_copy(0, self.slot, take(values, self.atom))
        return padded.reshape(structures, self.size, *values.shape[1:])

    def unpad(self, padded: Float[Tensor, "structure size *rest"], atoms: int) -> Float[Tensor, "atom *rest"]:
        """Back to atoms, zero for those of other structures."""
        values = take(padded.flatten(0, 1), self.slot)
        return values.new_zeros((atoms, *values.shape[1:])).index_copy(0, self.atom, values)
