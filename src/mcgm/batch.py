"""Structures side by side as tensors: what every network reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mcgm.errors import StructureError
from mcgm.neighbors import Edges, Neighbors, edge_vectors, find_neighbors, pair_vectors
from mcgm.structure import Structure

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Rounding:
    """What casting took from positions, cells and edge vectors, Å.

    Float32 loses 0.004 Å of a bond 10^5 Å from the origin. Edge vectors have their own, for rounded positions and
    cells are also subtracted and multiplied in lower precision.
    """

    positions: Float[Tensor, "atom 3"]
    cell: Float[Tensor, "molecule 3 3"]
    vectors: Float[Tensor, "edge 3"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Structures side by side, atoms numbered through, with all pairs inside the cutoff.

    Positions and cell in Å (lattice vectors as rows, zeros where a structure is open), charge in e, spin in unpaired
    electrons. `rounding` is what casting took. `periodic` says whether any structure is periodic; `index` holds what a
    potential derives once from these (triplets, element clusters), see `Potential.index`. With a `skin` (Å) pairs
    reach so much further, and so do those in the index: both then serve structures near this one, too.
    """

    numbers: Int[Tensor, "atom"]
    positions: Float[Tensor, "atom 3"]
    molecule: Int[Tensor, "atom"]
    cell: Float[Tensor, "molecule 3 3"]
    pbc: Bool[Tensor, "molecule 3"]
    charge: Float[Tensor, "molecule"]
    spin: Float[Tensor, "molecule"]
    neighbors: Neighbors
    cutoff: float
    periodic: bool = False
    skin: float = 0.0
    index: Any = None
    rounding: Rounding | None = None

    @classmethod
    def from_structures(
        cls, structures: Sequence[Structure], *, cutoff: float, dtype: torch.dtype = torch.float32
    ) -> Batch:
        """Collate structures and find their neighbours within the cutoff (Å).

        Raises:
            StructureError: no structure, or two atoms of one lie on each other.
        """
        if not structures:
            raise StructureError("a batch needs at least one structure, got none.")
        structures = [s if s.name else s.replace(name=str(k)) for k, s in enumerate(structures)]

        def stack(name: str) -> Tensor:
            return torch.from_numpy(np.array([getattr(s, name) for s in structures], dtype=np.float64))

        sizes = torch.tensor([len(s) for s in structures])
        batch = cls(
            numbers=torch.from_numpy(np.concatenate([s.numbers for s in structures])),
            positions=torch.from_numpy(np.concatenate([s.positions for s in structures])),
            molecule=torch.repeat_interleave(torch.arange(len(structures)), sizes),
            cell=stack("cell"),
            pbc=torch.from_numpy(np.stack([s.pbc for s in structures])),
            charge=stack("charge"),
            spin=stack("spin"),
            neighbors=find_neighbors(structures, cutoff),
            cutoff=cutoff,
            periodic=any(bool(s.pbc.any()) for s in structures),
        )
        return batch.to(dtype)

    @classmethod
    def from_atoms(cls, atoms: Sequence[Atoms], *, cutoff: float, dtype: torch.dtype = torch.float32) -> Batch:
        """Collate ASE structures; `atoms.info` may hold "charge" (e) and "spin" (unpaired electrons).

        Raises:
            StructureError: see `from_structures`; or one structure instead of a list.
        """
        if isinstance(atoms, Atoms):
            raise StructureError("from_atoms got one structure; required: a list of them, as in from_atoms([atoms]).")
        return cls.from_structures([Structure.from_atoms(item) for item in atoms], cutoff=cutoff, dtype=dtype)

    @property
    def n_atoms(self) -> int:
        """Number of atoms of all structures together."""
        return self.numbers.shape[0]

    @property
    def n_molecules(self) -> int:
        """Number of structures."""
        return self.cell.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.positions.device

    @property
    def edges(self) -> Edges:
        """Vectors and lengths of all pairs, differentiable in `positions` and `cell`."""
        rounding = None if self.rounding is None else self.rounding.vectors
        return edge_vectors(self.neighbors, self.positions, self.cell, self.molecule, rounding)

    @property
    def exact_positions(self) -> Float[Tensor, "atom 3"]:
        """In float64 with what casting took, differentiable in `positions`: for what is not made of `edges`."""
        return self.positions.double() + (0.0 if self.rounding is None else self.rounding.positions.double())

    @property
    def exact_cell(self) -> Float[Tensor, "molecule 3 3"]:
        """Likewise."""
        return self.cell.double() + (0.0 if self.rounding is None else self.rounding.cell.double())

    def to(self, target: torch.device | torch.dtype | str, *, non_blocking: bool = False) -> Batch:
        """Move to a device, or cast floating-point tensors to a dtype, and keep what that rounds off."""
        moved = to(self, target, non_blocking=non_blocking)
        if self.positions.dtype != torch.float64 or moved.positions.dtype == torch.float64:
            return moved
        with torch.no_grad():  # found again with every cast, so that a batch may be cast back and forth
            vectors = pair_vectors(moved.neighbors, moved.positions, moved.cell, moved.molecule)
            taken = Rounding(
                positions=self.exact_positions - moved.positions,
                cell=self.exact_cell - moved.cell,
                vectors=self.edges.vector - vectors,
            )
        return moved.replace(rounding=to(taken, target))

    def replace(self, **changes: Any) -> Batch:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def __repr__(self) -> str:
        return (
            f"Batch({self.n_molecules} structures, {self.n_atoms} atoms, {len(self.neighbors.source)} edges within "
            f"{self.cutoff:g} Å, {self.positions.dtype}, {self.device})"
        )


def to(item: T, target: torch.device | torch.dtype | str, *, non_blocking: bool = False) -> T:
    """Move every tensor of a tensor, (nested) dataclass or tuple; a dtype casts the floating-point ones only."""
    if isinstance(item, Tensor):
        if isinstance(target, torch.dtype):
            return item.to(target) if item.is_floating_point() else item  # type: ignore[return-value]
        return item.to(target, non_blocking=non_blocking)  # type: ignore[return-value]
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        values = {
            f.name: to(getattr(item, f.name), target, non_blocking=non_blocking) for f in dataclasses.fields(item)
        }
        return type(item)(**values)  # type: ignore[return-value]
    if isinstance(item, tuple):
        return tuple(to(value, target, non_blocking=non_blocking) for value in item)  # type: ignore[return-value]
    return item
