"""`mcgm predict`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mcgm.commands.arguments import make_parser, model_path, watched
from mcgm.errors import ConfigError, StructureError

if TYPE_CHECKING:
    from ase import Atoms

    from mcgm.potential import Potential
    from mcgm.structure import Structure

EXAMPLE = """  mcgm predict runs/data molecules.xyz -o predicted.extxyz"""

BATCH_ATOMS = 2000
"""Atoms per batch: bounds the memory, whatever the file's length."""


def run(arguments: list[str]) -> int:
    """Predict all structures of a file, one batch in memory at a time."""
    parser = make_parser(
        "predict", "Energies, forces and (if periodic) stress of the structures in a file, as extxyz.", EXAMPLE
    )
    parser.add_argument("model", metavar="MODEL", help="model file, or the folder of a training")
    parser.add_argument("structures", metavar="IN", help="any format that is read (extxyz, db, npz, ...)")
    parser.add_argument("-o", "--output", required=True, type=Path, help="file to write, .extxyz or .xyz")
    parser.add_argument("--device", default="cpu", help="e.g. cpu, cuda")
    known = parser.parse_args(arguments)
    if known.output.suffix not in (".extxyz", ".xyz"):
        raise ConfigError(f"-o {known.output}: required: a name that ends in .extxyz or .xyz.")

    from mcgm.checkpoint import load
    from mcgm.data import open_structures, sample_path
    from mcgm.memory import bounded_memory

    potential = load(model_path(known.model), device=known.device)
    source = sample_path() if known.structures == "sample" else known.structures
    structures = watched("predicting")(open_structures(source))
    with bounded_memory():
        count = _write(known.output, predictions(potential, structures))
    print(f"{known.output}: {count} structures")
    return 0


def _write(output: Path, frames: Iterable[Atoms]) -> int:
    from ase.io.extxyz import write_xyz

    from mcgm.files import replacing

    count = 0
    with replacing(output) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for atoms in frames:
            write_xyz(stream, [atoms])
            count += 1
    return count


def predictions(potential: Potential, structures: Iterable[Structure]) -> Iterator[Atoms]:
    """The structures with predicted energy (eV), forces (eV/Å), stress, charges (e) and dipole (eÅ) as results.

    `atoms.info["cluster_energy"]` is the part of the energy that long-range nodes hold, eV, `"electrostatic_energy"`
    that of charges. What does not fit into
    memory together is predicted in parts.

    Raises:
        TooLargeError: a structure does not fit, even alone.
    """
    from mcgm.splitting import Splitter, Work

    splitter = Splitter("prediction")
    for group in _groups(structures):

        def part(first: int, last: int, group: list[Structure] = group) -> list[Atoms]:
            return list(_predict(potential, group[first:last]))

        work = Work(
            sizes=[len(structure) for structure in group],
            part=part,
            structure=group.__getitem__,
            trial=lambda structure: list(_predict(potential, [structure])),
        )
        for atoms in splitter.run(work):
            yield from atoms


def _groups(structures: Iterable[Structure]) -> Iterator[list[Structure]]:
    group: list[Structure] = []
    atoms = 0
    for structure in structures:
        # periodic and open structures apart: only the former have a stress
        mixed = group and bool(group[0].pbc.any()) != bool(structure.pbc.any())
        if group and (mixed or atoms + len(structure) > BATCH_ATOMS):
            yield group
            group, atoms = [], 0
        group.append(structure)
        atoms += len(structure)
    if group:
        yield group


def _predict(potential: Potential, group: list[Structure]) -> Iterator[Atoms]:
    import numpy as np
    import torch
    from ase.calculators.singlepoint import SinglePointCalculator

    from mcgm.batch import Batch

    batch = Batch.from_structures(group, cutoff=potential.cutoff, dtype=potential.dtype).to(potential.device)
    with torch.no_grad():
        prediction = potential(batch)
    assert prediction.forces is not None
    ends = np.cumsum([len(structure) for structure in group])
    forces = np.split(prediction.forces.cpu().numpy(), ends[:-1])
    for k, structure in enumerate(group):
        if not (np.isfinite(float(prediction.energy[k])) and np.isfinite(forces[k]).all()):
            raise StructureError(f"{structure}: the model predicts no finite energy and forces for it.")
        atoms = structure.to_atoms()
        results = {"energy": float(prediction.energy[k]), "forces": forces[k]}
        if prediction.stress is not None:
            results["stress"] = prediction.stress[k].cpu().numpy()
        if prediction.charges is not None and prediction.dipole is not None:
            results["charges"] = prediction.charges[ends[k] - len(structure) : ends[k]].cpu().numpy()
            results["dipole"] = prediction.dipole[k].cpu().numpy()
            atoms.info["electrostatic_energy"] = float(prediction.electrostatic_energy[k])
        atoms.info["cluster_energy"] = float(prediction.cluster_energy[k])
        atoms.calc = SinglePointCalculator(atoms, **results)
        yield atoms
