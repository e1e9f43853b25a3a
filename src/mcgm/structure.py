"""One molecule or crystal as it was read: numbers on the CPU, in eV, Å and e."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from mcgm.errors import ConfigError, StructureError

HEAVIEST = 118

REAL_KINDS = "biuf"
"""Kinds of numpy types that are real numbers: boolean, integer, unsigned and floating point."""

PER_ATOM = ("numbers", "positions", "forces", "charges")

LARGEST = MappingProxyType(
    {
        "positions": (1e6, " Å", "Is the unit of length right? Then move the structure nearer to the origin."),
        "cell": (1e6, " Å", "Is the unit of length right? For a structure without a lattice set pbc=False, cell 0."),
        "numbers": (1e6, "", ""),
        "charge": (1e6, " e", ""),
        "spin": (1e6, "", ""),
        "other": (1e12, "", "Is its unit right?"),
    }
)
"""Limit, unit and advice by field. Float64 resolves 1e-10 Å at the limit of positions; no network overflows yet."""


FLAT = 1e-10
"""Volume over the product of the cell's lengths, below which there is none but by rounding."""


def ascending_elements(numbers: Iterable[Any]) -> tuple[int, ...]:
    """Each atomic number once, as a potential says which elements it accepts.

    Raises:
        ConfigError: none, or something else than an atomic number.
    """
    found = set()
    for number in numbers:
        if not hasattr(number, "__index__") or not 1 <= operator.index(number) <= HEAVIEST:
            raise ConfigError(f"elements: {number!r} is no element; required: atomic numbers, 1 to {HEAVIEST}.")
        found.add(operator.index(number))
    if not found:
        raise ConfigError("elements is empty; required: atomic numbers, or None for any.")
    return tuple(sorted(found))


@dataclass(frozen=True, eq=False)
class Structure:
    """One molecule or crystal with the labels it has; absent labels are `None`.

    Shapes: numbers (atom,), positions and forces (atom, 3) in Å and eV/Å, cell (3, 3) with lattice vectors as
    rows, pbc (3,), energy in eV, stress (3, 3) in eV/Å³ (positive under tension, as in ASE), dipole (3,) in eÅ, charges
    (atom,) in e, charge in e, spin as the number of unpaired electrons.
    `name` identifies the structure in messages, `group` the molecule that its conformers share.

    Raises:
        StructureError: empty, wrong shapes, no real numbers, not finite, larger than `LARGEST`, an atomic number
            outside 1..118, or periodic without a cell.
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
        numbers = _atomic_numbers(self)
        shapes = {
            "numbers": numbers.shape,
            "positions": (len(numbers), 3),
            "cell": (3, 3),
            "forces": (len(numbers), 3),
            "stress": (3, 3),
            "dipole": (3,),
            "charges": (len(numbers),),
        }
        object.__setattr__(self, "numbers", numbers)
        for name, shape in shapes.items():
            if name != "numbers" and (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, _array(self, name, value, shape))
        for name in ("charge", "spin", "energy"):
            if name != "energy" or self.energy is not None:
                object.__setattr__(self, name, _scalar(self, name))
        object.__setattr__(self, "pbc", _periodicity(self))
        periodic = int(self.pbc.sum())
        if periodic and np.linalg.matrix_rank(self.cell[self.pbc]) < periodic:
            raise StructureError(
                f"{self}: periodic along {periodic} {'axes' if periodic > 1 else 'axis'}, but the cell vectors there "
                f"do not span them: {self.cell.tolist()}. Give a cell, or set pbc=False."
            )

    def __str__(self) -> str:
        return f"structure {self.name!r}" if self.name else "structure"

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def volume(self) -> float:
        """Å³ of the cell, which stress refers to; zero if not periodic, or for a slab without a third vector.

        Nor has a cell with a third vector in the plane of the others a volume.
        """
        volume = float(abs(np.linalg.det(self.cell)))
        is_flat = volume <= FLAT * np.linalg.norm(self.cell, axis=1).prod()
        return 0.0 if is_flat or not self.pbc.any() else volume

    @classmethod
    def from_atoms(cls, atoms: Atoms, *, name: str = "", group: str = "") -> Structure:
        """From ASE: labels come from the attached calculator's stored results, charge and spin from `atoms.info`."""
        return cls(
            numbers=atoms.numbers,
            positions=atoms.get_positions(),  # copies: ASE moves its atoms in place
            cell=atoms.cell.array.copy(),
            pbc=atoms.pbc,
            charge=atoms.info.get("charge", 0.0),
            spin=atoms.info.get("spin", 0.0),
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


def _atomic_numbers(structure: Structure) -> np.ndarray:
    numbers = _array(structure, "numbers", structure.numbers, None)
    if numbers.ndim != 1 or len(numbers) == 0:
        raise StructureError(f"{structure}: needs at least one atom, got numbers of shape {numbers.shape}.")
    wrong = np.flatnonzero((numbers < 1) | (numbers > HEAVIEST))
    if len(wrong):
        raise StructureError(
            f"{structure}: atom {wrong[0]} has atomic number {numbers[wrong[0]]:g}; required: 1 to {HEAVIEST}."
        )
    wrong = np.flatnonzero(numbers != np.round(numbers))
    if len(wrong):
        raise StructureError(
            f"{structure}: atom {wrong[0]} has atomic number {numbers[wrong[0]]:g}; atomic numbers must be integers."
        )
    return numbers.astype(np.int64)


def _array(structure: Structure, name: str, value: Any, shape: tuple[int, ...] | None) -> np.ndarray:
    """A float64 copy (the caller's atoms may move) of what must be finite real numbers of this shape."""
    array = _real_numbers(structure, name, value)
    if shape is not None and array.shape != shape:
        raise StructureError(f"{structure}: {name} has shape {array.shape}; required: {shape}.")
    most, unit, hint = LARGEST.get(name, LARGEST["other"])
    if (np.abs(array) <= most).all():
        return array
    where = tuple(int(k) for k in np.argwhere(~(np.abs(array) <= most))[0])
    if not np.isfinite(array[where]):
        raise StructureError(f"{structure}: {_place(name, where)} is not finite ({array[where]}).")
    raise StructureError(
        f"{structure}: {_place(name, where)} is {array[where]:g}{unit}; required: at most {most:g}{unit}. {hint}"
    )


def _real_numbers(structure: Structure, name: str, value: Any) -> np.ndarray:
    """A float64 copy; text, complex numbers, objects and masked entries are refused instead of converted silently."""
    try:
        raw = np.asarray(value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise StructureError(f"{structure}: {name} is not an array of numbers: {error}.") from error
    if raw.dtype.kind not in REAL_KINDS:
        raise StructureError(
            f"{structure}: {name} is not an array of numbers but of {raw.dtype}; required: real numbers."
        )
    if np.ma.is_masked(value):
        raise StructureError(f"{structure}: {name} has masked entries; required: a number in every place.")
    with np.errstate(over="ignore"):  # what does not fit float64 becomes infinite, and is refused as such
        return raw.astype(np.float64)


def _scalar(structure: Structure, name: str) -> float:
    value = getattr(structure, name)
    try:
        number = _real_numbers(structure, name, value)
    except StructureError:
        number = np.zeros(0)
    most = LARGEST.get(name, LARGEST["other"])[0]
    if number.size != 1 or not abs(float(number.reshape(()))) <= most:
        shown = f"the text {value!r:.60}" if isinstance(value, str) else f"{value!s:.60}"
        raise StructureError(f"{structure}: {name} is {shown}; required: one finite number, at most {most:g}.")
    return float(number.reshape(()))


def _periodicity(structure: Structure) -> np.ndarray:
    raw = np.asarray(structure.pbc)
    if raw.shape not in ((), (3,)):
        raise StructureError(f"{structure}: pbc has shape {raw.shape}; required: one value, or one for each axis.")
    if raw.dtype.kind not in REAL_KINDS or not ((raw == 0) | (raw == 1)).all():
        raise StructureError(f"{structure}: pbc is {raw.tolist()}; required: true or false, or 1 or 0.")
    return np.array(np.broadcast_to(raw.astype(bool), (3,)))


def _place(name: str, where: tuple[int, ...]) -> str:
    return f"{name} of atom {where[0]}" if name in PER_ATOM and where else f"{name}{list(where) if where else ''}"


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
