"""Vibrations of a molecule with ASE: harmonic frequencies by finite differences of forces.

python examples/vibrations.py
"""

from __future__ import annotations

import numpy as np
import torch
from ase.optimize import BFGS
from ase.vibrations import Vibrations
from small_model import ammonia, small_model

from mcgm.interfaces.ase import MCGMCalculator


def main() -> None:
    atoms = ammonia()
    atoms.calc = MCGMCalculator(small_model(), dtype=torch.float64)
    # Frequencies are those of a minimum: the smaller the forces that are left, the nearer to zero are the six of
    # translation and rotation.
    BFGS(atoms, logfile=None).run(fmax=0.001, steps=300)
    vibrations = Vibrations(atoms, delta=0.005, name="vibrations")
    vibrations.clean()
    vibrations.run()
    frequencies = np.sort(vibrations.get_frequencies().real - vibrations.get_frequencies().imag)
    rigid, inner = np.split(frequencies[np.argsort(np.abs(frequencies))], [6])
    print("translation and rotation, 1/cm:", *np.round(np.sort(np.abs(rigid)), 1))
    print("vibrations, 1/cm:", *np.round(np.sort(inner)).astype(int))
    print(f"inversion: {inner.min():.0f} 1/cm (measured: 950)")
    print(f"zero-point energy: {vibrations.get_zero_point_energy():.3f} eV")


if __name__ == "__main__":
    main()
