"""Which atoms are within the cutoff of each other, and the vectors between them. No neighbour cap anywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
import vesin
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from mcgm.errors import StructureError
from mcgm.lattice import Lattice, refuse_coarse, refuse_dense, translations
from mcgm.ordered_pairs import Pairs, both_directions
from mcgm.segments import take
from mcgm.structure import Structure

TOO_CLOSE = 0.1
"""Å; two atoms nearer than this are taken for a mistake in the file."""

DENSE_UP_TO = 160
"""Open molecules up to this many atoms are searched together as one padded array; larger ones by cell lists."""

MOST_BOXES, MOST_OPEN_BOXES = 50_000, 200
"""Boxes of the cutoff's size, in all and along the open axes of a slab or wire; more are searched by a tree. Above
100,000 vesin 0.6 divides by zero (SIGFPE) where one axis is short; in slabs and wires empty space takes its time."""


@dataclass(frozen=True, eq=False)
class Neighbors:
    """Pairs within the cutoff, each in both directions, sorted by target.

    `image` counts the cell vectors to add to the source's position; `crossing` lists the edges where it is not zero.
    """

    source: Int[Tensor, "edge"]
    target: Int[Tensor, "edge"]
    image: Int[Tensor, "edge 3"]
    crossing: Int[Tensor, "crossing"]


@dataclass(frozen=True, eq=False)
class Edges:
    """Messages run from source to target; `vector` points from target to source, Å."""

    source: Int[Tensor, "edge"]
    target: Int[Tensor, "edge"]
    vector: Float[Tensor, "edge 3"]
    length: Float[Tensor, "edge"]


def find_neighbors(structures: Sequence[Structure], cutoff: float) -> Neighbors:
    """All pairs closer than the cutoff (Å) in each structure, atoms numbered through the batch.

    Raises:
        StructureError: two atoms of one structure are closer than 0.1 Å, or they have more neighbours than any
            material (see `mcgm.lattice.refuse_dense`); the latter is found before any pair is stored.
    """
    offsets = list(accumulate((len(structure) for structure in structures), initial=0))
    small, parts = [], []
    for k, structure in enumerate(structures):
        if len(structure) <= DENSE_UP_TO and not structure.pbc.any():
            small.append(k)
        else:
            parts.append(_search_cells(structure, cutoff).shifted(offsets[k]))
    if small:
        parts.append(_search_dense([structures[k] for k in small], cutoff, [offsets[k] for k in small]))
    pairs = parts[0] if len(parts) == 1 else Pairs.joined(parts)
    return Neighbors(*(torch.from_numpy(array) for array in (pairs.source, pairs.target, pairs.image, pairs.crossing)))


def _search_cells(structure: Structure, cutoff: float) -> Pairs:
    lattice, periodic = Lattice.of(structure), bool(structure.pbc.any())
    if periodic:
        _refuse_short_vectors(structure, lattice.cell)
    refuse_dense(structure, lattice, cutoff)
    inside, wraps = _wrapped(structure, lattice)
    if _needs_many_boxes(inside, lattice.height, cutoff):
        shifts = translations(np.floor(cutoff / lattice.height) + structure.pbc)
        i, j, image, distance = _search_images(inside, lattice.cell, shifts, cutoff)
    else:
        search = vesin.NeighborList(cutoff=cutoff, full_list=False, n_threads=torch.get_num_threads())
        # the other half, and the order, are quicker below
        both, image, distance = search.compute(inside, lattice.cell, structure.pbc, "PSd", copy=False)
        i, j = both.view(np.int64).T
    _refuse_overlaps(structure, i, j, distance)
    reach = math.ceil((cutoff / lattice.height).max()) + 1 if periodic else 0  # one more by rounding
    pairs = both_directions(i, j, image, reach, wraps, lattice.operation)
    if len(pairs.crossing):
        refuse_coarse(structure, lattice, pairs.image)
    return pairs


def _wrapped(structure: Structure, lattice: Lattice) -> tuple[Float[np.ndarray, "atom 3"], Int[np.ndarray, "atom 3"]]:
    """Positions (Å) inside the cell, and how many cell vectors each was outside.

    vesin 0.6 takes forever where atoms of a slab are many cells apart, as after dynamics.
    """
    if not structure.pbc.any():
        return structure.positions, np.zeros((len(structure), 3), dtype=np.int64)
    wraps = np.floor(structure.positions @ lattice.inverse).astype(np.int64)
    return structure.positions - wraps @ lattice.cell, wraps


def _needs_many_boxes(inside: Float[np.ndarray, "atom 3"], height: Float[np.ndarray, "3"], cutoff: float) -> bool:
    span = np.ptp(inside.T.copy(), axis=1)
    periodic = np.isfinite(height)
    extent = np.where(periodic, height, np.linalg.norm(span)) if periodic.any() else span
    boxes = np.maximum(extent / cutoff, 1.0)
    return bool(boxes.prod() > MOST_BOXES or (periodic.any() and boxes[~periodic].prod() > MOST_OPEN_BOXES))


def _search_images(
    inside: Float[np.ndarray, "atom 3"],
    cell: Float[np.ndarray, "3 3"],
    shifts: Int[np.ndarray, "image 3"],
    cutoff: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Each pair once, by a tree over atoms and their images: slower than boxes, but free space costs nothing."""
    images = (inside + (shifts @ cell)[:, None]).reshape(-1, 3)
    near = ((images > inside.min(axis=0) - cutoff) & (images < inside.max(axis=0) + cutoff)).all(axis=1)
    where = np.flatnonzero(near)
    found = cKDTree(inside).sparse_distance_matrix(cKDTree(images[near]), cutoff, output_type="ndarray")
    i, copy, distance = found["i"].astype(np.int64), where[found["j"]], found["v"]
    j, which = copy % len(inside), copy // len(inside)
    middle = len(shifts) // 2  # no translation; those after it are the opposites of those before
    once = (distance < cutoff) & ((i < j) | ((i == j) & (which > middle)))
    return i[once], j[once], shifts[which[once]], distance[once]


def _search_dense(structures: Sequence[Structure], cutoff: float, offsets: Sequence[int]) -> Pairs:
    """Every pair of every open molecule in one padded array."""
    width = max(len(structure) for structure in structures)
    padded = _padded(structures, width)
    squared = np.square(padded[0, :, :, None] - padded[0, :, None, :])
    along = np.empty_like(squared)
    for axis in padded[1:]:
        np.subtract(axis[:, :, None], axis[:, None, :], out=along)
        squared += np.square(along, out=along)
    squared.reshape(len(structures), -1)[:, :: width + 1] = np.inf  # an atom is not its own neighbour
    found = np.flatnonzero(squared < cutoff**2)
    if len(found) and squared.take(found).min() < TOO_CLOSE**2:
        k, i, j = (index[:1] for index in np.nonzero(squared < TOO_CLOSE**2))
        _refuse_overlaps(structures[int(k[0])], i, j, np.sqrt(squared[k, i, j]))
    target, source = _atoms(found, width, offsets)
    return Pairs(target, source, np.zeros((len(found), 3), dtype=np.int64), np.zeros(0, dtype=np.int64))


def _padded(structures: Sequence[Structure], width: int) -> Float[np.ndarray, "3 molecule atom"]:
    if len(structures) == 1:
        return structures[0].positions.T[:, None]
    sizes = np.array([len(structure) for structure in structures])
    padded = np.full((3, len(sizes), width), np.nan)  # nothing is near what is not there
    padded[:, np.arange(width) < sizes[:, None]] = np.concatenate([s.positions for s in structures]).T
    return padded


def _atoms(
    found: Int[np.ndarray, "edge"], width: int, offsets: Sequence[int]
) -> tuple[Int[np.ndarray, "edge"], Int[np.ndarray, "edge"]]:
    """Both atoms of entries of a padded array, in which the atoms of every molecule stand by themselves."""
    row = found // width  # of all molecules' atoms, padding included
    if len(offsets) == 1:
        target, source = row, found - row * width
        return (target + offsets[0], source + offsets[0]) if offsets[0] else (target, source)
    rows = np.arange(len(offsets) * width)
    first = np.repeat(offsets, width)
    return (first + rows % width)[row], found + (first - rows * width)[row]


def _refuse_overlaps(structure: Structure, i: np.ndarray, j: np.ndarray, distance: np.ndarray) -> None:
    near = np.flatnonzero(distance < TOO_CLOSE)
    if len(near):
        k = near[0]
        who = f"atoms {i[k]} and {j[k]}" if i[k] != j[k] else f"atom {i[k]} and its own periodic image"
        raise StructureError(
            f"{structure}: {who} are {distance[k]:.4f} Å apart; required: at least {TOO_CLOSE} Å. "
            "Remove the duplicate atom, or check the unit of length."
        )


def _refuse_short_vectors(structure: Structure, cell: np.ndarray) -> None:
    """A lattice vector is the distance of every atom from an image of itself."""
    length = np.linalg.norm(cell[structure.pbc], axis=1)
    if (length < TOO_CLOSE).any():
        raise StructureError(
            f"{structure}: atom 0 and its own periodic image are {length.min():.4g} Å apart; required: at least "
            f"{TOO_CLOSE} Å. The cell is {structure.cell.tolist()} Å: check its vectors and their unit."
        )


def edge_vectors(
    neighbors: Neighbors,
    positions: Float[Tensor, "atom 3"],
    cell: Float[Tensor, "molecule 3 3"],
    molecule: Int[Tensor, "atom"],
    rounding: Float[Tensor, "edge 3"] | None = None,
) -> Edges:
    """Vectors and lengths of the pairs, differentiable in positions and cell; `rounding` (Å) is added to them."""
    vector = pair_vectors(neighbors, positions, cell, molecule)
    if rounding is not None:
        vector = vector + rounding
    return Edges(neighbors.source, neighbors.target, vector, torch.linalg.vector_norm(vector, dim=-1))


def pair_vectors(
    neighbors: Neighbors,
    positions: Float[Tensor, "atom 3"],
    cell: Float[Tensor, "molecule 3 3"],
    molecule: Int[Tensor, "atom"],
) -> Float[Tensor, "edge 3"]:
    """From the target of each pair to its source (Å), periodic images included."""
    vector = take(positions, neighbors.source) - take(positions, neighbors.target)
    crossing = neighbors.crossing
    if crossing.shape[0] == 0:
        return vector
    lattice = take(cell, molecule[neighbors.target[crossing]])
    shift = torch.einsum("ea,eab->eb", neighbors.image[crossing].to(cell.dtype), lattice)
    return vector.index_add(0, crossing, shift)
