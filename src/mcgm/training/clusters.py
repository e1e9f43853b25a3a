"""Which cluster each atom of a few molecules belongs to: for the three-dimensional view of the report."""

from __future__ import annotations

import numpy as np
import torch
from ase.data import chemical_symbols
from jaxtyping import Float, Int
from torch import Tensor

from mcgm.batch import Batch
from mcgm.data import Dataset
from mcgm.long_range.base import Clusters
from mcgm.potential import Potential
from mcgm.report.predictions import ClusteredMolecule, ClusterLevel
from mcgm.segments import take
from mcgm.structure import Structure

SHOWN = 4
"""molecules in the view."""


def clustered_molecules(potential: Potential, dataset: Dataset, *, count: int = SHOWN) -> list[ClusteredMolecule]:
    """The clusters at the last layer, for structures of different molecules from the smallest to the largest."""
    return [_clustered(potential, dataset[k], k) for k in _chosen(dataset, count)]


def _chosen(dataset: Dataset, count: int) -> list[int]:
    """First structure of each group, spread over the sizes; groups are told apart by name where there are none."""
    groups = np.where(dataset.groups == "", dataset.names, dataset.groups)
    _, first = np.unique(groups, return_index=True)
    by_size = first[np.lexsort((first, dataset.sizes[first]))]
    places = np.linspace(0, len(by_size) - 1, min(count, len(by_size))).round().astype(int)
    return [int(by_size[k]) for k in places]


def _clustered(potential: Potential, structure: Structure, place: int) -> ClusteredMolecule:
    batch = Batch.from_structures([structure], cutoff=potential.cutoff, dtype=potential.dtype).to(potential.device)
    with torch.no_grad():
        prediction = potential(batch, forces=False)
    last = prediction.clusters[-1] if prediction.clusters else ()
    return ClusteredMolecule(
        name=structure.name or f"structure {place}",
        numbers=tuple(int(z) for z in structure.numbers),
        positions=plain_positions(structure),
        levels=cluster_levels(last, structure.numbers),
    )


def plain_positions(structure: Structure) -> tuple[tuple[float, ...], ...]:
    """Å, rounded for a page."""
    return tuple(tuple(round(float(x), 4) for x in row) for row in structure.positions)


def atom_labels(levels: tuple[Clusters, ...]) -> tuple[Int[Tensor, "atom"], ...]:
    """The cluster of each atom at every level of one layer: largest weights, followed upwards from the atoms."""
    labels: list[Tensor] = []
    for clusters in levels:
        upwards = clusters.assignment.labels
        labels.append(take(upwards, labels[-1]) if labels else upwards)
    return tuple(labels)


def cluster_levels(levels: tuple[Clusters, ...], numbers: np.ndarray) -> tuple[ClusterLevel, ...]:
    """Labels of one structure's atoms, followed upwards level by level, with the weight of each last step."""
    found = []
    node = torch.arange(len(numbers))
    for clusters, labels in zip(levels, atom_labels(levels), strict=True):
        assignment = clusters.assignment
        weight = take(_largest_weight(assignment.weight.cpu(), assignment.member.cpu(), assignment.members), node)
        node = labels.cpu()
        found.append(
            ClusterLevel(
                label=tuple(node.tolist()),
                weight=tuple(round(float(w), 4) for w in weight),
                names=_element_names(node.numpy(), numbers),
            )
        )
    return tuple(found)


def _largest_weight(weight: Float[Tensor, "row"], member: Int[Tensor, "row"], members: int) -> Float[Tensor, "member"]:
    return weight.new_zeros(members).scatter_reduce(0, member, weight, "amax")


def _element_names(label: np.ndarray, numbers: np.ndarray) -> tuple[str, ...]:
    """Element symbols, where every cluster holds the atoms of one element and all of them."""
    elements = [np.unique(numbers[label == k]) for k in range(int(label.max()) + 1)]
    if any(len(found) != 1 for found in elements) or len(elements) != len(np.unique(numbers)):
        return ()
    return tuple(chemical_symbols[int(found[0])] for found in elements)
