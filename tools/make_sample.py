"""Make the bundled sample: choose conformers from `conformers_xtb`, round them, label them with GFN2-xTB.

    python tools/make_sample.py ../shared/data/conformers_xtb src/mcgm/data/sample/sample.npz

Positions are rounded to 1e-4 Å *before* they are labelled, so the labels belong to exactly the numbers in the file.
Forces are stored to 1e-4 eV/Å, charges to 1e-4 e. The choice of molecules is fixed by a seed.
"""

from __future__ import annotations

import argparse
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from ase import Atoms
from tblite.ase import TBLite

SEED = 2509
MOLECULES = 92
STRUCTURES = 2000
LARGEST_MOLECULE = 62
MOLECULES_PER_ELEMENT = 8
ACCURACY = 0.1


def read(folder: Path) -> list[dict[str, np.ndarray]]:
    """Every conformer of the three parts as a row of its per-molecule and per-atom entries."""
    rows = []
    for part in ("train", "val", "test"):
        with np.load(folder / f"{part}.npz", allow_pickle=False) as file:
            data = {name: file[name] for name in ("n_atoms", "cid", "smiles", "numbers", "positions")}
        ends = np.cumsum(data["n_atoms"])
        for k, (end, n) in enumerate(zip(ends, data["n_atoms"], strict=True)):
            rows.append(
                {
                    "cid": data["cid"][k],
                    "smiles": data["smiles"][k],
                    "numbers": data["numbers"][end - n : end],
                    "positions": data["positions"][end - n : end],
                }
            )
    return rows


def choose(rows: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """Molecules at random up to the size limit, each rare element in enough of them, then conformers in turn."""
    random = np.random.default_rng(SEED)
    conformers: dict[int, list[int]] = {}
    for k, row in enumerate(rows):
        if len(row["numbers"]) <= LARGEST_MOLECULE:
            conformers.setdefault(int(row["cid"]), []).append(k)
    order = [int(cid) for cid in random.permutation(sorted(conformers))]
    elements = {cid: set(rows[conformers[cid][0]]["numbers"].tolist()) for cid in order}
    chosen: list[int] = []
    for element in sorted(set.union(*elements.values()), reverse=True):
        missing = MOLECULES_PER_ELEMENT - sum(element in elements[cid] for cid in chosen)
        candidates = [cid for cid in order if element in elements[cid] and cid not in chosen]
        chosen += candidates[: max(missing, 0)]
    chosen += [cid for cid in order if cid not in chosen][: MOLECULES - len(chosen)]
    turns = [(turn, cid, k) for cid in chosen for turn, k in enumerate(random.permutation(conformers[cid]))]
    picked = sorted(turns)[:STRUCTURES]
    return [rows[k] for _, _, k in sorted(picked, key=lambda item: (item[1], item[0]))]


def label(row: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The row with rounded positions and the labels of exactly these."""
    positions = row["positions"].astype(np.float64)
    positions = np.round(positions - positions.mean(axis=0), 4).astype(np.float32)
    atoms = Atoms(numbers=row["numbers"], positions=positions.astype(np.float64))
    atoms.calc = TBLite(method="GFN2-xTB", accuracy=ACCURACY, verbosity=0)
    return row | {
        "positions": positions,
        "energy": np.float64(atoms.get_potential_energy()),
        "forces": np.round(atoms.get_forces(), 4).astype(np.float32),
        "charges": np.round(atoms.get_charges(), 4).astype(np.float32),
        "dipole": np.round(atoms.get_dipole_moment(), 4).astype(np.float32),
    }


def main() -> None:
    """Write the sample."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="folder with train.npz, val.npz and test.npz of conformers_xtb")
    parser.add_argument("output", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    rows = choose(read(arguments.source))
    print(f"{len(rows)} structures, {sum(len(row['numbers']) for row in rows)} atoms")
    with Pool(arguments.processes) as pool:
        rows = pool.map(label, rows, chunksize=20)
    per_structure = {name: np.array([row[name] for row in rows]) for name in ("cid", "smiles", "energy", "dipole")}
    per_atom = {
        name: np.concatenate([row[name] for row in rows]) for name in ("numbers", "positions", "forces", "charges")
    }
    n_atoms = np.array([len(row["numbers"]) for row in rows], dtype=np.int32)
    np.savez_compressed(arguments.output, n_atoms=n_atoms, **per_structure, **per_atom)
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
