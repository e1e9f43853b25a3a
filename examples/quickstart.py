"""Build a potential, predict, save, load, and use it from ASE.

python examples/quickstart.py
"""

from __future__ import annotations

import torch
from ase.build import bulk, molecule
from ase.optimize import BFGS

from mcgm import Batch, build, load
from mcgm.interfaces.ase import MCGMCalculator


def main() -> None:
    # 1. A fresh potential: PaiNN with MCGM and orientations, the default, after every layer. `mcgm train` gives it
    # weights that mean something.
    torch.manual_seed(0)
    potential = build(backbone="painn", long_range="mcgm_oriented", size="small", cutoff=5.0)
    print(potential.extra_repr())

    # 2. Energies (eV), forces (eV/Å) and, where something is periodic, stress (eV/Å³) of any mixture of structures.
    structures = [molecule("CH3CH2OH"), molecule("H2O"), bulk("NaCl", "rocksalt", a=5.64)]
    prediction = potential(Batch.from_atoms(structures, cutoff=potential.cutoff))
    print("energies, eV:          ", prediction.energy.tolist())
    print("of them from clusters: ", prediction.cluster_energy.tolist())
    print("largest force, eV/Å:   ", prediction.forces.norm(dim=-1).max().item())
    print("pressure of NaCl, eV/Å³:", -prediction.stress[2].trace().item() / 3)

    # 3. One file holds weights, settings, units and elements. Reading it executes nothing.
    potential.save("model.safetensors")
    again = load("model.safetensors")
    same = again(Batch.from_atoms(structures, cutoff=again.cutoff))
    print("the same after loading: ", torch.equal(same.energy, prediction.energy))

    # 4. With the calculator come ASE's optimisers, dynamics, NEB and phonons.
    atoms = molecule("CH3CH2OH")
    atoms.calc = MCGMCalculator("model.safetensors", dtype=torch.float64)
    before = atoms.get_potential_energy()
    BFGS(atoms, logfile=None).run(fmax=0.05, steps=20)
    print(f"relaxed by {before - atoms.get_potential_energy():.4f} eV")


if __name__ == "__main__":
    main()
