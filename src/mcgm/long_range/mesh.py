"""Boxes with the same number of mesh points for every structure, and the pairs of atoms and points within a cutoff."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mcgm.batch import Batch
from mcgm.long_range.frame import Frame
from mcgm.long_range.reciprocal import about_centroid
from mcgm.long_range.selection import Selection
from mcgm.segments import take

Mesh = tuple[int, int, int]

OUTERMOST = 1e-9
"""Å within which atoms are outermost together: in float64, where rounding must not choose between equal ones."""


@dataclass(frozen=True, eq=False)
class Boxes:
    """A box around every molecule, or the cell of a crystal; and atoms where the box stands.

    `place` are positions relative to the centroid for molecules, positions as given for crystals; edges are rows.
    """

    place: Float[Tensor, "atom 3"]
    origin: Float[Tensor, "molecule 3"]
    edges: Float[Tensor, "molecule 3 3"]

    @classmethod
    def of(cls, batch: Batch, molecules: Selection, frame: Frame, margin: float) -> Boxes:
        """Molecules: from the outermost atoms along the axes of the frame, `margin` Å more on all sides."""
        origin = torch.zeros_like(batch.cell[:, 0])
        if not len(molecules):
            return cls(batch.positions, origin, batch.cell)
        arm = about_centroid(batch)
        is_open = ~batch.pbc.any(dim=1)[batch.molecule][:, None]
        padded = molecules.pad(arm)
        axes = frame(padded, molecules.present)
        low, high = outermost(padded @ axes, molecules.present)
        edges = (high - low + 2 * margin)[:, :, None] * axes.mT
        corner = ((low - margin)[:, None] @ axes.mT)[:, 0]
        return cls(
            place=torch.where(is_open, arm, batch.positions),
            origin=origin.index_copy(0, molecules.structure, corner),
            edges=batch.cell.index_copy(0, molecules.structure, edges),
        )


def outermost(
    place: Float[Tensor, "structure size 3"], present: Bool[Tensor, "structure size"]
) -> tuple[Float[Tensor, "structure 3"], Float[Tensor, "structure 3"]]:
    """Smallest and largest coordinates; atoms that share the place share the derivative."""
    width = max(OUTERMOST, 8 * torch.finfo(place.dtype).eps)
    found = []
    for sign in (-1.0, 1.0):
        with torch.no_grad():
            reach = (sign * place).masked_fill(~present[..., None], -torch.inf)
            edge = reach.amax(dim=1, keepdim=True)
            last = (reach >= edge - width * (1 + edge.abs())).to(place.dtype)
            share = last / last.sum(dim=1, keepdim=True)
        found.append((share * place).sum(dim=1))
    return found[0], found[1]


@dataclass(frozen=True, eq=False)
class MeshPairs:
    """Atoms and mesh points within a cutoff, images of points counted apart.

    `point` numbers the points of all structures through; `fraction` is where this image of it stands, in box edges.
    """

    atom: Int[Tensor, "pair"]
    point: Int[Tensor, "pair"]
    fraction: Float[Tensor, "pair 3"]
    points: int

    @classmethod
    def within(cls, batch: Batch, boxes: Boxes, mesh: Mesh, cutoff: float) -> MeshPairs:
        """Search; molecules have the points in their box alone, crystals all images."""
        is_open = ~batch.pbc.any(dim=1)
        found = [_search(batch, boxes, mesh, cutoff, chosen) for chosen in (is_open, ~is_open)]
        atom, point, fraction = (torch.cat(parts) for parts in zip(*found, strict=True))
        return cls(atom, point, fraction, batch.n_molecules * math.prod(mesh))

    def vectors(self, boxes: Boxes, molecule: Int[Tensor, "atom"]) -> Float[Tensor, "pair 3"]:
        """From point to atom, Å; differentiable in positions and cell."""
        structure = take(molecule, self.atom)
        point = take(boxes.origin, structure) + torch.einsum("pa,pax->px", self.fraction, take(boxes.edges, structure))
        return take(boxes.place, self.atom) - point


def _search(
    batch: Batch, boxes: Boxes, mesh: Mesh, cutoff: float, chosen: Bool[Tensor, "molecule"]
) -> tuple[Int[Tensor, "pair"], Int[Tensor, "pair"], Float[Tensor, "pair 3"]]:
    """Pairs of the chosen structures, which are all open or all periodic."""
    atom = torch.nonzero(chosen[batch.molecule]).flatten()
    if not len(atom):
        return atom, atom, batch.positions.new_zeros(0, 3)
    structure = batch.molecule[atom]
    periodic = bool(batch.pbc[structure[0]].any())
    count = torch.tensor(mesh, device=batch.device)
    edges = boxes.edges.double()
    inverse = torch.linalg.inv(edges)
    # mesh planes per Å, at most, between opposite faces
    density = torch.linalg.vector_norm(inverse[chosen], dim=1).amax(0) * count
    inside = torch.einsum(
        "ax,axy->ay", (boxes.place[atom] - boxes.origin[structure]).double(), take(inverse, structure)
    )
    place = inside * count - 0.5
    candidates = [
        _candidates(place[:, axis], mesh[axis], math.ceil(cutoff * float(density[axis])), periodic) for axis in range(3)
    ]
    steps = [
        ((numbers - place[:, axis, None]) / mesh[axis])[:, :, None] * edges[structure, axis][:, None]
        for axis, numbers in enumerate(candidates)
    ]
    vector = steps[0][:, :, None, None] + steps[1][:, None, :, None] + steps[2][:, None, None, :]
    near = vector.square().sum(-1) < cutoff**2
    row, *chosen_numbers = torch.nonzero(near, as_tuple=True)
    number = torch.stack([numbers[row, k] for numbers, k in zip(candidates, chosen_numbers, strict=True)], dim=1)
    wrapped = number % count
    point = (wrapped[:, 0] * mesh[1] + wrapped[:, 1]) * mesh[2] + wrapped[:, 2]
    fraction = ((number.double() + 0.5) / count).to(batch.positions.dtype)
    return atom[row], structure[row] * math.prod(mesh) + point, fraction


def _candidates(
    place: Float[Tensor, "member"], count: int, reach: int, periodic: bool
) -> Int[Tensor, "member candidate"]:
    """Numbers along one axis of points that may be within `reach` of an atom: those around it, or all there are."""
    if not periodic:
        return torch.arange(count, device=place.device).expand(len(place), -1)
    around = torch.arange(1 - reach, reach + 1, device=place.device)
    return torch.floor(place).long()[:, None] + around
