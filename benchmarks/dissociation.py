"""Does the energy step while a bond breaks? One set of trained weights under each scope of the hierarchy.

    mcgm compare configs/backbones.yaml -o runs/backbones
    python benchmarks/dissociation.py runs/backbones/runs/schnet-mcgm-seed0/model.safetensors

Ethanol's C-C bond is stretched from 1.1 to 1.75 times the sum of covalent radii; at each point energy and forces.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from ase.data import covalent_radii
from side_by_side import RESULTS, store

from mcgm import Batch, Potential, load
from mcgm.files import replacing
from mcgm.long_range.mcgm.fading import BROKEN, FadingMolecules
from mcgm.long_range.mcgm.scope import BONDED, BondedMolecules, Scope, WholeSystem

STEP = 1e-3
SUM_OF_RADII = float(2 * covalent_radii[6])
SCOPES: dict[str, type[Scope]] = {
    "system": WholeSystem,
    "molecule, bonds cut": BondedMolecules,
    "molecule, bonds fade": FadingMolecules,
}


def stretched(length: float) -> Atoms:
    """Ethanol with this C-C distance (Å), the CH2OH part moved along the bond."""
    atoms = molecule("CH3CH2OH")
    axis = atoms.positions[1] - atoms.positions[0]
    distance = np.linalg.norm(axis)
    moved = (atoms.positions - atoms.positions[0]) @ axis > 0.5 * distance**2
    atoms.positions[moved] += axis / distance * (length - distance)
    return atoms


def scan(potential: Potential, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energies (eV) and, step by step, |dE + F dr| (eV) with the mean force of both ends."""
    frames = [stretched(length) for length in lengths]
    batches = [
        Batch.from_atoms(frames[k : k + 64], cutoff=potential.cutoff, dtype=torch.float64)
        for k in range(0, len(frames), 64)
    ]
    predictions = [potential(batch) for batch in batches]
    energy = torch.cat([prediction.energy for prediction in predictions]).numpy()
    forces = torch.cat([prediction.forces for prediction in predictions]).numpy().reshape(len(frames), -1, 3)
    moves = np.diff(np.stack([frame.positions for frame in frames]), axis=0)
    work = np.einsum("fac,fac->f", (forces[1:] + forces[:-1]) / 2, moves)
    return energy, np.abs(np.diff(energy) + work)


def draw(lengths: np.ndarray, energies: dict[str, np.ndarray], path: Path) -> None:
    """Energies of all scopes over the length of the bond."""
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "mcgm"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for (name, energy), style in zip(energies.items(), ("-", ":", "-"), strict=True):
        axes.plot(lengths, energy - energies["system"][0], style, label=f"scope: {name}")
    for multiple in (BONDED, BROKEN):
        axes.axvline(multiple * SUM_OF_RADII, color="0.8", zorder=0)
    axes.set(xlabel="C–C distance, Å", ylabel="energy, eV", title="Ethanol, one set of weights")
    axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})


def main() -> None:
    """Scan, draw, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a model with long_range 'mcgm'")
    options = parser.parse_args()
    potential = load(options.model).double().eval()
    lengths = np.arange(1.1, 1.75, STEP / SUM_OF_RADII) * SUM_OF_RADII
    figures: dict[str, object] = {
        "question": f"largest |dE + F dr| while ethanol's C-C bond goes from {lengths[0]:.2f} to {lengths[-1]:.2f} Å "
        f"in steps of {STEP} Å"
    }
    energies = {}
    for name, scope in SCOPES.items():
        potential.long_range.scope = scope()
        energies[name], steps = scan(potential, lengths)
        figures[name] = {
            "largest step, eV": float(f"{steps.max():.3g}"),
            "at, Å": round(float(lengths[int(steps.argmax())]), 3),
            "median, eV": float(f"{np.median(steps):.3g}"),
        }
    draw(lengths, energies, RESULTS / "dissociation.svg")
    store("dissociation", figures)


if __name__ == "__main__":
    main()
