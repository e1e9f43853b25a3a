"""Shortest vectors of a lattice, and how many neighbours a structure would have: asked before pairs are searched."""

from __future__ import annotations

import math

import numpy as np
from ase.geometry import minkowski_reduce
from jaxtyping import Float, Int

from mcgm.errors import StructureError
from mcgm.structure import Structure

DENSEST = 1.0
"""Atoms per Å³; no material has more (diamond has 0.18, hydrogen at 500 GPa about 0.7)."""

FEW_NEIGHBORS = 1000
"""Neighbours per atom that are accepted at any density."""

FARTHEST = 1e7
"""Å; a float64 resolves 2e-9 Å there."""

SAMPLED = 8
"""Atoms whose neighbours are counted to estimate those of all."""


def reduced_cell(structure: Structure) -> tuple[Float[np.ndarray, "3 3"], Int[np.ndarray, "3 3"]]:
    """Cell of the same lattice with the shortest vectors (Å), zeros along open axes; and the integers that make it.

    A skewed cell may have vectors a thousand times longer than its lattice needs; searching it takes as much longer.
    Source: Minkowski reduction, Nguyen & Stehlé, doi:10.1145/1597036.1597050 (in ASE).

    Raises:
        StructureError: the vectors are parallel to working precision.
    """
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


def heights(cell: Float[np.ndarray, "3 3"], pbc: np.ndarray) -> Float[np.ndarray, "3"]:
    """Distance (Å) between opposite faces along each periodic axis; infinite along open ones."""
    length = np.full(3, np.inf)
    length[pbc] = 1 / np.linalg.norm(np.linalg.pinv(cell[pbc]), axis=0)
    return length


def translations(reach: Int[np.ndarray, "3"]) -> Int[np.ndarray, "image 3"]:
    """All combinations of -reach..reach along the three axes."""
    axes = [np.arange(-int(k), int(k) + 1) for k in reach]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def refuse_coarse(structure: Structure, cell: Float[np.ndarray, "3 3"], image: Int[np.ndarray, "edge 3"]) -> None:
    """Refuse images so many cell vectors away that float64 does not resolve where they are; `cell` is the reduced one.

    Raises:
        StructureError: some image is more than `FARTHEST` Å away along the vectors of the structure's own cell.
    """
    reach = (np.abs(image) @ np.linalg.norm(structure.cell, axis=1)).max(initial=0.0)
    if reach > FARTHEST:
        raise StructureError(
            f"{structure}: its neighbours are sums of cell vectors {reach:.1g} Å long, which rounds them by "
            f"{reach * np.finfo(np.float64).eps:.1g} Å; required: at most {FARTHEST:g} Å. The same lattice has shorter "
            f"vectors: {cell.round(6).tolist()}. Give those, and wrap the atoms into that cell."
        )


def refuse_dense(structure: Structure, cell: Float[np.ndarray, "3 3"], cutoff: float) -> None:
    """Refuse a structure with more neighbours within the cutoff (Å) than any material: they would fill the memory.

    `cell` is the reduced one. The count is that of `SAMPLED` atoms, exact up to `FEW_NEIGHBORS` atoms and images.

    Raises:
        StructureError: more than `FEW_NEIGHBORS`, and denser than `DENSEST`.
    """
    most = max(FEW_NEIGHBORS, DENSEST * 4 / 3 * math.pi * cutoff**3)
    reach = np.floor(cutoff / heights(cell, structure.pbc) + 0.5)
    images = float(np.prod(2 * reach + 1))
    if len(structure) * images <= most:
        return
    if images > 16 * most:  # too many to list; a ball fills about half of the block that holds it
        mean = images / 2 * len(structure)
    else:
        mean = _sampled_neighbors(structure, cell, cutoff, translations(reach) @ cell)
    if mean > most:
        raise StructureError(
            f"{structure}: about {mean:,.0f} neighbours per atom within {cutoff:g} Å, {mean * len(structure):,.0f} in "
            f"all; required: at most {most:,.0f}, more than any material has. "
            + (f"The cell is {structure.cell.tolist()} Å: is" if structure.pbc.any() else "Is")
            + " the unit of length right?"
        )


def _sampled_neighbors(
    structure: Structure, cell: Float[np.ndarray, "3 3"], cutoff: float, shifts: Float[np.ndarray, "image 3"]
) -> float:
    """Mean number of neighbours of a few atoms, by their distances to all images of all atoms."""
    inverse = np.linalg.pinv(cell)
    chosen = np.unique(np.linspace(0, len(structure) - 1, SAMPLED).astype(int))
    count = 0
    for atom in chosen:
        vector = structure.positions - structure.positions[atom]
        vector = vector - np.round(vector @ inverse) @ cell
        for some in np.array_split(shifts, math.ceil(len(vector) * len(shifts) / 1e6)):
            moved = vector[:, None] + some
            count += int((np.einsum("aix,aix->ai", moved, moved) < cutoff**2).sum())
    return count / len(chosen) - 1  # an atom is not its own neighbour
