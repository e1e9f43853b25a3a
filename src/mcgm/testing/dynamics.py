"""What only a simulation shows: the drift of the total energy."""

from __future__ import annotations

import numpy as np
from ase import units
from ase.md.velocitydistribution import Stationary, thermalize_momenta
from ase.md.verlet import VelocityVerlet

from mcgm.interfaces.ase import MCGMCalculator
from mcgm.potential import Potential
from mcgm.structure import Structure
from mcgm.testing.predict import in_double


def energy_drift(
    potential: Potential,
    structure: Structure,
    *,
    temperature_K: float = 300.0,
    timestep_fs: float = 0.5,
    duration_ps: float = 20.0,
    seed: int = 0,
) -> float:
    """Absolute drift of the total energy at constant energy and volume, meV per atom and ps, in float64.

    The slope of a straight line through the total energies of a velocity Verlet run from `structure`, whose atoms start
    with velocities of the temperature and no net motion. Potentials that say that they jump are run too.
    """
    atoms = structure.to_atoms()
    atoms.calc = MCGMCalculator(in_double(potential), allow_discontinuous=True)
    thermalize_momenta(atoms, temperature_K, rng=np.random.default_rng(seed))
    Stationary(atoms)
    energies: list[float] = []
    dynamics = VelocityVerlet(atoms, timestep=timestep_fs * units.fs)
    dynamics.attach(lambda: energies.append(atoms.get_total_energy()))
    dynamics.run(round(1000 * duration_ps / timestep_fs))
    time_ps = np.arange(len(energies)) * timestep_fs / 1000
    return float(abs(np.polyfit(time_ps, energies, 1)[0]) * 1000 / len(atoms))
