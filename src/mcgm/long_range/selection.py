"""Some structures of a batch side by side, padded to the largest: for products of matrices instead of loops."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mcgm.batch import Batch
from mcgm.errors import StructureError
from mcgm.segments import take

LEAST_VACUUM = 2.0
"""Å between a slab and its images along the open axis; with less they touch."""


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
            StructureError: periodic along one axis only, or along two with no third lattice vector or one that leaves
                no vacuum.
        """
        count = batch.pbc.sum(dim=1)
        flat = (count > 0) & (torch.linalg.det(batch.cell.detach().double()).abs() < 1e-6)
        for wrong in torch.nonzero((count == 1) | flat).flatten().tolist():
            raise StructureError.in_batch(
                wrong,
                f"pbc is {batch.pbc[wrong].tolist()}, the cell "
                f"{batch.cell[wrong].tolist()} Å. Sums over lattice vectors need three periodic axes, or two and a "
                "third lattice vector that holds the vacuum. For a wire set pbc=True, with vacuum around it.",
            )
        _require_vacuum(batch)
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


def _require_vacuum(batch: Batch) -> None:
    """Of every slab, along its normal and from its lowest to its highest atom."""
    is_slab = batch.pbc.sum(dim=1) == 2
    if not bool(is_slab.any()):
        return
    cell = batch.exact_cell.detach()
    normal = normals(batch.pbc, cell)
    area = torch.linalg.vector_norm(normal, dim=1)
    height = torch.linalg.det(cell).abs() / area
    z = (batch.exact_positions.detach() * take(normal / area[:, None], batch.molecule)).sum(1)
    nothing = z.new_zeros(batch.n_molecules)
    low, high = (nothing.scatter_reduce(0, batch.molecule, z, way, include_self=False) for way in ("amin", "amax"))
    span = high - low
    for wrong in torch.nonzero(is_slab & (height - span < LEAST_VACUUM)).flatten().tolist():
        raise StructureError.in_batch(
            wrong,
            f"the atoms of this slab span {float(span[wrong]):.4g} Å along its open "
            f"axis, where the lattice repeats them after {float(height[wrong]):.4g} Å. Sums over lattice vectors need "
            f"at least {LEAST_VACUUM:g} Å of vacuum, better as much as the longer vector in the plane. Make the third "
            "vector longer, and do not wrap atoms along it.",
        )


def normals(
    periodic: Bool[Tensor, "structure 3"], cell: Float[Tensor, "structure 3 3"]
) -> Float[Tensor, "structure 3"]:
    """Upright on the periodic vectors of slabs, as long as their area (Å²); of crystals, on the first two."""
    faces = torch.linalg.cross(cell.roll(-1, dims=1), cell.roll(-2, dims=1))
    is_slab = periodic.sum(dim=1, keepdim=True) == 2
    return torch.where(is_slab, ((~periodic)[..., None] * faces).sum(1), faces[:, 2])
