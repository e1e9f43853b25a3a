"""How often hard clusters change along a path, what each change costs, and how near the next one is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from mcgm.long_range.base import Clusters
from mcgm.long_range.mcgm.assignment import Assignment, Nodes, split
from mcgm.long_range.mcgm.clusterers import KMeansPlusPlus
from mcgm.long_range.mcgm.hierarchy import Hierarchy
from mcgm.potential import Potential, Prediction
from mcgm.segments import segment_count
from mcgm.structure import Structure
from mcgm.testing.derivatives import path_through
from mcgm.testing.predict import collate, in_double

CHUNK = 64
"""Frames evaluated together."""


@dataclass(frozen=True, eq=False)
class FlipScan:
    """Changes of hard clusters along a straight path, and what they cost.

    Attributes:
        residual: dE + F·dr of every step, eV: what the energy changes beyond the work of the forces.
        flipped: steps between whose ends any node of any level and layer changed its company.
        length: Å.
        margin: of the structure itself; see `flip_scan`.
        smallest_margin: along the path.
    """

    residual: np.ndarray
    flipped: np.ndarray
    length: float
    margin: float
    smallest_margin: float

    @property
    def flips_per_angstrom(self) -> float:
        """Steps with a flip, per Å of path."""
        return float(self.flipped.sum() / self.length)

    @property
    def mean_step(self) -> float:
        """Mean |dE + F·dr| of the steps with a flip, eV; zero if there is none."""
        return float(np.abs(self.residual[self.flipped]).mean()) if self.flipped.any() else 0.0

    @property
    def largest_step(self) -> float:
        """Largest |dE + F·dr| of the steps with a flip, eV; zero if there is none."""
        return float(np.abs(self.residual[self.flipped]).max(initial=0.0))

    @property
    def largest_elsewhere(self) -> float:
        """Largest |dE + F·dr| of the steps without a flip, eV: far below `largest_step` if flips explain the jumps."""
        return float(np.abs(self.residual[~self.flipped]).max(initial=0.0))

    def __str__(self) -> str:
        return (
            f"{self.flips_per_angstrom:.1f} flips/Å over {self.length:.2f} Å; energy steps {1000 * self.mean_step:.3g} "
            f"meV mean, {1000 * self.largest_step:.3g} meV largest, {1000 * self.largest_elsewhere:.1g} meV elsewhere; "
            f"margin {self.margin:.1%} at the structure, {self.smallest_margin:.1%} at least"
        )


def flip_scan(
    potential: Potential, structure: Structure, *, steps: int = 2000, step: float = 5e-4, seed: int = 0
) -> FlipScan:
    """Follow the path of `path_scan` with the same arguments, in float64, and compare the clusters of its frames.

    Clusters are compared by who is together, not by their numbers. Soft assignments change without a flip and do not
    count. Several flips within one step count once.

    The margin of a node under K-means is 1 - (distance to the nearest centroid) / (distance to the next one) in feature
    space: 0 half way, 1 on a centroid or without another. The smallest over all nodes, levels and layers is given; 1
    for a potential without K-means. A wide margin does not exclude a flip: seeds can change too.
    """
    potential = in_double(potential)
    frames, direction = path_through(structure, steps=steps, step=step, seed=seed)
    energies: list[np.ndarray] = []
    slopes: list[np.ndarray] = []
    companies: list[Company] = []
    margins = [1.0]
    for start in range(0, len(frames), CHUNK):
        part = frames[start : start + CHUNK]
        batch = collate(potential, part)
        with _margins(potential, margins):
            prediction = potential(batch, forces=True, stress=False)
        energies.append(prediction.energy.cpu().numpy())
        forces = prediction.forces.cpu().numpy().reshape(len(part), *direction.shape)
        slopes.append((forces * direction).sum((1, 2)))
        companies += _companies(prediction, segment_count(batch.molecule, len(part)))
    slope = np.concatenate(slopes)
    return FlipScan(
        residual=np.diff(np.concatenate(energies)) + step * (slope[1:] + slope[:-1]) / 2,
        flipped=np.array([a != b for a, b in pairwise(companies)]),
        length=steps * step,
        margin=cluster_margin(potential, structure),
        smallest_margin=min(margins),
    )


def cluster_margin(potential: Potential, structure: Structure) -> float:
    """How far the structure is from another cluster for some node: see `flip_scan`."""
    potential = in_double(potential)
    margins = [1.0]
    with torch.no_grad(), _margins(potential, margins):
        potential(collate(potential, [structure]), forces=False)
    return min(margins)


@contextmanager
def _margins(potential: nn.Module, found: list[float]) -> Iterator[None]:
    """Adds the smallest margin of every K-means that runs inside to `found`."""
    handles: list[Any] = []
    for hierarchy in (module for module in potential.modules() if isinstance(module, Hierarchy)):
        levels = [level for level, rule in enumerate(hierarchy.rules) if isinstance(rule, KMeansPlusPlus)]
        for exchange in hierarchy.exchanges:
            for level in levels:
                rules: Any = exchange.rules
                handles.append(rules[level].register_forward_hook(partial(_add_margin, found)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _add_margin(found: list[float], module: nn.Module, arguments: tuple[Any, ...], assignment: Assignment) -> None:
    features, members, clusters, *_ = arguments
    found.append(float(_relative_margin(features.detach(), members, clusters, assignment).min()))


def _relative_margin(
    features: Float[Tensor, "node channel"], members: Nodes, clusters: Nodes, assignment: Assignment
) -> Float[Tensor, "node"]:
    """1 - nearest / second nearest distance to a centroid of the node's own group; empty clusters have none."""
    centres = assignment.mean(features)
    distance = torch.cdist(features, centres)
    empty = segment_count(assignment.cluster, assignment.clusters) == 0
    elsewhere = members.group[:, None] != clusters.group[None, :]
    distance = distance.masked_fill(elsewhere | empty, torch.inf)
    if distance.shape[1] == 1:
        return torch.ones_like(distance[:, 0])
    nearest, second = distance.topk(2, largest=False, sorted=True).values.unbind(1)
    return torch.where(second > 0, 1 - nearest / second, torch.zeros_like(second))


Company = tuple[tuple[int, ...], ...]
"""Who is together, level by level and layer by layer, in numbers that do not depend on the clusters' own ones."""


def _companies(prediction: Prediction, sizes: Tensor) -> list[Company]:
    """The company of each structure of a batch."""
    layers = [_levels_of_each(levels, sizes) for levels in prediction.clusters]
    if not layers:
        return [()] * len(sizes)
    return [tuple(row for layer in layers for row in _company(layer[k])) for k in range(len(sizes))]


def _levels_of_each(levels: Sequence[Clusters], sizes: Tensor) -> list[list[Assignment]]:
    """Assignments by structure and level."""
    members, parts = sizes, []
    for level in levels:
        count = segment_count(level.molecule, len(sizes))
        parts.append(split(level.assignment, members, count))
        members = count
    return [list(item) for item in zip(*parts, strict=True)]


def _company(levels: Sequence[Assignment]) -> list[tuple[int, ...]]:
    """Cluster of each node, level by level; nodes and clusters are numbered by the first atom that they hold.

    Nodes without atoms come last; the number of soft clusters is fixed, so they keep their own numbers.
    """
    rows: list[tuple[int, ...]] = []
    order = np.arange(levels[0].members)
    for assignment in levels:
        if not assignment.is_hard:
            order = np.arange(assignment.clusters)
            continue
        label = assignment.labels.cpu().numpy()[order]
        names, first = np.unique(label, return_index=True)
        by_first = names[np.argsort(first)]
        empty = np.setdiff1d(np.arange(assignment.clusters), names)
        order = np.concatenate([by_first, empty])
        number = np.empty_like(order)
        number[order] = np.arange(len(order))
        rows.append(tuple(number[label].tolist()))
    return rows
