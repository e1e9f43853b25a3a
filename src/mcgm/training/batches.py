"""Which structures go together, and what the network reads of them beside their labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.data import Sampler

from mcgm.batch import Batch, to
from mcgm.errors import DataError
from mcgm.potential import Potential
from mcgm.splitting import is_out_of_memory
from mcgm.structure import Structure
from mcgm.training.filling import Filling

EVALUATION_ATOMS = 2000
"""Atoms per batch wherever errors are measured: validation and `mcgm evaluate` then see the very same batches."""


@dataclass(frozen=True, eq=False)
class LabelledBatch:
    """A batch with its labels: energies in eV (float64), forces in eV/Å, charges in e, dipoles in eÅ, stress in eV/Å³.

    Zero where a structure has none; a structure that is not periodic has no stress, whatever its file says. `filled` is
    the batch, which then has no index, with what fills it up to one of a few sizes.
    """

    batch: Batch
    energy: Float[Tensor, "molecule"]
    sizes: Float[Tensor, "molecule"]
    forces: Float[Tensor, "atom 3"]
    has_forces: Bool[Tensor, "atom"]
    charges: Float[Tensor, "atom"]
    has_charges: Bool[Tensor, "atom"]
    dipole: Float[Tensor, "molecule 3"]
    has_dipole: Bool[Tensor, "molecule"]
    stress: Float[Tensor, "molecule 3 3"]
    has_stress: Bool[Tensor, "molecule"]
    names: tuple[str, ...]
    filled: Batch | None = None

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device) -> LabelledBatch:
        """Move to a device."""
        return to(self, device)


@dataclass(frozen=True)
class Collate:
    """Turns structures into a labelled batch for one potential; runs in the data workers.

    Args:
        filling: sizes that batches are filled up to.

    Raises:
        DataError: a structure has no energy.
    """

    potential: Potential
    dtype: torch.dtype
    filling: Filling | None = None

    def __call__(self, structures: Sequence[Structure]) -> LabelledBatch:
        """Neighbours, index tensors and labels of the structures."""
        missing = [str(item) for item in structures if item.energy is None]
        if missing:
            raise DataError(f"{missing[0]} has no energy; required: an energy for every structure used in training.")
        exact = Batch.from_structures(structures, cutoff=self.potential.cutoff, dtype=torch.float64)
        batch, filled = exact.to(self.dtype), self._filled(exact)
        forces, has_forces = _per_atom(structures, "forces", (3,))
        charges, has_charges = _per_atom(structures, "charges", ())
        dipole, has_dipole = _per_structure([s.dipole for s in structures], (3,))
        stress, has_stress = _per_structure([s.stress if s.volume > 0 else None for s in structures], (3, 3))
        return LabelledBatch(
            batch=self._indexed(batch) if filled is None else batch,
            energy=torch.tensor([s.energy for s in structures], dtype=torch.float64),
            sizes=torch.tensor([len(s) for s in structures], dtype=torch.float64),
            forces=forces,
            has_forces=has_forces,
            charges=charges,
            has_charges=has_charges,
            dipole=dipole,
            has_dipole=has_dipole,
            stress=stress,
            has_stress=has_stress,
            names=tuple(s.name for s in structures),
            filled=filled,
        )

    def _filled(self, exact: Batch) -> Batch | None:
        filled = None if self.filling is None else self.filling.fill(exact)
        if self.filling is None or filled is None:
            return None
        filled = self._indexed(filled.to(self.dtype))
        if filled.index is None:
            return None
        return filled.replace(index=self.filling.widened(filled.index))

    def _indexed(self, batch: Batch) -> Batch:
        try:
            return self.potential.index(batch)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return batch  # the potential will index it again, in parts


def _per_atom(structures: Sequence[Structure], label: str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The label of all atoms, zero where a structure has none, and where there is one."""
    given = [getattr(structure, label) for structure in structures]
    pairs = list(zip(structures, given, strict=True))
    values = [np.zeros((len(structure), *shape)) if value is None else value for structure, value in pairs]
    known = [np.full(len(structure), value is not None) for structure, value in pairs]
    return torch.from_numpy(np.concatenate(values)), torch.from_numpy(np.concatenate(known))


def _per_structure(given: Sequence[np.ndarray | None], shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The labels, zero where a structure has none, and where there is one."""
    values = np.array([np.zeros(shape) if value is None else value for value in given])
    return torch.from_numpy(values), torch.tensor([value is not None for value in given])


def pack(
    order: Sequence[int] | np.ndarray, sizes: np.ndarray, *, atoms: int | None, structures: int | None
) -> list[list[int]]:
    """Consecutive entries of `order` in batches of at most so many atoms and structures, and at least one structure."""
    batches: list[list[int]] = []
    room = 0.0
    for index in order:
        size = int(sizes[index])
        full = not batches or size > room or (structures is not None and len(batches[-1]) >= structures)
        if full:
            batches.append([])
            room = np.inf if atoms is None else atoms
        batches[-1].append(int(index))
        room -= size
    return batches


class BatchSampler(Sampler[list[int]]):
    """Batches of one epoch, shuffled by seed and epoch alone, shared out among ranks.

    Ranks get disjoint batches and equally many. Where the last round has none for a rank, it gets a single structure
    that does not count: only the first `counted` batches of a rank do. The same seed and epoch give the same batches
    again, which makes resuming exact: the first `start` of them are then passed over, and still in the length.

    Raises:
        DataError: fewer batches than ranks.
    """

    def __init__(
        self,
        sizes: np.ndarray,
        *,
        atoms: int | None,
        structures: int | None,
        seed: int,
        epoch: int,
        rank: int = 0,
        ranks: int = 1,
        start: int = 0,
    ) -> None:
        order = np.random.default_rng([seed, epoch]).permutation(len(sizes))
        batches = pack(order, np.asarray(sizes), atoms=atoms, structures=structures)
        if len(batches) < ranks:
            raise DataError(
                f"{len(sizes)} training structures fill {len(batches)} batches; required: one for each of {ranks} "
                "devices. Make batches smaller (batch_atoms, batch_structures) or use fewer devices."
            )
        self.batches = batches[rank::ranks]
        self.counted = len(self.batches)
        if self.counted < -(-len(batches) // ranks):
            self.batches.append([int(np.argmin(sizes))])
        self.start = start

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches[self.start :])

    def __len__(self) -> int:
        return len(self.batches)


class EvaluationSampler(Sampler[list[int]]):
    """Every structure exactly once over all ranks, in the order of the data set; every rank gets at least one.

    Raises:
        DataError: fewer structures than ranks.
    """

    def __init__(self, sizes: np.ndarray, *, rank: int = 0, ranks: int = 1, atoms: int = EVALUATION_ATOMS) -> None:
        if len(sizes) < ranks:
            raise DataError(f"{len(sizes)} structures to evaluate on {ranks} devices; required: one for each at least.")
        batches = pack(range(len(sizes)), np.asarray(sizes), atoms=atoms, structures=None)
        while len(batches) < ranks:
            longest = max(range(len(batches)), key=lambda k: len(batches[k]))
            whole = batches[longest]
            batches[longest : longest + 1] = [whole[: len(whole) // 2], whole[len(whole) // 2 :]]
        self.batches = batches[rank::ranks]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)
