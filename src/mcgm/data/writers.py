"""Structures to files: extxyz that every program reads, npz that is small."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from mcgm.data.columns import Columns
from mcgm.errors import ConfigError, unknown_name
from mcgm.files import replacing
from mcgm.structure import Structure


def labelled_atoms(structure: Structure) -> Atoms:
    """For ASE, with the labels as stored results."""
    atoms = structure.to_atoms()
    results: dict[str, Any] = {
        name: value
        for name in ("energy", "forces", "dipole", "charges")
        if (value := getattr(structure, name)) is not None
    }
    if structure.stress is not None:
        results["stress"] = full_3x3_to_voigt_6_stress(structure.stress)
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def write_extxyz(structures: Iterable[Structure], path: Path) -> None:
    """One after another, with labels, in eV, Å and e; the file appears when it is complete."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for structure in structures:
            ase.io.write(stream, labelled_atoms(structure), format="extxyz")


def write_npz(structures: Iterable[Structure], path: Path) -> None:
    """Flat arrays and `n_atoms`, compressed, as the preset "npz" reads them; the file appears when it is complete."""
    columns = Columns.of(structures)
    arrays = {name: value for name, value in vars(columns).items() if value is not None}
    arrays["n_atoms"] = np.diff(arrays.pop("offsets")).astype(np.int32)
    arrays["cid"] = arrays.pop("group")
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)


WRITERS: MappingProxyType[str, Callable[[Iterable[Structure], Path], None]] = MappingProxyType(
    {".extxyz": write_extxyz, ".xyz": write_extxyz, ".npz": write_npz}
)
"""Suffix → writer."""


def write_structures(structures: Iterable[Structure], path: Path | str) -> None:
    """In the format of the suffix: .extxyz, .xyz or .npz.

    Raises:
        ConfigError: another suffix.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in WRITERS:
        raise ConfigError(f"{path}: {unknown_name('suffix', path.suffix, WRITERS)}")
    WRITERS[path.suffix](structures, path)
