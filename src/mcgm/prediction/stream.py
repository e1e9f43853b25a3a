"""Structures in, the same structures with predicted labels out, one batch in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from ase import Atoms

from mcgm.batch import Batch
from mcgm.data.writers import labelled_atoms
from mcgm.errors import StructureError, named
from mcgm.potential import Potential, Prediction
from mcgm.splitting import Splitter, Work
from mcgm.structure import Structure

BATCH_ATOMS = 2000
"""Atoms per batch: bounds the memory, whatever the file's length."""


@dataclass(frozen=True, eq=False)
class Predicted:
    """A structure with predicted energy (eV), forces (eV/Å) and, where there are any, stress, charges and dipole.

    `parts` are further numbers of the structure: `cluster_energy` is the part of the energy that long-range nodes hold,
    `electrostatic_energy` that of charges, eV. Of a committee also `energy_spread` (eV), `out_of_domain` and, in
    `per_atom`, `forces_spread` (eV/Å).
    """

    structure: Structure
    parts: Mapping[str, float | bool]
    per_atom: Mapping[str, np.ndarray] = field(default_factory=dict)

    def to_atoms(self) -> Atoms:
        """For ASE: labels as stored results, everything else in `info` and `arrays`."""
        atoms = labelled_atoms(self.structure)
        atoms.info |= self.parts
        for name, values in self.per_atom.items():
            atoms.set_array(name, values)
        return atoms


def predictions(
    potential: Potential, structures: Iterable[Structure], *, batch_atoms: int = BATCH_ATOMS
) -> Iterator[Atoms]:
    """The structures with predictions as stored results and in `info`, see `Predicted`, in order.

    What does not fit into memory together is predicted in parts.

    Raises:
        StructureError: an element that the potential does not know, or no finite prediction.
        TooLargeError: a structure does not fit, even alone.
    """
    splitter = Splitter("prediction")
    for batch in filled(structures, batch_atoms):
        for predicted in predict_batch(potential, batch, splitter):
            yield predicted.to_atoms()


def filled(structures: Iterable[Structure], atoms: int) -> Iterator[list[Structure]]:
    """Consecutive structures in batches of at most so many atoms, and at least one structure."""
    batch: list[Structure] = []
    room = atoms
    for structure in structures:
        if batch and len(structure) > room:
            yield batch
            batch, room = [], atoms
        batch.append(structure)
        room -= len(structure)
    if batch:
        yield batch


def predict_batch(potential: Potential, batch: Sequence[Structure], splitter: Splitter) -> list[Predicted]:
    """Predict structures side by side, in as many parts as the splitter has found to fit into memory.

    Raises:
        StructureError: an element that the potential does not know, or no finite prediction.
        TooLargeError: a structure does not fit, even alone.
    """
    work = Work(
        sizes=[len(structure) for structure in batch],
        part=lambda first, last: _predicted(potential, batch[first:last]),
        structure=batch.__getitem__,
        trial=lambda structure: _predicted(potential, [structure]),
    )
    return [item for part in splitter.run(work) for item in part]


def _predicted(potential: Potential, structures: Sequence[Structure]) -> list[Predicted]:
    batch = Batch.from_structures(structures, cutoff=potential.cutoff, dtype=potential.dtype).to(potential.device)
    with torch.no_grad(), named(structures):
        prediction = potential(batch)
    ends = np.cumsum([len(structure) for structure in structures])
    starts = [0, *ends[:-1].tolist()]
    numbers = _Numbers(prediction)
    spans = zip(structures, starts, ends.tolist(), strict=True)
    return [numbers.of(k, structure, slice(start, end)) for k, (structure, start, end) in enumerate(spans)]


class _Numbers:
    """A batch's prediction as arrays, from which each structure takes its own."""

    def __init__(self, prediction: Prediction) -> None:
        assert prediction.forces is not None
        self.energy, self.forces = _array(prediction.energy), _array(prediction.forces)
        self.stress = None if prediction.stress is None else _array(prediction.stress)
        self.charges = None if prediction.charges is None else _array(prediction.charges)
        self.dipole = None if prediction.dipole is None else _array(prediction.dipole)
        self.parts = {"cluster_energy": _array(prediction.cluster_energy)}
        if self.charges is not None:
            self.parts["electrostatic_energy"] = _array(prediction.electrostatic_energy)
        if prediction.energy_spread is not None:
            self.parts["energy_spread"] = _array(prediction.energy_spread)
        self.forces_spread = None if prediction.forces_spread is None else _array(prediction.forces_spread)
        self.outside = None if prediction.out_of_domain is None else prediction.out_of_domain.cpu().numpy()

    def of(self, k: int, structure: Structure, atoms: slice) -> Predicted:
        """Structure k, whose atoms are these."""
        if not (np.isfinite(self.energy[k]) and np.isfinite(self.forces[atoms]).all()):
            raise StructureError(f"{structure}: the model predicts no finite energy and forces for it.")
        labelled = structure.replace(
            energy=float(self.energy[k]),
            forces=self.forces[atoms],
            stress=self.stress[k] if self.stress is not None and structure.volume > 0 else None,
            charges=None if self.charges is None else self.charges[atoms],
            dipole=None if self.dipole is None else self.dipole[k],
        )
        parts: dict[str, float | bool] = {name: float(values[k]) for name, values in self.parts.items()}
        if self.outside is not None:
            parts["out_of_domain"] = bool(self.outside[k])
        per_atom = {} if self.forces_spread is None else {"forces_spread": self.forces_spread[atoms]}
        return Predicted(labelled, parts, per_atom)


def _array(values: torch.Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()
