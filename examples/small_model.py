"""Train a small model of one molecule within seconds; the other examples use it.

    pip install tblite
    python examples/small_model.py

Ammonia, with GFN2-xTB (tblite) as the teacher: geometries all along its inversion, distorted at random.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from tblite.ase import TBLite

from mcgm import Batch, Potential, Structure, build, load
from mcgm.data import Dataset, fit_references
from mcgm.testing.trained import train_briefly

FILE = Path(tempfile.gettempdir()) / "mcgm-examples" / "ammonia.safetensors"
BOND = 1.014  # Å


def ammonia(height: float = 0.35) -> Atoms:
    """The molecule with nitrogen this far (Å) above the plane of its hydrogens; at 0 it is flat, below 0 inverted."""
    angles = np.deg2rad([0, 120, 240])
    radius = np.sqrt(BOND**2 - height**2)
    ring = np.column_stack([radius * np.cos(angles), radius * np.sin(angles), np.zeros(3)])
    return Atoms("NH3", positions=np.vstack([[0, 0, height], ring]))


def data(count: int, seed: int = 0) -> list[Structure]:
    """Labelled geometries."""
    chance = np.random.default_rng(seed)
    teacher = TBLite(method="GFN2-xTB", verbosity=0)
    structures = []
    for _ in range(count):
        atoms = ammonia(chance.uniform(-0.55, 0.55))
        atoms.rattle(chance.uniform(0.0, 0.08), rng=chance)
        atoms.calc = teacher
        atoms.get_forces()
        structures.append(Structure.from_atoms(atoms))
    return structures


def small_model() -> Potential:
    """The model from the temporary folder, trained if it is not there."""
    if not FILE.exists():
        structures = data(200)
        torch.manual_seed(0)
        fresh = build(
            cutoff=4.0,
            backbone_options={"channels": 32, "filters": 32, "radial": 24, "layers": 2},
            references=fit_references(Dataset.from_structures(structures)),
            elements=[1, 7],
        )
        train_briefly(fresh, structures, steps=500, batch=8, learning_rate=1e-2).save(FILE)
    return load(FILE)


def main() -> None:
    potential = small_model()
    test = data(20, seed=1)
    prediction = potential(Batch.from_structures(test, cutoff=potential.cutoff))
    forces = torch.cat([torch.as_tensor(structure.forces) for structure in test])
    energies = torch.tensor([structure.energy for structure in test])
    print(f"{FILE}: {sum(parameter.numel() for parameter in potential.parameters())} parameters")
    print(
        f"mean absolute force:  {forces.abs().mean():.3f} eV/Å, error {(prediction.forces - forces).abs().mean():.3f}"
    )
    print(f"spread of energies:   {energies.std():.3f} eV, error {(prediction.energy - energies).abs().mean():.3f}")


if __name__ == "__main__":
    main()
