"""The edges of a potential: at the cutoff, and for structures with next to nothing in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mcgm.errors import StructureError
from mcgm.structure import Structure
from mcgm.testing.derivatives import energy_of_positions_and_strain
from mcgm.testing.predict import Predictor, in_double, largest, predict
from mcgm.testing.zoo import degenerate_structures

WITH_NEIGHBOURS = ("one element", "one atom in a cell")
"""Degenerate structures whose atoms have neighbours, so that rounding may leave a force."""

LARGEST_FORCE = 100.0
"""eV/Å that degenerate structures may have where a block reaches beyond all neighbours: finite, and not absurd."""


@dataclass(frozen=True)
class CutoffStep:
    """Step or bend at the cutoff of the energy (eV), the force (eV/Å) and its slope (eV/Å²)."""

    energy: float
    force: float
    slope: float

    @property
    def largest(self) -> float:
        """The largest of the three numbers."""
        return largest((self.energy, self.force, self.slope))


def cutoff_step(potential: Predictor, *, numbers: tuple[int, int, int] = (8, 1, 6), reach: float = 1e-6) -> CutoffStep:
    """Difference between a neighbour just inside and just outside the cutoff, in float64.

    Each side is extrapolated to the cutoff from `reach` and twice `reach` Å, as a block that reaches farther may vary
    there; what bends between the two sides counts as well. The third atom is the neighbour, the second makes the first
    one's surroundings more than a sphere.
    """
    potential = in_double(potential)

    def side(sign: int) -> tuple[np.ndarray, np.ndarray]:
        near, far = (_energy_force_slope(potential, numbers, sign * k * reach) for k in (1, 2))
        return 2 * near - far, far - near

    (inner, inward), (outer, outward) = side(-1), side(1)
    return CutoffStep(*(float(step) for step in np.abs(inner - outer) + np.abs(inward + outward)))


def _energy_force_slope(potential: Predictor, numbers: tuple[int, int, int], offset: float) -> np.ndarray:
    positions = np.array([[0, 0, 0], [-0.9, 0.3, 0], [potential.cutoff + offset, 0, 0]])
    structure = Structure(numbers=np.array(numbers), positions=positions, name="at the cutoff")
    energy = energy_of_positions_and_strain(potential, structure)
    leaf = torch.tensor(positions, requires_grad=True)
    value = energy(leaf, torch.zeros(3, 3, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
    slope = 0.0
    if gradient.requires_grad:
        (second,) = torch.autograd.grad(gradient[2, 0], leaf)
        slope = float(second[2, 0])
    return np.array([value.item(), gradient[2, 0].item(), slope])


def degenerate(potential: Predictor, *, elements: tuple[int, int, int, int] = (8, 1, 6, 11)) -> float:
    """Largest force (eV/Å) on an atom without neighbours; infinite if any degenerate structure has no finite answer.

    Covers one atom, one element, no pair in reach, and one atom in a small and in a large cell, of these elements.
    """
    forces = [0.0]
    for name, structure in degenerate_structures(elements).items():
        try:
            (labelled,) = predict(potential, [structure])
        except StructureError:
            return float("inf")
        assert labelled.forces is not None
        if name not in WITH_NEIGHBOURS:
            forces.append(np.abs(labelled.forces).max())
    return largest(forces)
