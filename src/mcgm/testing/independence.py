"""What must not matter: batch mates, a second call, and molecules out of reach."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
import torch
from ase.build import make_supercell
from jaxtyping import Int

from mcgm.structure import Structure
from mcgm.testing.predict import Deviation, Predictor, collate, energies, in_double, largest, predict

FAR_APART = 60.0
"""Å; beyond every cutoff times every number of layers in use."""

LARGEST_BATCH = 2000
"""Atoms in a batch of copies."""


def batch_mates(potential: Predictor, structures: Sequence[Structure], *, copies: Sequence[int] = (2, 64)) -> Deviation:
    """Each structure alone against itself among the others, in both orders, and among copies of itself.

    Batches of copies hold at most 2,000 atoms, or two copies.
    """
    alone = [predict(potential, [structure])[0] for structure in structures]
    forward = predict(potential, structures, atoms=np.inf)
    backward = predict(potential, structures[::-1], atoms=np.inf)[::-1]
    pairs = [*zip(alone, forward, strict=True), *zip(alone, backward, strict=True)]
    for reference in alone:
        for count in sorted({min(count, max(2, LARGEST_BATCH // len(reference))) for count in copies}):
            pairs += [(reference, copy) for copy in predict(potential, [reference] * count, atoms=np.inf)]
    return reduce(Deviation.__or__, (Deviation.between(first, second) for first, second in pairs), Deviation())


def gradient_leak(potential: Predictor, structures: Sequence[Structure]) -> float:
    """Largest derivative (eV/Å) of one structure's energy by another's positions in one batch: exactly zero."""
    batch = collate(potential, structures)
    positions = batch.positions.clone().requires_grad_()
    energy = potential(batch.replace(positions=positions), forces=False).energy
    if not energy.requires_grad:
        return 0.0
    leak = 0.0
    for k in range(len(structures)):
        (gradient,) = torch.autograd.grad(energy[k], positions, retain_graph=True, allow_unused=True)
        if gradient is not None:
            leak = largest([leak, *gradient[batch.molecule != k].abs().flatten().tolist()])
    return leak


def repetition(potential: Predictor, structures: Sequence[Structure]) -> float:
    """Largest change (eV, eV/Å) of energies and forces at a second call: exactly zero on the CPU."""
    batch = collate(potential, structures)
    first, second = (potential(batch, forces=True) for _ in range(2))
    change = torch.cat([(first.energy - second.energy).flatten(), (first.forces - second.forces).double().flatten()])
    return float(change.abs().max())


def copies_apart(potential: Predictor, structure: Structure, *, count: int = 3, distance: float = FAR_APART) -> float:
    """Energy per copy of identical molecules `distance` Å apart minus that of one, eV."""
    together = side_by_side([structure] * count, distance)
    alone, all_of_them = energies(potential, [structure, together])
    return abs(float(all_of_them) / count - float(alone))


def unlike_apart(potential: Predictor, first: Structure, second: Structure, *, distance: float = FAR_APART) -> float:
    """Energy of two molecules `distance` Å apart minus those of each alone, eV."""
    both, alone, other = energies(potential, [side_by_side([first, second], distance), first, second])
    return abs(float(both) - float(alone) - float(other))


def unlike_apart_beyond_rounding(potential: Predictor, first: Structure, second: Structure) -> float:
    """As `unlike_apart` in float64, less what rounding the sums of energies can cause; infinite if not finite, eV."""
    potential = in_double(potential)
    both, alone, other = energies(potential, [side_by_side([first, second], FAR_APART), first, second])
    rounding = 16 * np.finfo(np.float64).eps * (abs(both) + abs(alone) + abs(other))
    difference = abs(float(both) - float(alone) - float(other))
    return max(0.0, difference - rounding) if np.isfinite(difference) else float("inf")


def supercell(
    potential: Predictor, structure: Structure, *, repeats: Sequence[int] | Int[np.ndarray, "3 3"] | None = None
) -> Deviation:
    """A crystal against a supercell: same energy per atom, forces and stress.

    `repeats` along the three axes, or the integers that make the supercell's vectors of the cell's (row by row);
    default: twice along the first periodic axis.
    """
    larger, count = repeated(structure, repeats)
    (cell,), (predicted,) = predict(potential, [structure]), predict(potential, [larger])
    assert cell.energy is not None
    assert cell.forces is not None
    expected = larger.replace(energy=cell.energy * count, forces=np.tile(cell.forces, (count, 1)), stress=cell.stress)
    return Deviation.between(expected, predicted)


def repeated(
    structure: Structure, repeats: Sequence[int] | Int[np.ndarray, "3 3"] | None = None
) -> tuple[Structure, int]:
    """The supercell, copy of the cell after copy, and how many copies it has; without labels. See `supercell`."""
    if repeats is None:
        repeats = np.where(np.arange(3) == np.argmax(structure.pbc), 2, 1)
    matrix = np.asarray(repeats)
    matrix = np.diag(matrix) if matrix.ndim == 1 else matrix
    moved = (matrix != np.eye(3)).any(axis=0) | (matrix != np.eye(3)).any(axis=1)
    if not structure.pbc[moved].all():
        raise ValueError(f"{structure} is repeated {repeats} times but periodic along {structure.pbc.tolist()} only.")
    atoms = make_supercell(structure.to_atoms(), matrix, wrap=False)
    count = len(atoms) // len(structure)
    larger = Structure(
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell.array,
        pbc=structure.pbc,
        charge=count * structure.charge,
        spin=count * structure.spin,
        name=structure.name,
    )
    return larger, count


def side_by_side(structures: Sequence[Structure], distance: float) -> Structure:
    """Open structures as one, along the first axis with `distance` Å between their nearest atoms."""
    edge, moved = 0.0, []
    for structure in structures:
        shift = np.array([edge - structure.positions[:, 0].min(), 0.0, 0.0])
        moved.append(structure.positions + shift)
        edge = moved[-1][:, 0].max() + distance
    return Structure(
        numbers=np.concatenate([structure.numbers for structure in structures]),
        positions=np.concatenate(moved),
        charge=sum(structure.charge for structure in structures),
        spin=sum(structure.spin for structure in structures),
        name=" + ".join(structure.name for structure in structures),
    )
