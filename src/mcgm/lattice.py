"""Shortest vectors of a lattice, and how many neighbours a structure would have: asked before pairs are searched."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from ase.geometry import complete_cell, minkowski_reduce
from jaxtyping import Float, Int

from mcgm.errors import StructureError
from mcgm.structure import Structure

DENSEST = 1.0
"""Atoms per Å³; no material has more (diamond has 0.18, hydrogen at 500 GPa about 0.7)."""

FEW_NEIGHBORS = 1000
"""Neighbours per atom that are accepted at any density."""

FARTHEST = 1e7
"""Å; a float64 resolves 2e-9 Å there."""

MOST_BOXES = 1_000_000
"""Boxes whose atoms are counted."""

SAMPLED = 8
"""Atoms whose neighbours are counted to estimate those of all."""


class Lattice(NamedTuple):
    """The shortest vectors of a structure's lattice, as rows of `cell` (Å), zeros along open axes.

    `cell` is `operation` times the structure's own; `inverse` gives places in it; `height` (Å) is the distance between
    opposite faces, infinite along open axes. A skewed cell may have vectors a thousand times longer than its lattice
    needs; searching it takes as much longer.
    Source: Minkowski reduction, Nguyen & Stehlé, doi:10.1145/1597036.1597050 (in ASE).
    """

    cell: Float[np.ndarray, "3 3"]
    operation: Int[np.ndarray, "3 3"]
    inverse: Float[np.ndarray, "3 3"]
    height: Float[np.ndarray, "3"]

    @classmethod
    def of(cls, structure: Structure) -> Lattice:
        """Of a structure, periodic along any number of axes.

        Raises:
            StructureError: the vectors are parallel to working precision.
        """
        if not structure.pbc.any():
            return cls(np.zeros((3, 3)), np.eye(3, dtype=np.int64), np.zeros((3, 3)), np.full(3, np.inf))
        cell, operation = _reduced(structure)
        inverse = np.linalg.pinv(cell) * structure.pbc  # exactly no place along open axes
        height = np.full(3, np.inf)
        height[structure.pbc] = 1 / np.linalg.norm(inverse[:, structure.pbc], axis=0)
        return cls(cell, operation, inverse, height)


def _reduced(structure: Structure) -> tuple[Float[np.ndarray, "3 3"], Int[np.ndarray, "3 3"]]:
    cell = np.where(structure.pbc[:, None], structure.cell, 0.0)
    if structure.pbc.sum() < 2:
        return cell, np.eye(3, dtype=np.int64)
    try:
        reduced, operation = minkowski_reduce(cell, structure.pbc)
    except RuntimeError as error:
        raise StructureError(
            f"{structure}: the periodic cell vectors are nearly parallel: {structure.cell.tolist()}. Give a cell whose "
            "vectors span a volume."
        ) from error
    return np.where(structure.pbc[:, None], reduced, 0.0), np.asarray(operation, dtype=np.int64)


def translations(reach: Int[np.ndarray, "3"]) -> Int[np.ndarray, "image 3"]:
    """All combinations of -reach..reach along the three axes."""
    axes = [np.arange(-int(k), int(k) + 1) for k in reach]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def refuse_coarse(structure: Structure, lattice: Lattice, image: Int[np.ndarray, "edge 3"]) -> None:
    """Refuse images so many cell vectors away that float64 does not resolve where they are.

    Raises:
        StructureError: some image is more than `FARTHEST` Å away along the vectors of the structure's own cell.
    """
    length = np.linalg.norm(structure.cell, axis=1)
    if max(image.max(), -image.min()) * length.sum() <= FARTHEST:  # no need to look at each
        return
    reach = (np.abs(image) @ length).max()
    if reach > FARTHEST:
        raise StructureError(
            f"{structure}: its neighbours are sums of cell vectors {reach:.1g} Å long, which rounds them by "
            f"{reach * np.finfo(np.float64).eps:.1g} Å; required: at most {FARTHEST:g} Å. The same lattice has shorter "
            f"vectors: {lattice.cell.round(6).tolist()}. Give those, and wrap the atoms into that cell."
        )


def refuse_dense(structure: Structure, lattice: Lattice, cutoff: float) -> None:
    """Refuse a structure with more neighbours within the cutoff (Å) than any material: they would fill the memory.

    The count is that of `SAMPLED` atoms, exact up to `FEW_NEIGHBORS` atoms and images.

    Raises:
        StructureError: more than `FEW_NEIGHBORS`, and denser than `DENSEST`.
    """
    most = max(FEW_NEIGHBORS, DENSEST * 4 / 3 * math.pi * cutoff**3)
    reach = np.floor(cutoff / lattice.height + 0.5)
    images = float(np.prod(2 * reach + 1))
    if len(structure) * images <= most or _most_neighbors(structure, lattice, cutoff) <= most:
        return
    if images > 16 * most:  # too many to list; a ball fills about half of the block that holds it
        mean = images / 2 * len(structure)
    else:
        mean = _sampled_neighbors(structure, lattice, cutoff, translations(reach) @ lattice.cell)
    if mean > most:
        raise StructureError(
            f"{structure}: about {mean:,.0f} neighbours per atom within {cutoff:g} Å, {mean * len(structure):,.0f} in "
            f"all; required: at most {most:,.0f}, more than any material has. "
            + (f"The cell is {structure.cell.tolist()} Å: is" if structure.pbc.any() else "Is")
            + " the unit of length right?"
        )


def _most_neighbors(structure: Structure, lattice: Lattice, cutoff: float) -> float:
    """A bound from boxes at least as wide as the cutoff: no atom has more neighbours than the fullest box and those
    around it could hold. Infinite where atoms are spread over too many boxes."""
    periodic = structure.pbc
    boxes = np.maximum(np.floor(lattice.height / cutoff), 1.0)
    place = structure.positions.T.copy()
    if periodic.any():
        place = np.linalg.inv(complete_cell(lattice.cell)).T @ place
    index, shape, reach = np.zeros(len(structure)), [], 1.0
    for axis in range(3):
        if periodic[axis]:
            along = np.floor((place[axis] - np.floor(place[axis])) * boxes[axis])
            reach *= 2 * math.ceil(cutoff * boxes[axis] / lattice.height[axis]) + 1
        else:
            along = np.floor((place[axis] - place[axis].min()) / cutoff)
            reach *= 3
        shape.append(float(along.max()) + 1)
        index = index * shape[-1] + along
    if math.prod(shape) > MOST_BOXES:
        return math.inf
    return float(np.bincount(index.astype(np.int64)).max() * reach)


def _sampled_neighbors(
    structure: Structure, lattice: Lattice, cutoff: float, shifts: Float[np.ndarray, "image 3"]
) -> float:
    """Mean number of neighbours of a few atoms, by their distances to all images of all atoms."""
    chosen = np.unique(np.linspace(0, len(structure) - 1, SAMPLED).astype(int))
    count = 0
    for atom in chosen:
        vector = structure.positions - structure.positions[atom]
        vector = vector - np.round(vector @ lattice.inverse) @ lattice.cell
        for some in np.array_split(shifts, math.ceil(len(vector) * len(shifts) / 1e6)):
            moved = vector[:, None] + some
            count += int((np.einsum("aix,aix->ai", moved, moved) < cutoff**2).sum())
    return count / len(chosen) - 1  # an atom is not its own neighbour
