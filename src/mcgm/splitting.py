"""Work on a batch that does not fit into memory: done in parts, each as large as has been seen to fit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import torch

from mcgm.batch import Batch, Rounding
from mcgm.errors import MCGMError, TooLargeError
from mcgm.memory import return_freed_memory
from mcgm.neighbors import Neighbors
from mcgm.structure import Structure

T = TypeVar("T")

ALLOCATORS_SAY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "bad allocation",
    "could not create a memory object",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""How torch and the libraries under it word it, where they raise no error of its own class."""

SMALLEST_TRIAL = 2
"""Atoms; a cut-out this small tells nothing."""

_log = logging.getLogger("mcgm")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was refused, on the CPU or on a GPU; errors of this package do not."""
    if isinstance(error, MCGMError):
        return False
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in ALLOCATORS_SAY)


@dataclass(frozen=True)
class Work(Generic[T]):
    """What is to be done for structures side by side: all of them, or one part after the other.

    `part(first, last)` does it for structures first..last-1; `structure(k)` gives one of them, and `trial` does the
    same for any structure, to find out how large one may be.
    """

    sizes: Sequence[int]
    part: Callable[[int, int], T]
    structure: Callable[[int], Structure]
    trial: Callable[[Structure], object]


@dataclass
class Splitter:
    """Does work in as few parts as fit into memory, in order; what did not fit once is not tried again.

    `limit` is the number of atoms in a part, unless it is a single structure; `None` as long as all was well. It
    only falls, by halves, so the parts follow from the sizes and from what failed before, and are the same again.
    """

    task: str
    limit: int | None = field(default=None)

    def run(self, work: Work[T]) -> Iterator[T]:
        """The result of each part.

        Raises:
            TooLargeError: a structure alone does not fit.
        """
        first = 0
        while first < len(work.sizes):
            last = self._end(work.sizes, first)
            result = _attempt(work.part, first, last)
            if not isinstance(result, _Refused):
                yield result
                first = last
                continue
            return_freed_memory()
            if last - first == 1:
                raise TooLargeError(self._too_large(work, first, result))
            self._lower(sum(int(size) for size in work.sizes[first:last]), last - first)

    def _end(self, sizes: Sequence[int], first: int) -> int:
        last, atoms = first + 1, int(sizes[first])
        while last < len(sizes) and (self.limit is None or atoms + int(sizes[last]) <= self.limit):
            atoms += int(sizes[last])
            last += 1
        return last

    def _lower(self, atoms: int, structures: int) -> None:
        self.limit = (atoms + 1) // 2
        _log.warning(
            "%s: a batch of %d atoms in %d structures does not fit into memory; from now on it is done in parts of at "
            "most %d atoms, with the same result.",
            self.task,
            atoms,
            structures,
            self.limit,
        )

    def _too_large(self, work: Work[T], k: int, refused: _Refused) -> str:
        structure = work.structure(k)
        fits = _largest_that_fits(structure, work.trial)
        about = f"about {fits} atoms of its kind would" if fits else "not even a few of its atoms would"
        name = str(structure) if structure.name else f"structure {k} of the batch"
        return (
            f"{self.task}: {name} with {len(structure)} atoms does not fit into memory, even alone; {about}. Leave it "
            "out, or use a smaller cutoff or network, float32 instead of float64, or a machine with more memory. "
            f"({refused.reason})"
        )


def alone(task: str, structure: Structure, do: Callable[[], T], trial: Callable[[Structure], object]) -> T:
    """What `do` returns for one structure.

    Raises:
        TooLargeError: memory is refused; the message has the structure's size and, by `trial`, what would fit.
    """
    work = Work(sizes=[len(structure)], part=lambda first, last: do(), structure=lambda k: structure, trial=trial)
    return next(Splitter(task).run(work))


@dataclass(frozen=True)
class _Refused:
    """No memory; keeps the message and not the error, whose traceback would keep the tensors."""

    reason: str


def _attempt(part: Callable[[int, int], T], first: int, last: int) -> T | _Refused:
    try:
        return part(first, last)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _Refused((str(error).splitlines() or [type(error).__name__])[0])


def _largest_that_fits(structure: Structure, trial: Callable[[Structure], object]) -> int:
    """Atoms of the largest cut-out that fits, to one part in eight; 0: none does."""
    fails, fits = len(structure), 0
    while fails - fits > max(SMALLEST_TRIAL, fails // 8):
        atoms = (fails + fits) // 2 if fits else fails // 2
        piece = _cut_out(structure, atoms)
        refused = isinstance(_attempt(lambda first, last, piece=piece: trial(piece), 0, 1), _Refused)
        return_freed_memory()
        fits, fails = (fits, atoms) if refused else (atoms, fails)
    return fits


def _cut_out(structure: Structure, atoms: int) -> Structure:
    """The atoms nearest to the middle, as dense as they were, without labels and cell."""
    distance = np.linalg.norm(structure.positions - structure.positions.mean(0), axis=1)
    chosen = np.sort(np.argsort(distance, kind="stable")[:atoms])
    return Structure(structure.numbers[chosen], structure.positions[chosen], charge=structure.charge)


def part_of(batch: Batch, first: int, last: int) -> Batch:
    """Structures first..last-1 of a batch, with the very same pairs, without an index."""
    ends = torch.tensor([first, last], device=batch.device)
    start, stop = torch.searchsorted(batch.molecule, ends).tolist()
    neighbors = batch.neighbors
    low, high = torch.searchsorted(neighbors.target, torch.tensor([start, stop], device=batch.device)).tolist()
    crossing = neighbors.crossing[(neighbors.crossing >= low) & (neighbors.crossing < high)]
    taken = batch.rounding
    return batch.replace(
        numbers=batch.numbers[start:stop],
        positions=batch.positions[start:stop],
        molecule=batch.molecule[start:stop] - first,
        cell=batch.cell[first:last],
        pbc=batch.pbc[first:last],
        charge=batch.charge[first:last],
        spin=batch.spin[first:last],
        neighbors=Neighbors(
            source=neighbors.source[low:high] - start,
            target=neighbors.target[low:high] - start,
            image=neighbors.image[low:high],
            crossing=crossing - low,
        ),
        periodic=bool(batch.pbc[first:last].any()),
        index=None,
        rounding=None
        if taken is None
        else Rounding(taken.positions[start:stop], taken.cell[first:last], taken.vectors[low:high]),
    )


def structure_of(batch: Batch, k: int, name: str = "") -> Structure:
    """One structure of a batch, without labels."""
    piece = part_of(batch, k, k + 1)
    return Structure(
        numbers=piece.numbers.cpu().numpy(),
        positions=piece.positions.detach().double().cpu().numpy(),
        cell=piece.cell[0].double().cpu().numpy(),
        pbc=piece.pbc[0].cpu().numpy(),
        charge=float(piece.charge[0]),
        spin=float(piece.spin[0]),
        name=name,
    )
