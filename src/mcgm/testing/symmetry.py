"""Transformations that must not change the energy: rotations, reflections, shifts, other orders of the atoms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Protocol

import numpy as np
from scipy.stats import special_ortho_group

from mcgm.structure import Structure
from mcgm.testing.predict import Deviation, Predictor, predict


class Transformation(Protocol):
    """Maps a structure to one with the same energy, and predicted labels back."""

    def apply(self, structure: Structure) -> Structure:
        """The transformed structure."""

    def undo(self, labelled: Structure) -> Structure:
        """The labels of the transformed structure as they should stand at the original one."""


class Check(Protocol):
    """A symmetry measured by a number of random transformations."""

    def __call__(self, potential: Predictor, structure: Structure, *, count: int = ..., seed: int = ...) -> Deviation:
        """Largest deviation."""


@dataclass(frozen=True)
class Orthogonal:
    """Rotation or reflection of positions and cell by a matrix that acts on column vectors."""

    matrix: np.ndarray

    def apply(self, structure: Structure) -> Structure:
        """The transformed structure."""
        return structure.replace(positions=structure.positions @ self.matrix.T, cell=structure.cell @ self.matrix.T)

    def undo(self, labelled: Structure) -> Structure:
        """Forces and stress turned back."""
        assert labelled.forces is not None
        stress = None if labelled.stress is None else self.matrix.T @ labelled.stress @ self.matrix
        return labelled.replace(forces=labelled.forces @ self.matrix, stress=stress)


@dataclass(frozen=True)
class Displacement:
    """Vectors added to the positions, one for all atoms or one each."""

    vectors: np.ndarray

    def apply(self, structure: Structure) -> Structure:
        """The displaced structure."""
        return structure.replace(positions=structure.positions + self.vectors)

    def undo(self, labelled: Structure) -> Structure:
        """Labels do not change."""
        return labelled


@dataclass(frozen=True)
class Reordering:
    """Atoms listed in another order."""

    order: np.ndarray

    def apply(self, structure: Structure) -> Structure:
        """The reordered structure."""
        return structure.replace(numbers=structure.numbers[self.order], positions=structure.positions[self.order])

    def undo(self, labelled: Structure) -> Structure:
        """Forces in the original order."""
        assert labelled.forces is not None
        return labelled.replace(forces=labelled.forces[np.argsort(self.order)])


def deviation_under(potential: Predictor, structure: Structure, transformations: Sequence[Transformation]) -> Deviation:
    """Largest deviation from the untransformed structure, which stands in the same batch."""
    reference, *labelled = predict(potential, [structure, *(t.apply(structure) for t in transformations)])
    pairs = zip(transformations, labelled, strict=True)
    return reduce(Deviation.__or__, (Deviation.between(reference, t.undo(item)) for t, item in pairs), Deviation())


def rotation(potential: Predictor, structure: Structure, *, count: int = 20, seed: int = 0) -> Deviation:
    """Under random rotations."""
    matrices = special_ortho_group.rvs(3, size=count, random_state=seed).reshape(count, 3, 3)
    return deviation_under(potential, structure, [Orthogonal(matrix) for matrix in matrices])


def reflection(potential: Predictor, structure: Structure, *, count: int = 20, seed: int = 0) -> Deviation:
    """Under random improper rotations: enantiomers have one energy."""
    matrices = special_ortho_group.rvs(3, size=count, random_state=seed).reshape(count, 3, 3)
    return deviation_under(potential, structure, [Orthogonal(-matrix) for matrix in matrices])


def translation(potential: Predictor, structure: Structure, *, count: int = 20, seed: int = 0) -> Deviation:
    """Under shifts of the whole structure by up to 10 Å along each axis."""
    vectors = np.random.default_rng(seed).uniform(-10, 10, (count, 3))
    return deviation_under(potential, structure, [Displacement(vector) for vector in vectors])


def permutation(potential: Predictor, structure: Structure, *, count: int = 20, seed: int = 0) -> Deviation:
    """Under random orders of the atoms."""
    random = np.random.default_rng(seed)
    orders = [random.permutation(len(structure)) for _ in range(count)]
    return deviation_under(potential, structure, [Reordering(order) for order in orders])


def lattice_translation(potential: Predictor, structure: Structure, *, count: int = 20, seed: int = 0) -> Deviation:
    """Under shifts of single atoms by lattice vectors of the periodic axes; zero for an open structure."""
    if not structure.pbc.any():
        return Deviation()
    images = np.random.default_rng(seed).integers(-2, 3, (count, len(structure), 3)) * structure.pbc
    return deviation_under(potential, structure, [Displacement(image @ structure.cell) for image in images])


def net_force(potential: Predictor, structure: Structure) -> float:
    """Length of the sum of all forces per atom, eV/Å: no structure pushes itself."""
    (labelled,) = predict(potential, [structure])
    assert labelled.forces is not None
    return float(np.linalg.norm(labelled.forces.sum(axis=0)) / len(structure))
