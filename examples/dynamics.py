"""Molecular dynamics with ASE: constant energy, then constant temperature. `mcgm md` does the same from the shell.

python examples/dynamics.py
"""

from __future__ import annotations

import numpy as np
import torch
from ase import units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary, ZeroRotation, thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from small_model import ammonia, small_model

from mcgm.interfaces.ase import MCGMCalculator

STEPS, TIMESTEP_FS, TEMPERATURE_K = 200, 0.5, 300


def main() -> None:
    chance = np.random.default_rng(0)
    atoms = ammonia()
    atoms.calc = MCGMCalculator(small_model(), dtype=torch.float64)
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=200)

    # 1. Constant energy: what a smooth potential conserves.
    thermalize_momenta(atoms, TEMPERATURE_K, rng=chance)
    Stationary(atoms)
    ZeroRotation(atoms)
    total = []
    verlet = VelocityVerlet(atoms, TIMESTEP_FS * units.fs)
    verlet.attach(lambda: total.append(atoms.get_total_energy()))
    verlet.run(STEPS)
    drift = np.polyfit(np.arange(len(total)) * TIMESTEP_FS / 1000, total, 1)[0] * 1000 / len(atoms)
    print(
        f"constant energy:      drift {drift:+.2f} meV/atom/ps, spread {1000 * np.std(total) / len(atoms):.2f} meV/atom"
    )
    print(f"                      neighbours searched {atoms.calc.rebuilds} times in {STEPS} steps")
    assert np.std(total) < 0.02 * len(atoms) * units.kB * TEMPERATURE_K

    # 2. Constant temperature: Langevin dynamics, all atoms coupled to a bath.
    temperatures = []
    langevin = Langevin(
        atoms, TIMESTEP_FS * units.fs, temperature_K=TEMPERATURE_K, friction=0.05 / units.fs, fixcm=False, rng=chance
    )
    langevin.attach(lambda: temperatures.append(atoms.get_temperature()))
    langevin.run(STEPS)
    print(f"constant temperature: mean {np.mean(temperatures):.0f} K, asked for {TEMPERATURE_K} K")
    print(f"bond N-H at the end:  {atoms.get_distance(0, 1):.2f} Å")


if __name__ == "__main__":
    main()
