"""What dynamics starts from: ASE atoms with momenta, masses and constraints, checked like every other structure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from ase import Atoms

from mcgm.data.ase import read_ase, read_atoms
from mcgm.data.labels import Labels
from mcgm.data.readers import open_structures, reader_of
from mcgm.errors import DataError

KEPT = ("momenta", "masses")


def movable_atoms(path: Path, labels: Labels | None = None) -> Iterator[Atoms]:
    """Structures of a data file, with the momenta, masses and constraints it has.

    Labels are left out; charge and spin are in `atoms.info`. Momenta are in ASE's unit, amu Å / (Å sqrt(amu/eV)).

    Args:
        labels: keys and units of the file; `None`: the format's own.

    Raises:
        DataError: the file or a structure cannot be used.
    """
    structures = open_structures(path, labels)
    if reader_of(path).read is not read_ase:
        yield from (structure.to_atoms() for structure in structures)
        return
    for structure, found in zip(structures, read_atoms(path), strict=True):
        atoms = structure.to_atoms()
        for key in KEPT:
            if key in found.arrays:
                if not np.isfinite(found.arrays[key]).all():
                    raise DataError(f"{path}: {structure} has {key} that are not finite.")
                atoms.set_array(key, found.arrays[key])
        atoms.set_constraint(found.constraints)
        yield atoms


def one_of(path: Path, index: int | None, labels: Labels | None = None) -> Atoms:
    """The structure with this index, negative ones from the end; `None` is for files with a single structure.

    Args:
        labels: keys and units of the file; `None`: the format's own.

    Raises:
        DataError: several structures and no index, or no structure with this index.
    """
    frames = movable_atoms(path, labels)
    if index is None:
        first, *more = islice(frames, 2)
        if more:
            raise DataError(
                f"{path}: holds several structures; required: one. Choose it with --index: 0 is the first, -1 the last."
            )
        return first
    count = 0
    kept: deque[Atoms] = deque(maxlen=-index if index < 0 else 1)
    for count, atoms in enumerate(frames, start=1):
        kept.append(atoms)
        if count == index + 1:
            return atoms
    if index < 0 and count >= -index:
        return kept[0]
    raise DataError(f"{path}: has {count} structures; --index {index} is none of them ({-count} to {count - 1}).")
