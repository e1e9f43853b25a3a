"""A transition state with ASE's nudged elastic band: ammonia turns inside out.

python examples/transition.py
"""

from __future__ import annotations

import numpy as np
import torch
from ase.mep import NEB
from ase.optimize import BFGS, FIRE
from small_model import ammonia, small_model

from mcgm.interfaces.ase import MCGMCalculator

IMAGES, FMAX = 5, 0.05


def main() -> None:
    # One calculator for all images: it searches neighbours again for each, and copies no weights.
    calculator = MCGMCalculator(small_model(), dtype=torch.float64)

    # 1. Both minima.
    ends = [ammonia(0.35), ammonia(-0.35)]
    for atoms in ends:
        atoms.calc = calculator
        BFGS(atoms, logfile=None).run(fmax=0.01, steps=200)

    # 2. A path between them, by interpolation, then relaxed across its direction.
    images = [ends[0], *(ends[0].copy() for _ in range(IMAGES)), ends[1]]
    for image in images:
        image.calc = calculator
    band = NEB(images, climb=True, method="improvedtangent", allow_shared_calculator=True)
    band.interpolate()
    converged = FIRE(band, logfile=None).run(fmax=FMAX, steps=100)

    # 3. The barrier is where the climbing image stands: flat.
    energies = np.array([image.get_potential_energy() for image in images])
    print(f"{'converged' if converged else 'not converged'} to {FMAX} eV/Å")
    for image, energy in zip(images, energies - energies[0], strict=True):
        height = image.positions[0, 2] - image.positions[1:, 2].mean()
        print(f"nitrogen {height:+.2f} Å above the hydrogens: {energy:6.3f} eV")
    print(f"barrier {energies.max() - energies[0]:.2f} eV (its teacher: 0.26, measured: 0.25)")


if __name__ == "__main__":
    main()
