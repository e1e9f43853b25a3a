"""Which clusters a calculator uses: those of every frame, or those of the first one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import torch
from ase import Atoms

from mcgm.batch import Batch
from mcgm.errors import ConfigError, StructureError, unknown_name
from mcgm.long_range.mcgm.assignment import Assignment
from mcgm.potential import Potential, Prediction
from mcgm.structure import Structure


class ClusterChoice(ABC):
    """The choice, without any state: a calculator asks it for a source of its own."""

    @abstractmethod
    def source(self, potential: Potential) -> ClusterSource:
        """What the calculator keeps.

        Raises:
            ConfigError: the choice makes no sense for this potential.
        """


class ClusterSource(ABC):
    """The choice at work in one calculator."""

    potential: Potential
    """Whose clusters they are."""

    note: str
    """What `results["clusters"]` says."""

    is_smooth: bool
    """Whether the energy with these clusters is a smooth function of the positions."""

    @abstractmethod
    def predict(self, batch: Batch, *, stress: bool, name: str = "structure") -> Prediction:
        """Prediction with forces for the batch, which errors call by this name."""


@dataclass(frozen=True)
class FreshClusters(ClusterChoice):
    """Clusters are made anew for every frame, as in training; the energy is smooth if the potential is."""

    def source(self, potential: Potential) -> ClusterSource:
        """Holds nothing but the potential."""
        return _Fresh(potential)


@dataclass(frozen=True, eq=False)
class FrozenClusters(ClusterChoice):
    """Clusters of one frame for all later ones: with labels that cannot flip the energy is smooth, the force its slope.

    Atoms are known by their place in the list: keep their order. Also frozen is which atoms are one molecule
    (`scope="molecule"`). Labels describe the geometry where they were made; they grow stale as atoms move far.

    Args:
        at: the frame; default: the first one that is calculated. Give it to go on with an earlier run, whose energies
            would otherwise belong to other labels.

    Raises:
        ConfigError: by `source`, for a potential that is smooth already: frozen clusters would only make it worse.
        StructureError: at a calculation, for atoms of other number, elements or periodic axes than the frozen ones.
    """

    at: Atoms | None = None

    def source(self, potential: Potential) -> ClusterSource:
        """Holds the labels, once there are any."""
        if potential.is_smooth:
            raise ConfigError("clusters='frozen' is for potentials that jump; this one is smooth. Leave it out.")
        if not potential.has_labels:
            why = potential.not_promised.get("smooth", "its block has no clusters")
            raise ConfigError(f"clusters='frozen' freezes labels of clusters, and this potential has none: {why}.")
        source = _Frozen(potential)
        if self.at is not None:
            structure = Structure.from_atoms(self.at.copy(), name="the frozen frame")
            batch = Batch.from_structures([structure], cutoff=potential.cutoff, dtype=potential.dtype)
            source.freeze(batch.to(potential.device), "the frozen frame")
            source.note = "frozen at a given frame"
        return source


CHOICES: dict[str, type[FreshClusters] | type[FrozenClusters]] = {"fresh": FreshClusters, "frozen": FrozenClusters}
"""Choices by the name that the calculator accepts."""


def cluster_choice(choice: str | ClusterChoice) -> ClusterChoice:
    """The choice itself, or the one of that name.

    Raises:
        ConfigError: unknown name.
    """
    if isinstance(choice, ClusterChoice):
        return choice
    if choice not in CHOICES:
        raise ConfigError("clusters: " + unknown_name("choice", choice, CHOICES))
    return CHOICES[choice]()


class _Fresh(ClusterSource):
    note = "of every frame"

    def __init__(self, potential: Potential) -> None:
        self.potential = potential
        self.is_smooth = potential.is_smooth

    def predict(self, batch: Batch, *, stress: bool, name: str = "structure") -> Prediction:
        return self.potential(batch, forces=True, stress=stress)


@dataclass(frozen=True, eq=False)
class _Labels:
    """Clusters by layer and level, the block's index of the same frame, and the frame with its name."""

    batch: Batch
    name: str
    clusters: tuple[tuple[Assignment, ...], ...]
    index: Any

    def serve(self, batch: Batch) -> bool:
        """Whether the batch has the same atoms in the same order, structures and periodic axes."""
        return all(
            torch.equal(getattr(batch, name), getattr(self.batch, name)) for name in ("numbers", "molecule", "pbc")
        )


class _Frozen(ClusterSource):
    note = "frozen at the first frame"
    is_smooth = True

    def __init__(self, potential: Potential) -> None:
        self.potential = potential
        self.labels: _Labels | None = None

    def freeze(self, batch: Batch, name: str) -> _Labels:
        """Make the labels of this frame."""
        with torch.no_grad():
            indexed = self.potential.index(batch)
            levels = self.potential(indexed, forces=False).clusters
        clusters = tuple(tuple(level.assignment for level in layer) for layer in levels)
        self.labels = _Labels(batch, name, clusters, indexed.index.long_range)
        return self.labels

    def predict(self, batch: Batch, *, stress: bool, name: str = "structure") -> Prediction:
        labels = self.labels or self.freeze(batch, name)
        if not labels.serve(batch):
            raise StructureError(
                f"{name}: clusters are frozen for {labels.batch.n_atoms} atoms of other elements, order or periodic "
                f"axes ({labels.name}). Make a new calculator for other atoms."
            )
        indexed = self.potential.index(batch)
        index = self.potential.block.labelled_as(labels.index, indexed.index.long_range)
        kept = indexed.replace(index=replace(indexed.index, long_range=index))
        return self.potential(kept, forces=True, stress=stress, clusters=labels.clusters)
