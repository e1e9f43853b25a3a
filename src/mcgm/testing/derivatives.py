"""Forces, stress and second derivatives against differences; the energy along a path against the forces' work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mcgm.structure import Structure
from mcgm.testing.predict import Predictor, collate, energies, in_double, predict

STENCIL = ((1, 2 / 3), (-1, -2 / 3), (2, -1 / 12), (-2, 1 / 12))
"""Central differences of fourth order: multiples of the step and weights. Second order leaves 1e-6 eV/Å of its own."""


def finite_differences(
    potential: Predictor, structure: Structure, *, step: float = 1e-4, coordinates: int | None = None, seed: int = 0
) -> float:
    """Largest difference (eV/Å) of the forces from central differences of the energy; `step` in Å, in float64.

    Along all coordinates, or at most so many, drawn at random.
    """
    potential = in_double(potential)
    (labelled,) = predict(potential, [structure])
    assert labelled.forces is not None
    every = 3 * len(structure)
    chosen = np.random.default_rng(seed).permutation(every)[:coordinates]
    moves = step * np.eye(every)[chosen].reshape(-1, len(structure), 3)
    displaced = [structure.replace(positions=structure.positions + k * move) for k, _ in STENCIL for move in moves]
    slope = _slope(energies(potential, displaced), step)
    return float(np.abs(labelled.forces.reshape(-1)[chosen] + slope).max())


def stress_finite_differences(potential: Predictor, structure: Structure, *, step: float = 1e-4) -> float:
    """Largest difference (eV/Å³) of the stress from central differences by the six strains, in float64."""
    potential = in_double(potential)
    (labelled,) = predict(potential, [structure])
    assert labelled.stress is not None, f"{structure} is not periodic or has no volume, so it has no stress."
    strains = []
    for a, b in zip(*np.triu_indices(3), strict=True):
        strain = np.zeros((3, 3))
        strain[a, b] += step / 2
        strain[b, a] += step / 2
        strains.append(strain)
    strained = [_strained(structure, k * strain) for k, _ in STENCIL for strain in strains]
    slope = _slope(energies(potential, strained), step) / structure.volume
    symmetric = (labelled.stress + labelled.stress.T) / 2
    return float(np.abs(symmetric[np.triu_indices(3)] - slope).max())


def second_derivatives(potential: Predictor, structure: Structure, *, step: float = 1e-4, seed: int = 0) -> float:
    """Largest difference of Hessian times a random unit vector from central differences of the gradient.

    By positions (eV/Å²) and strain together, in float64: what training on forces and vibrations rest on.
    """
    energy = energy_of_positions_and_strain(in_double(potential), structure)
    random = torch.Generator().manual_seed(seed)
    direction = torch.randn(len(structure) + 3, 3, generator=random, dtype=torch.float64)
    direction = direction / direction.norm()
    origin = torch.cat([torch.from_numpy(structure.positions), torch.zeros(3, 3, dtype=torch.float64)])

    def gradient(at: Float[Tensor, "row 3"], create_graph: bool) -> tuple[Tensor, Tensor]:
        leaf = at.clone().requires_grad_()
        return torch.autograd.grad(energy(leaf[:-3], leaf[-3:]), leaf, create_graph=create_graph)[0], leaf

    slope, leaf = gradient(origin, True)
    if slope.requires_grad:
        (product,) = torch.autograd.grad((slope * direction).sum(), leaf)
    else:
        product = torch.zeros_like(slope)
    numerical = sum(weight * gradient(origin + k * step * direction, False)[0] for k, weight in STENCIL) / step
    return float((product - numerical).abs().max())


def gradgradcheck(potential: Predictor, structure: Structure) -> bool:
    """Whether `torch.autograd.gradgradcheck` accepts the energy by positions and strain; for a few atoms only."""
    energy = energy_of_positions_and_strain(in_double(potential), structure)
    positions = torch.from_numpy(structure.positions.copy()).requires_grad_()
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    return torch.autograd.gradgradcheck(energy, (positions, strain), atol=1e-4, rtol=1e-4, raise_exception=False)


def energy_of_positions_and_strain(
    potential: Predictor, structure: Structure
) -> Callable[[Float[Tensor, "atom 3"], Float[Tensor, "3 3"]], Tensor]:
    """The energy as a function that torch can differentiate, with the pairs kept."""
    batch = collate(potential, [structure])

    def energy(positions: Float[Tensor, "atom 3"], strain: Float[Tensor, "3 3"]) -> Tensor:
        deform = torch.eye(3, dtype=positions.dtype) + strain
        moved = batch.replace(positions=positions @ deform, cell=batch.cell @ deform)
        # Keeps the result attached to both inputs where no pair is in reach.
        return potential(moved, forces=False).energy.sum() + 0 * (positions.sum() + strain.sum())

    return energy


@dataclass(frozen=True)
class PathScan:
    """Energy changes that the forces do not explain along a straight path: jumps, if the forces are right."""

    residual: np.ndarray
    length: float
    threshold: float = 1e-6

    @property
    def largest(self) -> float:
        """Largest |dE + F·dr| of a step, eV."""
        return float(np.abs(self.residual).max())

    @property
    def jumps_per_angstrom(self) -> float:
        """Steps above the threshold (eV) per Å of path."""
        return float((np.abs(self.residual) > self.threshold).sum() / self.length)

    @property
    def mean_jump(self) -> float:
        """Mean |dE + F·dr| of the steps above the threshold, eV; zero if there is none."""
        above = np.abs(self.residual)[np.abs(self.residual) > self.threshold]
        return float(above.mean()) if len(above) else 0.0


def path_scan(
    potential: Predictor, structure: Structure, *, steps: int = 2000, step: float = 5e-4, seed: int = 0
) -> PathScan:
    """Scan a straight random path through the structure, in float64.

    `step` is the length of a step in Å over all coordinates together; forces are averaged over its two ends. Jumps at
    single points, which finite differences miss, show here.
    """
    potential = in_double(potential)
    frames, direction = path_through(structure, steps=steps, step=step, seed=seed)
    labelled = predict(potential, frames, chunk=64)
    energy = np.array([frame.energy for frame in labelled])
    slope = np.array([(frame.forces * direction).sum() for frame in labelled])
    return PathScan(np.diff(energy) + step * (slope[1:] + slope[:-1]) / 2, steps * step)


def path_through(
    structure: Structure, *, steps: int, step: float, seed: int
) -> tuple[list[Structure], Float[np.ndarray, "atom 3"]]:
    """Frames of a straight path with the structure at its middle, and its direction, a unit vector of all coordinates.

    No two atoms of the cell come nearer than 0.4 Å.

    Raises:
        ValueError: there is no such path of this length.
    """
    direction = _direction_without_collision(structure, steps * step, np.random.default_rng(seed))
    offsets = (np.arange(steps + 1) - steps / 2) * step
    return [structure.replace(positions=structure.positions + offset * direction) for offset in offsets], direction


def _direction_without_collision(structure: Structure, length: float, random: np.random.Generator) -> np.ndarray:
    """Unit vector along which no two atoms of the cell come nearer than 0.4 Å."""
    for _ in range(100):
        direction = random.normal(size=(len(structure), 3))
        direction /= np.linalg.norm(direction)
        ends = [structure.positions + offset * direction for offset in np.linspace(-length / 2, length / 2, 21)]
        distances = np.stack([np.linalg.norm(end[:, None] - end[None], axis=-1) for end in ends])
        if (distances + 9 * np.eye(len(structure))).min() > 0.4:
            return direction
    raise ValueError(f"{structure}: no path of {length} Å found on which atoms keep apart; ask for a shorter one.")


def _slope(values: np.ndarray, step: float) -> np.ndarray:
    """Derivatives from values at the points of the stencil, stencil index first."""
    weights = np.array([weight for _, weight in STENCIL])
    return weights @ values.reshape(len(STENCIL), -1) / step


def _strained(structure: Structure, strain: np.ndarray) -> Structure:
    deform = np.eye(3) + strain
    return structure.replace(positions=structure.positions @ deform, cell=structure.cell @ deform)
