"""Has a crystal the energy per atom, forces and stress of its supercells, for every block and scope?

    python benchmarks/supercells.py

Fresh, perturbed weights of one seed: SchNet, two layers, cutoff 5 Å, float64. Every crystal, sheared and displaced,
against 2x1x1, 2x2x2 and a supercell that is not diagonal (slabs: without the open axis). The largest difference counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal
from side_by_side import store

from mcgm import Batch, Potential, Structure, build
from mcgm.errors import StructureError
from mcgm.long_range import BLOCKS
from mcgm.long_range.latent_charge import ChargeBlock
from mcgm.testing import supercell
from mcgm.testing.predict import Deviation

CUTOFF = 5.0
CHARGE = 0.8
"""of the most charged atom, e."""

MATRICES = (np.diag([2, 1, 1]), np.diag([2, 2, 2]), np.array([[1, 1, 0], [-1, 1, 0], [0, 1, 1]]))
FLAT = (np.diag([2, 1, 1]), np.diag([2, 2, 1]), np.array([[1, 1, 0], [-1, 1, 0], [0, 0, 1]]))
CHOICES: dict[str, tuple[str, dict[str, Any]]] = {
    "`none`": ("none", {}),
    "`mcgm`": ("mcgm", {}),
    '`mcgm`, `scope="molecule"`': ("mcgm", {"scope": "molecule"}),
    "`mcgm_oriented`": ("mcgm_oriented", {}),
    '`mcgm_oriented`, `scope="molecule"`': ("mcgm_oriented", {"scope": "molecule"}),
    "`orientations`": ("orientations", {}),
    "`element_mean`": ("element_mean", {}),
    "`global_mean`": ("global_mean", {}),
    "`mcgm_paper`": ("mcgm_paper", {}),
    '`mcgm_paper`, `scope="molecule"`': ("mcgm_paper", {"scope": "molecule"}),
    '`mcgm_paper`, `energy_per="atom"`': ("mcgm_paper", {"energy_per": "atom"}),
    "`charges`": ("charges", {}),
    '`charges`, `periodic_sum="pme"`': ("charges", {"periodic_sum": "pme"}),
    "`mcgm_charges`": ("mcgm_charges", {}),
    "`mcgm_oriented_charges`": ("mcgm_oriented_charges", {}),
    '`mcgm_charges`, `scope="molecule"`': ("mcgm_charges", {"scope": "molecule"}),
}


def sheared(atoms: Atoms, name: str) -> Structure:
    """With strain and displacements of a seed."""
    chance = np.random.default_rng(0)
    moved = atoms.copy()
    moved.set_cell(atoms.cell @ (np.eye(3) + chance.normal(scale=0.03, size=(3, 3))), scale_atoms=True)
    moved.positions += chance.normal(scale=0.03, size=(len(atoms), 3))
    return Structure.from_atoms(moved).replace(name=name)


def structures() -> list[Structure]:
    """A network, an ionic crystal, a metal, a molecular crystal, chains of partial bonds, a slab."""
    ice = crystal("CO", [(0, 0, 0), (0.119, 0.119, 0.119)], spacegroup=205, cellpar=[5.62] * 3 + [90] * 3)
    chains = Atoms("COCN", [[x, 0, 0] for x in (0, 1.95, 3.9, 5.85)], cell=[7.75, 6, 6.5], pbc=True)
    slab = Atoms("NaCl", [[0, 0, 0], [2.0, 2.0, 0.2]], cell=[4, 4, 15], pbc=(True, True, False))
    animals = {
        "diamond": bulk("C", "diamond", 3.57),
        "NaCl": bulk("NaCl", "rocksalt", 5.64),
        "Cu": bulk("Cu", "fcc", 3.61),
        "solid CO2": ice,
        "partial bonds": chains,
        "NaCl slab": slab,
    }
    return [sheared(atoms, name) for name, atoms in animals.items()]


def make_potential(block: str, options: dict[str, Any]) -> Potential:
    """Every part of it speaks; charges are as large as in an ionic crystal."""
    torch.manual_seed(0)
    network = {"channels": 32, "layers": 2, "radial": 16}
    potential = build(long_range=block, cutoff=CUTOFF, backbone_options=network, long_range_options=options)
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    potential = potential.double().eval()
    if potential.has_charges:
        batch = Batch.from_structures(structures(), cutoff=CUTOFF, dtype=torch.float64)
        (block,) = (part for part in potential.long_range.modules() if isinstance(part, ChargeBlock))
        with torch.no_grad():
            block.output.weight.mul_(CHARGE / potential(batch).charges.abs().max())
    return potential


def largest(potential: Potential, structure: Structure) -> dict[str, float] | str:
    """Over the supercells; what the error says where the block refuses the structure."""
    found = Deviation()
    try:
        for matrix in MATRICES if structure.pbc.all() else FLAT:
            found = found | supercell(potential, structure, repeats=matrix)
    except StructureError as error:
        return str(error)
    parts = {"eV/atom": found.energy, "eV/Å": found.forces, "eV/Å³": found.stress}
    return {unit: float(f"{value:.1e}") for unit, value in parts.items()}


def main() -> None:
    """Measure and store."""
    figures: dict[str, Any] = {
        "question": "largest difference between a crystal and its supercells (2x1x1, 2x2x2, one that is not diagonal), "
        f"fresh weights, charges up to {CHARGE} e, float64"
    }
    named = {block for block, _ in CHOICES.values()}
    others = {f"`{name}`": (name, {}) for name in BLOCKS if name not in named}
    for label, (block, options) in (CHOICES | others).items():
        potential = make_potential(block, options)
        figures[label] = {structure.name: largest(potential, structure) for structure in structures()}
        print(label, figures[label], flush=True)
    store("supercells", figures)


if __name__ == "__main__":
    main()
