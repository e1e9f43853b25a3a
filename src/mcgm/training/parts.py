"""Labelled batches in parts: consecutive structures with their labels and their clusters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from mcgm.batch import Batch
from mcgm.long_range.base import Clusters
from mcgm.long_range.mcgm.assignment import Assignment, join, split
from mcgm.potential import Potential, Prediction
from mcgm.segments import segment_count
from mcgm.splitting import Splitter, Work, part_of, structure_of
from mcgm.structure import Structure
from mcgm.training.batches import Collate, LabelledBatch

T = TypeVar("T")

Hierarchies = tuple[tuple[Assignment, ...], ...]
"""Assignments by layer and level, as `Potential.forward` takes them."""


@dataclass(frozen=True, eq=False)
class Portion:
    """Consecutive structures of a step's batch; `clusters` of each of them where they are prescribed."""

    data: LabelledBatch
    clusters: Sequence[Hierarchies] = ()

    def __len__(self) -> int:
        return len(self.data)

    def part(self, first: int, last: int) -> Portion:
        """Structures first..last-1."""
        if (first, last) == (0, len(self)):
            return self
        data = self.data
        start, stop = (int(data.sizes[:k].sum()) for k in (first, last))
        chosen = LabelledBatch(
            batch=part_of(data.batch, first, last),
            energy=data.energy[first:last],
            sizes=data.sizes[first:last],
            forces=data.forces[start:stop],
            has_forces=data.has_forces[start:stop],
            charges=data.charges[start:stop],
            has_charges=data.has_charges[start:stop],
            dipole=data.dipole[first:last],
            has_dipole=data.has_dipole[first:last],
            stress=data.stress[first:last],
            has_stress=data.has_stress[first:last],
            names=data.names[first:last],
        )
        return Portion(chosen, self.clusters[first:last])

    @property
    def prescribed(self) -> Hierarchies | None:
        """The clusters of these structures side by side, if any."""
        if not self.clusters:
            return None
        layers = zip(*self.clusters, strict=True)
        return tuple(tuple(join(level) for level in zip(*layer, strict=True)) for layer in layers)


def in_parts(splitter: Splitter, potential: Potential, whole: Portion, do: Callable[[Portion], T]) -> Iterator[T]:
    """What `do` gives for a batch: at once, or part by part where it does not fit into memory.

    Raises:
        TooLargeError: a structure alone does not fit.
    """

    def trial(structure: Structure) -> T:
        atoms = len(structure)
        labels = {"energy": 0.0, "forces": np.zeros((atoms, 3)), "charges": np.zeros(atoms), "dipole": np.zeros(3)}
        data = Collate(potential, potential.dtype)([structure.replace(**labels, stress=np.zeros((3, 3)))])
        return do(Portion(data.to(potential.device)))

    data = whole.data
    work = Work(
        sizes=[int(size) for size in data.sizes],
        part=lambda first, last: do(whole.part(first, last)),
        structure=lambda k: structure_of(data.batch, k, data.names[k]),
        trial=trial,
    )
    return splitter.run(work)


Predictor = Callable[..., Prediction]
"""A potential, or its `forward`."""


def predicted(potential: Predictor, batch: Batch, *, forces: bool, stress: bool, **options: Any) -> Prediction:
    """What is asked for, and no more: stress without forces, too."""
    prediction = potential(batch, forces=forces or stress, stress=stress, **options)
    return prediction if forces else replace(prediction, forces=None)


def by_structure(clusters: tuple[tuple[Clusters, ...], ...], batch: Batch) -> list[Hierarchies]:
    """The assignments of each structure of a batch, numbered from zero: what `Portion.clusters` holds."""
    layers = []
    for levels in clusters:
        members = segment_count(batch.molecule, batch.n_molecules)
        separate = []
        for level in levels:
            count = segment_count(level.molecule, batch.n_molecules)
            separate.append(split(level.assignment, members, count))
            members = count
        layers.append(list(zip(*separate, strict=True)))
    return [tuple(layer) for layer in zip(*layers, strict=True)]
