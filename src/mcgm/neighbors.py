"""Which atoms are within the cutoff of each other, and the vectors between them. No neighbour cap anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import vesin
from jaxtyping import Float, Int
from torch import Tensor

from mcgm.errors import StructureError
from mcgm.segments import take
from mcgm.structure import Structure

TOO_CLOSE = 0.1
"""Å; two atoms nearer than this are taken for a mistake in the file."""

DENSE_UP_TO = 160
"""Open molecules up to this many atoms are searched together as one padded array; larger ones by cell lists."""


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


class Pairs(NamedTuple):
    """Pairs of one or more structures as arrays, with atoms numbered through."""

    target: np.ndarray
    source: np.ndarray
    image: np.ndarray


def find_neighbors(structures: Sequence[Structure], cutoff: float) -> Neighbors:
    """All pairs closer than the cutoff (Å) in each structure, atoms numbered through the batch.

    Raises:
        StructureError: two atoms of one structure are closer than 0.1 Å.
    """
    offsets = np.cumsum([0, *(len(structure) for structure in structures)])
    small = [k for k, s in enumerate(structures) if not s.pbc.any() and len(s) <= DENSE_UP_TO]
    large = [k for k in range(len(structures)) if k not in set(small)]
    parts = [_search_cells(structures[k], cutoff, offsets[k]) for k in large]
    if small:
        parts.append(_search_dense([structures[k] for k in small], cutoff, offsets[:-1][small]))
    target = np.concatenate([part.target for part in parts])
    order = np.argsort(target, kind="stable") if len(parts) > 1 else slice(None)
    image = np.concatenate([part.image for part in parts])[order]
    return Neighbors(
        source=torch.from_numpy(np.concatenate([part.source for part in parts])[order]),
        target=torch.from_numpy(target[order]),
        image=torch.from_numpy(image),
        crossing=torch.from_numpy(np.flatnonzero(image.any(axis=1))),
    )


def _search_cells(structure: Structure, cutoff: float, offset: int) -> Pairs:
    search = vesin.NeighborList(cutoff=cutoff, full_list=True, sorted=True)
    i, j, image, distance = search.compute(structure.positions, structure.cell, structure.pbc, "ijSd")
    _refuse_overlaps(structure, i, j, distance)
    i, j, image = _canonical(i.astype(np.int64), j.astype(np.int64), image.astype(np.int64))
    return Pairs(i + offset, j + offset, image)


def _canonical(i: np.ndarray, j: np.ndarray, image: np.ndarray) -> Pairs:
    order = np.lexsort((image[:, 2], image[:, 1], image[:, 0], j, i))
    return Pairs(i[order], j[order], image[order])


def _search_dense(structures: Sequence[Structure], cutoff: float, offsets: np.ndarray) -> Pairs:
    """Every pair of every open molecule in one padded array."""
    sizes = np.array([len(structure) for structure in structures])
    inside = np.arange(sizes.max())[None, :] < sizes[:, None]
    positions = np.zeros((*inside.shape, 3))
    positions[inside] = np.concatenate([structure.positions for structure in structures])
    padded = torch.from_numpy(positions)
    distance = torch.cdist(padded, padded, compute_mode="donot_use_mm_for_euclid_dist").numpy()
    pair = (distance < cutoff) & inside[:, :, None] & inside[:, None, :]
    diagonal = np.arange(inside.shape[1])
    pair[:, diagonal, diagonal] = False
    molecule, i, j = np.nonzero(pair)
    near = np.flatnonzero(distance[molecule, i, j] < TOO_CLOSE)
    if len(near):
        k = near[0]
        _refuse_overlaps(structures[molecule[k]], i[k : k + 1], j[k : k + 1], distance[molecule, i, j][k : k + 1])
    return Pairs(i + offsets[molecule], j + offsets[molecule], np.zeros((len(i), 3), dtype=np.int64))


def _refuse_overlaps(structure: Structure, i: np.ndarray, j: np.ndarray, distance: np.ndarray) -> None:
    near = np.flatnonzero(distance < TOO_CLOSE)
    if len(near):
        k = near[0]
        raise StructureError(
            f"{structure}: atoms {i[k]} and {j[k]} are {distance[k]:.4f} Å apart; required: at least {TOO_CLOSE} Å. "
            "Remove the duplicate atom, or check the unit of length."
        )


def edge_vectors(
    neighbors: Neighbors,
    positions: Float[Tensor, "atom 3"],
    cell: Float[Tensor, "molecule 3 3"],
    molecule: Int[Tensor, "atom"],
) -> Edges:
    """Vectors and lengths of the pairs, differentiable in positions and cell."""
    vector = take(positions, neighbors.source) - take(positions, neighbors.target)
    crossing = neighbors.crossing
    lattice = take(cell, molecule[neighbors.target[crossing]])
    shift = torch.einsum("ea,eab->eb", neighbors.image[crossing].to(cell.dtype), lattice)
    vector = vector.index_add(0, crossing, shift)
    return Edges(neighbors.source, neighbors.target, vector, torch.linalg.vector_norm(vector, dim=-1))
