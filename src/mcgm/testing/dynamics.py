"""What only a simulation shows: the drift of the total energy."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from ase import units
from ase.data import covalent_radii
from ase.md.velocitydistribution import Stationary, thermalize_momenta
from jaxtyping import Float
from scipy.optimize import minimize

from mcgm.errors import StructureError
from mcgm.neighbors import Neighbors, edge_vectors, find_neighbors
from mcgm.structure import Structure
from mcgm.testing.predict import Predictor, collate, in_double

STIFFNESS = 5.0
"""eV/Å² of the springs that hold atoms which the potential does not: about that of a bond angle."""

BONDED, BROKEN, CRUSHED = 1.25, 1.8, 0.75
"""Multiples of the sum of covalent radii: bonded below the first at the start, broken above the second, and too fast
for any time step below the third."""

LOOK_EVERY = 20
"""Steps between two looks at the bonds."""

TRIAL_PS = 0.1
"""Bonds must hold so long at the temperature for a structure to be left to itself."""

DOWNHILL = {"maxiter": 100, "maxfun": 150}


@dataclass(frozen=True)
class Drift:
    """Drift of the total energy, meV per atom and ps, and whether springs held the atoms in place."""

    rate: float
    held: bool


def energy_drift(
    potential: Predictor,
    structure: Structure,
    *,
    temperature_K: float = 300.0,
    timestep_fs: float = 0.5,
    duration_ps: float = 20.0,
    seed: int = 0,
    stiffness: float = 0.0,
) -> float:
    """Absolute drift of the total energy at constant energy and volume, meV per atom and ps, in float64.

    A velocity Verlet run from `structure`, whose atoms start with velocities of the temperature and no net motion;
    `stiffness` (eV/Å²) of springs to where they start. The slope of a straight line through the energy that Verlet
    conserves to fourth order in the step: the total energy less its bounded oscillation of second order, which would
    hide the drift of a short run. Source: Engle, Skeel, Drees, J. Comput. Phys. 206, 432 (2005).
    """
    surface = _Surface(in_double(potential), structure, stiffness)
    return _simulate(
        surface, temperature_K=temperature_K, timestep_fs=timestep_fs, duration_ps=duration_ps, seed=seed
    ).drift


def drift_at_rest(potential: Predictor, structure: Structure, *, duration_ps: float = 20.0, seed: int = 0) -> Drift:
    """Drift at 300 K and 0.5 fs from the nearest minimum, with velocities drawn from `seed`.

    A potential under which bonds break (untrained, or far from its data) has no structure to simulate, and atoms that
    fly into each other are too fast for any time step: springs to the given positions then hold the atoms. They
    conserve energy, so that what drifts is still the potential's.
    """
    potential = in_double(potential)
    relaxed = _relaxed(_Surface(potential, structure, 0.0))
    if relaxed is not None and _bonds_hold(potential, structure, relaxed):
        with suppress(StructureError):  # atoms that meet later on need the springs, too
            bonds = _Bonds.of(structure)
            run = _simulate(_Surface(potential, relaxed, 0.0), duration_ps=duration_ps, seed=seed, bonds=bonds)
            return Drift(run.drift, held=False)
    relaxed = _relaxed(_Surface(potential, structure, STIFFNESS)) or structure
    rate = energy_drift(potential, relaxed, duration_ps=duration_ps, seed=seed, stiffness=STIFFNESS)
    return Drift(rate, held=True)


@dataclass(frozen=True, eq=False)
class _Bonds:
    """The bonds of a structure."""

    structure: Structure
    bonded: set[tuple[int, int]]

    @classmethod
    def of(cls, structure: Structure) -> _Bonds:
        """Pairs near enough."""
        return cls(structure, _pairs(structure, BONDED))

    def require(self, positions: np.ndarray) -> None:
        """Raise a `StructureError` where a bond is broken or crushed, or other atoms come as near as bonded ones."""
        frame = self.structure.replace(positions=positions)
        stretch = _bond_stretch(self.structure, frame)
        if (stretch > BROKEN).any() or (stretch < CRUSHED).any() or _pairs(frame, 1.0) - self.bonded:
            raise StructureError(f"{self.structure}: its bonds do not hold.")


@dataclass(frozen=True, eq=False)
class _Surface:
    """A potential, and springs to the structure's own positions."""

    potential: Predictor
    structure: Structure
    stiffness: float

    def __call__(self, positions: np.ndarray) -> tuple[float, np.ndarray]:
        """Energy (eV) and forces (eV/Å)."""
        batch = collate(self.potential, [self.structure.replace(positions=positions)])
        prediction = self.potential(batch, forces=True, stress=False)
        energy, forces = float(prediction.energy[0]), prediction.forces.detach().cpu().numpy()
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            raise StructureError(f"{self.structure}: energy or forces are not finite on the way of its atoms.")
        offset = positions - self.structure.positions
        return energy + self.stiffness / 2 * float((offset**2).sum()), forces - self.stiffness * offset


@dataclass(frozen=True, eq=False)
class _Run:
    """Energies that velocity Verlet conserves, eV, at every step (fs)."""

    atoms: int
    conserved: np.ndarray
    timestep_fs: float

    @property
    def drift(self) -> float:
        """Absolute slope of a straight line through the energies, meV per atom and ps."""
        time_ps = np.arange(len(self.conserved)) * self.timestep_fs / 1000
        return float(abs(np.polyfit(time_ps, self.conserved, 1)[0]) * 1000 / self.atoms)


def _simulate(
    surface: _Surface,
    *,
    duration_ps: float,
    temperature_K: float = 300.0,
    timestep_fs: float = 0.5,
    seed: int = 0,
    bonds: _Bonds | None = None,
) -> _Run:
    """Velocity Verlet from the surface's structure.

    Raises:
        StructureError: energy or forces are not finite, or `bonds` do not hold.
    """
    atoms = surface.structure.to_atoms()
    thermalize_momenta(atoms, temperature_K, rng=np.random.default_rng(seed))
    Stationary(atoms)
    masses, h = atoms.get_masses()[:, None], timestep_fs * units.fs
    positions, velocities = surface.structure.positions, atoms.get_velocities()
    energy, forces = surface(positions)
    rows = []
    for step in range(round(1000 * duration_ps / timestep_fs)):
        last_velocities, last_forces = velocities, forces
        velocities = velocities + h / 2 * forces / masses
        positions = positions + h * velocities
        energy, forces = surface(positions)
        velocities = velocities + h / 2 * forces / masses
        total = energy + float((masses * velocities**2).sum()) / 2
        ahead, behind = float((last_velocities * forces).sum()), float((velocities * last_forces).sum())
        rows.append((total, float((forces**2 / masses).sum()), ahead, behind))
        if bonds is not None and step % LOOK_EVERY == 0:
            bonds.require(positions)
    return _Run(len(masses), _conserved(np.array(rows), h), timestep_fs)


def _conserved(rows: Float[np.ndarray, "step 4"], timestep: float) -> Float[np.ndarray, "rest"]:
    """E - h² (F·F/m / 24 + v·dF/dt / 12) of all steps but the first and the last.

    Columns: total energy, F·F/m, velocities of the step before · forces, velocities · forces of the step before.
    """
    energy, square, ahead, behind = rows.T
    power = (ahead[2:] - behind[1:-1]) / (2 * timestep)
    return energy[1:-1] - timestep**2 * (square[1:-1] / 24 + power / 12)


def _relaxed(surface: _Surface) -> Structure | None:
    """The structure after up to 100 steps downhill; `None` where the potential brings atoms together."""
    structure = surface.structure

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        energy, forces = surface(flat.reshape(-1, 3))
        return energy, -forces.reshape(-1)

    try:
        found = minimize(objective, structure.positions.reshape(-1), jac=True, method="L-BFGS-B", options=DOWNHILL)
    except StructureError:
        return None
    return structure.replace(positions=found.x.reshape(-1, 3))


def _bonds_hold(potential: Predictor, structure: Structure, relaxed: Structure) -> bool:
    """Whether bonds of the structure are there after relaxation and a short run."""
    if (_bond_stretch(structure, relaxed) > BROKEN).any():
        return False
    try:
        _simulate(_Surface(potential, relaxed, 0.0), duration_ps=TRIAL_PS, seed=1, bonds=_Bonds.of(structure))
    except StructureError:
        return False
    return True


def _pairs(structure: Structure, times: float) -> set[tuple[int, int]]:
    """Atoms nearer than so many sums of covalent radii."""
    pairs = _candidates(structure, times)
    near = _in_radii(structure, pairs) < times
    return set(zip(pairs.source.numpy()[near].tolist(), pairs.target.numpy()[near].tolist(), strict=True))


def _bond_stretch(structure: Structure, moved: Structure) -> np.ndarray:
    """Lengths in `moved` of the bonds of `structure`, in sums of covalent radii."""
    pairs = _candidates(structure, BONDED)
    return _in_radii(moved, pairs)[_in_radii(structure, pairs) < BONDED]


def _candidates(structure: Structure, times: float) -> Neighbors:
    """Pairs that may be nearer than so many sums of covalent radii."""
    return find_neighbors([structure], times * 2 * float(covalent_radii[structure.numbers].max()))


def _in_radii(structure: Structure, pairs: Neighbors) -> np.ndarray:
    """Distances of pairs, in sums of covalent radii."""
    radii = covalent_radii[structure.numbers]
    molecule = torch.zeros(len(structure), dtype=torch.int64)
    positions, cell = torch.from_numpy(structure.positions), torch.from_numpy(structure.cell)[None]
    length = edge_vectors(pairs, positions, cell, molecule).length.numpy()
    return length / (radii[pairs.source.numpy()] + radii[pairs.target.numpy()])
