"""The same answer by another way: from a file, in evaluation, from the ASE calculator."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mcgm.checkpoint import load, save
from mcgm.potential import Potential
from mcgm.structure import Structure
from mcgm.testing.predict import device_of, in_double, predict


def round_trip(potential: Potential, structures: Sequence[Structure]) -> float:
    """Largest change (eV, eV/Å) of energies and forces when the potential is saved and loaded: exactly zero."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save(potential, path)
        loaded = load(path, device=device_of(potential))
    before, after = (predict(each, structures) for each in (potential, loaded))
    change = [np.append(a.forces - b.forces, a.energy - b.energy) for a, b in zip(before, after, strict=True)]
    return float(np.abs(np.concatenate(change)).max())


def evaluation_and_calculator(potential: Potential, structures: Sequence[Structure]) -> float:
    """Largest difference (eV) of the energies of `mcgm evaluate` from those of the ASE calculator, in float64."""
    from mcgm.data import Dataset
    from mcgm.interfaces.ase import MCGMCalculator
    from mcgm.training.evaluation import evaluate

    potential = in_double(potential)
    # evaluation asks for labels; their values do not matter
    labels = {"energy": 0.0, "forces": None, "stress": None, "dipole": None, "charges": None}
    dataset = Dataset.from_structures([structure.replace(**labels) for structure in structures])
    evaluated = evaluate(potential, dataset, forces=False).predictions.energy_predicted
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of symmetries that are not promised
        calculator = MCGMCalculator(potential, device=device_of(potential), allow_discontinuous=True)
    calculated = [calculator.get_potential_energy(structure.to_atoms()) for structure in structures]
    return float(np.abs(evaluated - np.array(calculated)).max())
