"""One molecule or crystal as it was read: numbers on the CPU, in eV, Å and e."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from mcgm.errors import StructureError

HEAVIEST = 118


@dataclass(frozen=True, eq=False)
class Structure:
    """One molecule or crystal with the labels it has; absent labels are `None`.

    Shapes: numbers (atom,), positions and forces (atom, 3) in Å and eV/Å, cell (3, 3) with lattice vectors as
    rows, pbc (3,), energy in eV, stress (3, 3) in eV/Å³ (positive under tension, as in ASE), dipole (3,) in eÅ, charges
    (atom,) in e, charge in e, spin as the number of unpaired electrons.
    `name` identifies the structure in messages, `group` the molecule that its conformers share.

    Raises:
        StructureError: empty, wrong shapes, not finite, or an atomic number outside 1..118.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray = field(default_factory=lambda: np.zeros((3, 3)))
    pbc: np.ndarray = field(default_factory=lambda: np.zeros(3, dtype=bool))
    charge: float = 0.0
    spin: float = 0.0
    energy: float | None = None
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    dipole: np.ndarray | None = None
    charges: np.ndarray | None = None
    name: str = ""
    group: str = ""

    def __post_init__(self) -> None:
        numbers = _array(self, "numbers", self.numbers, None)
        if numbers.ndim != 1 or len(numbers) == 0:
            raise StructureError(f"{self}: needs at least one atom, got numbers of shape {numbers.shape}.")
        if not np.array_equal(numbers, numbers.astype(np.int64)):
            raise StructureError(f"{self}: atomic numbers must be integers.")
        wrong = np.flatnonzero((numbers < 1) | (numbers > HEAVIEST))
        if len(wrong):
            raise StructureError(
                f"{self}: atom {wrong[0]} has atomic number {numbers[wrong[0]]:g}; required: 1 to {HEAVIEST}."
            )
        object.__setattr__(self, "numbers", numbers.astype(np.int64))
        n = len(numbers)
        shapes = {
            "positions": (n, 3),
            "cell": (3, 3),
            "forces": (n, 3),
            "stress": (3, 3),
            "dipole": (3,),
            "charges": (n,),
        }
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _array(self, name, value, shape))
        pbc = np.asarray(self.pbc, dtype=bool)
        if pbc.shape not in ((), (3,)):
            raise StructureError(f"{self}: pbc has shape {pbc.shape}; required: one value, or one for each axis.")
        object.__setattr__(self, "pbc", np.array(np.broadcast_to(pbc, (3,))))
        for name in ("charge", "spin", "energy"):
            value = getattr(self, name)
            if value is not None and not np.isfinite(value):
                raise StructureError(f"{self}: {name} is {value}; required: a finite number.")
        if self.pbc.any() and np.linalg.matrix_rank(self.cell[self.pbc]) < int(self.pbc.sum()):
            raise StructureError(
                f"{self}: periodic along {int(self.pbc.sum())} axes, but the cell vectors there do not span them: "
                f"{self.cell.tolist()}. Give a cell, or set pbc=False."
            )

    def __str__(self) -> str:
        return f"structure {self.name!r}" if self.name else "structure"

    def __len__(self) -> int:
        return len(self.numbers)

    @classmethod
    def from_atoms(cls, atoms: Atoms, *, name: str = "", group: str = "") -> Structure:
        """From ASE: labels come from the attached calculator's stored results, charge and spin from `atoms.info`."""
        return cls(
            numbers=atoms.numbers,
            positions=atoms.get_positions(),  # copies: ASE moves its atoms in place
            cell=atoms.cell.array.copy(),
            pbc=atoms.pbc,
            charge=float(atoms.info.get("charge", 0.0)),
            spin=float(atoms.info.get("spin", 0.0)),
            name=name or str(atoms.info.get("name", "")),
            group=group or str(atoms.info.get("group", "")),
            **_stored_results(atoms),
        )

    def to_atoms(self) -> Atoms:
        """To ASE, without labels; charge and spin go to `atoms.info`."""
        info: dict[str, Any] = {"charge": self.charge, "spin": self.spin}
        info |= {key: value for key, value in (("name", self.name), ("group", self.group)) if value}
        return Atoms(numbers=self.numbers, positions=self.positions, cell=self.cell, pbc=self.pbc, info=info)

    def replace(self, **changes: Any) -> Structure:
        """A copy with some fields changed, checked again."""
        return Structure(**{item.name: getattr(self, item.name) for item in fields(self)} | changes)


def _array(structure: Structure, name: str, value: Any, shape: tuple[int, ...] | None) -> np.ndarray:
    try:
        array = np.array(value, dtype=np.float64)  # a copy: the caller's atoms may move
    except (TypeError, ValueError) as error:
        raise StructureError(f"{structure}: {name} is not an array of numbers: {error}.") from error
    if shape is not None and array.shape != shape:
        raise StructureError(f"{structure}: {name} has shape {array.shape}; required: {shape}.")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        raise StructureError(f"{structure}: {name} of atom {bad[0][0]} is not finite ({array[tuple(bad[0])]}).")
    return array


def _stored_results(atoms: Atoms) -> Mapping[str, Any]:
    """Labels that a reader attached, if they are of these very positions; never runs a calculator."""
    calculator = atoms.calc
    if calculator is None or calculator.check_state(atoms):
        return {}
    results = getattr(calculator, "results", {})
    labels: dict[str, Any] = {key: results[key] for key in ("energy", "forces", "dipole", "charges") if key in results}
    if results.get("stress") is not None:
        stress = np.asarray(results["stress"])
        labels["stress"] = voigt_6_to_full_3x3_stress(stress) if stress.shape == (6,) else stress
    return labels
