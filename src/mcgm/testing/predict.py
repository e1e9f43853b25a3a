"""How the checks ask a potential: structures in, the same structures with predicted labels out."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from mcgm.batch import Batch
from mcgm.structure import Structure


class Predictor(Protocol):
    """What the checks need of a potential: a cutoff (Å), and energies and forces for a batch."""

    @property
    def cutoff(self) -> float:
        """Å."""

    def __call__(self, batch: Batch, *, forces: bool = ..., stress: bool = ...) -> Any:
        """Prediction with `energy` (molecule), `forces` (atom, 3) and, if asked for, `stress` (molecule, 3, 3)."""


P = TypeVar("P", bound=Predictor)

ATOMS_TOGETHER = 400
"""Atoms evaluated together: more make tensors that no longer fit the caches of a processor."""


def largest(values: Iterable[float]) -> float:
    """The largest value, not a number if any is not (Python's `max` would drop it); zero for none."""
    return float(np.max([*values, 0.0]))


@dataclass(frozen=True)
class Deviation:
    """Largest difference between predictions that should be equal: eV per atom, eV/Å, eV/Å³."""

    energy: float = 0.0
    forces: float = 0.0
    stress: float = 0.0

    def __or__(self, other: Deviation) -> Deviation:
        """The larger of both, part by part."""
        parts = ((self.energy, other.energy), (self.forces, other.forces), (self.stress, other.stress))
        return Deviation(*(largest(pair) for pair in parts))

    @classmethod
    def between(cls, first: Structure, second: Structure) -> Deviation:
        """Of the labels of two structures with the same atoms in the same order."""
        stress = 0.0 if first.stress is None or second.stress is None else np.abs(first.stress - second.stress).max()
        assert first.energy is not None
        assert second.energy is not None
        assert first.forces is not None
        assert second.forces is not None
        return cls(
            energy=abs(first.energy - second.energy) / len(first),
            forces=float(np.abs(first.forces - second.forces).max()),
            stress=float(stress),
        )


def dtype_of(potential: Predictor) -> torch.dtype:
    """Type of the weights; float64 for a potential without any."""
    parameters = potential.parameters() if isinstance(potential, torch.nn.Module) else ()
    return next((p.dtype for p in parameters if p.is_floating_point()), torch.float64)


def device_of(potential: Predictor) -> torch.device:
    """Where the weights are."""
    parameters = potential.parameters() if isinstance(potential, torch.nn.Module) else ()
    return next((p.device for p in parameters), torch.device("cpu"))


def in_double(potential: P) -> P:
    """The potential itself if it is in float64, else a copy that is: derivatives are measured without rounding."""
    if dtype_of(potential) == torch.float64 or not isinstance(potential, torch.nn.Module):
        return potential
    return copy.deepcopy(potential).double()


def collate(potential: Predictor, structures: Sequence[Structure]) -> Batch:
    """Batch in the type and on the device of the potential."""
    batch = Batch.from_structures(structures, cutoff=potential.cutoff, dtype=dtype_of(potential))
    return batch.to(device_of(potential))


def predict(
    potential: Predictor, structures: Sequence[Structure], *, chunk: int = 256, atoms: float = ATOMS_TOGETHER
) -> list[Structure]:
    """The structures with predicted energy, forces and, where all are periodic and have a volume, stress.

    Evaluated at most `chunk` structures or `atoms` atoms at a time, and at least one structure.

    Raises:
        StructureError: a prediction is not finite.
    """
    stress = all(structure.volume > 0 for structure in structures)
    labelled: list[Structure] = []
    for part in _parts(structures, chunk, atoms):
        prediction = potential(collate(potential, part), forces=True, stress=stress)
        energies = prediction.energy.detach().double().cpu().numpy()
        forces = np.split(_array(prediction.forces), np.cumsum([len(s) for s in part])[:-1])
        stresses = _array(prediction.stress) if stress else [None] * len(part)
        for structure, *labels in zip(part, energies, forces, stresses, strict=True):
            labelled.append(structure.replace(**dict(zip(("energy", "forces", "stress"), labels, strict=True))))
    return labelled


def energies(potential: Predictor, structures: Sequence[Structure], *, chunk: int = 256) -> np.ndarray:
    """Energies alone, eV."""
    with torch.no_grad():
        parts = _parts(structures, chunk, ATOMS_TOGETHER)
        return np.concatenate([_array(potential(collate(potential, part), forces=False).energy) for part in parts])


def _parts(structures: Sequence[Structure], chunk: int, atoms: float) -> Iterator[Sequence[Structure]]:
    start, count = 0, 0
    for k, structure in enumerate(structures):
        if k > start and (k - start == chunk or count + len(structure) > atoms):
            yield structures[start:k]
            start, count = k, 0
        count += len(structure)
    if structures:
        yield structures[start:]


def _array(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()
