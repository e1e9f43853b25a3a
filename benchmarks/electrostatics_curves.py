"""What the figure of `electrostatics.py` shows of one model: binding curves of dimers, charges along a chain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols

from mcgm import Batch
from mcgm.data.ase import read_atoms
from mcgm.data.readers import matching
from mcgm.potential import Potential, Prediction
from mcgm.structure import Structure
from mcgm.training.config import DataConfig
from mcgm.training.preparation import Parts


def predicted(potential: Potential, structures: list[Structure]) -> Prediction:
    """Energies and charges."""
    batch = Batch.from_structures(structures, cutoff=potential.cutoff, dtype=potential.dtype)
    with torch.no_grad():
        return potential(batch, forces=False)


def lode_curves(potential: Potential, parts: Parts, data: DataConfig) -> dict[str, Any]:
    """Of each pair: distances (Å), reference and predicted energies (eV), and the charges of the two molecules (e)."""
    about = {}
    for path in (data.path, str(data.test)):
        for file in matching(Path(path)):
            about |= {f"{file.name}[{k}]": atoms.info for k, atoms in enumerate(read_atoms(file))}
    everything = {name: k for k, name in enumerate(parts.everything.names)}
    curves = {}
    for pair in sorted({info["label"] for info in about.values()}):
        names = sorted((n for n in about if about[n]["label"] == pair), key=lambda n: about[n]["distance"])
        structures = [parts.everything[everything[name]] for name in names]
        found = predicted(potential, structures)
        curves[pair] = {
            "distance": [round(float(about[name]["distance"]), 4) for name in names],
            "is_test": [name.startswith("test") for name in names],
            "reference": [structure.energy for structure in structures],
            "energy": [round(float(energy), 6) for energy in found.energy],
        }
        if found.charges is not None:
            first = int(about[names[0]]["indexB"])
            charges = found.charges.reshape(len(names), -1)
            both = torch.stack([charges[:, :first].sum(1), charges[:, first:].sum(1)])
            curves[pair]["molecules"] = [[round(float(q), 4) for q in of_one] for of_one in both]
    return curves


def chain_profile(potential: Potential, parts: Parts, data: DataConfig) -> dict[str, Any]:
    """Mean charges (e) along the chain of the test structures by total charge; the end with more H comes first."""
    profiles = {}
    for charge in (0.0, 1.0):
        structures = [structure for structure in parts.test if structure.charge == charge]
        order = [along(structure) for structure in structures]
        found = predicted(potential, structures).charges
        profile: dict[str, Any] = {"reference": mean_in(order, [structure.charges for structure in structures])}
        profile["atoms"] = [chemical_symbols[z] for z in structures[0].numbers[order[0]]]
        if found is not None:
            profile["charges"] = mean_in(order, [q.numpy() for q in found.split([len(s) for s in structures])])
        profiles[f"{charge:+.0f}"] = profile
    return profiles


def mean_in(order: list[np.ndarray], values: list[np.ndarray]) -> list[float]:
    """Means over structures, atoms in these orders."""
    return [round(float(q), 5) for q in np.mean([value[k] for value, k in zip(values, order, strict=True)], axis=0)]


def along(structure: Structure) -> np.ndarray:
    """Carbon atoms in their order along the chain, from the end with more hydrogen."""
    centred = structure.positions - structure.positions.mean(axis=0)
    place = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
    hydrogen = place[structure.numbers == 1]
    if (hydrogen > 0).sum() > (hydrogen < 0).sum():
        place = -place
    carbon = np.flatnonzero(structure.numbers == 6)
    return carbon[np.argsort(place[carbon])]
