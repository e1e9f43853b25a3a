"""Make a set of strained and displaced crystals, labelled with GFN1-xTB: energies, forces, stress, charges.

    pip install tblite
    python tools/make_crystals.py runs/crystals.extxyz

Covalent, ionic and molecular crystals. Cells have 8 to 16 atoms and the labels are those of the Γ point: they belong to
exactly these cells, not to the infinite crystal. The choice is fixed by a seed; a structure whose charges do not
converge is replaced by the next one drawn.
"""

from __future__ import annotations

import argparse
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal
from ase.stress import voigt_6_to_full_3x3_stress
from tblite.ase import TBLite
from tblite.exceptions import TBLiteRuntimeError

from mcgm import Structure
from mcgm.data.writers import write_structures

SEED = 2509
STRUCTURES = 40
"""of each crystal."""

STRAIN, VOLUME, DISPLACEMENT = 0.02, 0.06, 0.05
"""Standard deviation of each strain; largest relative change of volume; standard deviation of positions, Å."""


def ideal() -> dict[str, Atoms]:
    """The crystals at lattice constants from experiment."""
    rocksalt = {"MgO": 4.21, "NaCl": 5.64, "LiF": 4.03}
    cells = {name: bulk(name, "rocksalt", edge, cubic=True) for name, edge in rocksalt.items()}
    cells |= {name: bulk(name, "diamond", edge, cubic=True) for name, edge in {"C": 3.567, "Si": 5.431}.items()}
    cells["SiC"] = bulk("SiC", "zincblende", 4.36, cubic=True)
    cells["CO2"] = crystal("CO", [(0, 0, 0), (0.119, 0.119, 0.119)], spacegroup=205, cellpar=[5.62] * 3 + [90] * 3)
    sites = [(0, 0.5, 0.326), (0, 0.5, 0.595), (0.146, 0.646, 0.177), (0.258, 0.758, 0.283), (0.144, 0.644, 0.962)]
    cells["urea"] = crystal("CONHH", sites, spacegroup=113, cellpar=[5.565, 5.565, 4.684, 90, 90, 90])
    return cells


def distorted(atoms: Atoms, chance: np.random.Generator) -> Atoms:
    """A copy with random strain and displacements; whole molecules are strained, too."""
    strain = chance.normal(scale=STRAIN, size=(3, 3))
    stretch = np.cbrt(1 + chance.uniform(-VOLUME, VOLUME))
    moved = atoms.copy()
    moved.set_cell(atoms.cell @ (stretch * (np.eye(3) + (strain + strain.T) / 2)), scale_atoms=True)
    moved.positions += chance.normal(scale=DISPLACEMENT, size=(len(atoms), 3))
    return moved


def labelled(name: str, atoms: Atoms) -> Structure:
    """With the labels of exactly these positions."""
    atoms.calc = TBLite(method="GFN1-xTB", verbosity=0)
    atoms.get_stress()

    results = atoms.calc.results
    return Structure(
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell.array,
        pbc=True,
        energy=float(results["energy"]),
        forces=results["forces"],
        stress=voigt_6_to_full_3x3_stress(results["stress"]),
        charges=results["charges"],
        group=name,
    )


def series(name: str, count: int, seed: int) -> list[Structure]:
    """So many structures of one crystal."""
    chance = np.random.default_rng([SEED, seed])
    found: list[Structure] = []
    while len(found) < count:
        try:
            structure = labelled(name, distorted(ideal()[name], chance))
        except TBLiteRuntimeError:
            continue
        found.append(structure.replace(name=f"{name}-{len(found):03d}"))
    return found


def main() -> None:
    """Label and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="a file that ends in .extxyz or .npz")
    parser.add_argument("--structures", type=int, default=STRUCTURES, help="of each crystal (%(default)s)")
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    tasks = [(name, arguments.structures, k) for k, name in enumerate(ideal())]
    with Pool(arguments.processes) as pool:
        structures = [structure for found in pool.starmap(series, tasks, chunksize=1) for structure in found]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_structures(structures, arguments.output)
    print(f"{arguments.output}: {len(structures)} structures, {sum(map(len, structures))} atoms")


if __name__ == "__main__":
    main()
