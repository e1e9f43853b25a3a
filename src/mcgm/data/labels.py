"""What a file calls its entries and in which units they are: declared, never guessed."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np
from ase.data import atomic_masses

from mcgm.errors import ConfigError, DataError, unknown_name
from mcgm.structure import REAL_KINDS, Structure
from mcgm.units import factor

EnergyKind = Literal["total", "atomisation", "interaction"]


@dataclass(frozen=True)
class Labels:
    """Keys and units of one file. A key that is `None` is not read; a key that is given must be in the file.

    `numbers`, `positions`, `n_atoms` are read by array formats (npz, HDF5) only; in OE62 `positions` is the column with
    the xyz text. `group` is the key of the molecule that conformers share. Quantities named in `optional` may be
    absent, or NaN; those in `somewhere` as well, but at least one structure of a data set has them. `forces_unit` and
    `dipole_unit` follow from energy and length when they are not given.
    `energy_kind` says what the energies are: "total", "atomisation" (minus free atoms) or "interaction".
    `stress_kind` says what is under the key of the stress: "stress", positive under tension, or "virial", which is
    minus the stress times the volume, in units of energy.
    `dipole_about` says where dipoles of ions start: at the centre of "mass", as inside, or at the "origin".
    In files that ASE reads, energy, charge and spin may be sums of entries: "chargeA + chargeB", "E - E_A - E_B".
    `where` picks structures there: "structure_type = dimer_original" reads those with this value alone.

    Raises:
        ConfigError: unknown unit, energy kind or centre of dipoles; or `where` is not of that form.
    """

    energy: str | None = None
    forces: str | None = None
    stress: str | None = None
    dipole: str | None = None
    charges: str | None = None
    charge: str | None = None
    spin: str | None = None
    name: str | None = None
    group: str | None = None
    numbers: str = "numbers"
    positions: str = "positions"
    n_atoms: str = "n_atoms"
    cell: str | None = None
    pbc: str | None = None
    optional: tuple[str, ...] = ()
    somewhere: tuple[str, ...] = ()
    energy_unit: str = "eV"
    length_unit: str = "Å"
    forces_unit: str | None = None
    stress_unit: str = "eV/Å³"
    dipole_unit: str | None = None
    energy_kind: EnergyKind = "total"
    dipole_about: Literal["mass", "origin"] = "mass"
    stress_kind: Literal["stress", "virial"] = "stress"
    where: str | None = None

    def __post_init__(self) -> None:
        choices = {
            "energy_kind": ("total", "atomisation", "interaction"),
            "dipole_about": ("mass", "origin"),
            "stress_kind": ("stress", "virial"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ConfigError(unknown_name(name, getattr(self, name), known))
        if self.where is not None and not all(self.condition):
            raise ConfigError(f"where is {self.where!r}; required: the form 'key = value'.")
        object.__setattr__(self, "somewhere", tuple(self.somewhere))
        object.__setattr__(self, "optional", (*self.optional, *(q for q in self.somewhere if q not in self.optional)))
        for quantity in ("energy", "length", "forces", "stress", "dipole"):
            self.factor(quantity)

    def factor(self, quantity: Literal["energy", "length", "forces", "stress", "dipole"] | str) -> float:
        """What the file's values are multiplied with to be in eV, Å, eV/Å, eV/Å³, eÅ."""
        if quantity == "stress" and self.stress_kind == "virial":
            return factor("energy", self.energy_unit)
        unit = getattr(self, f"{quantity}_unit")
        if unit is not None:
            return factor(quantity, unit)
        length = factor("length", self.length_unit)
        return factor("energy", self.energy_unit) / length if quantity == "forces" else length

    def missing(self, quantity: str, where: str, found: Iterable[str]) -> DataError | None:
        """The error for a declared key that is not in the file, or `None` where it may be absent."""
        if quantity in self.optional:
            return None
        key = getattr(self, quantity)
        keys = sorted(found)
        near = difflib.get_close_matches(str(key), keys, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return DataError(
            f"{where}: no {quantity} under the key {key!r}.{hint} Keys found: {', '.join(keys) or 'none'}. "
            f"Declare the one that holds it: {said(quantity)}."
        )

    @property
    def condition(self) -> tuple[str, str]:
        """Key and value that `where` asks for."""
        key, _, value = (self.where or "").partition("=")
        return key.strip(), value.strip()

    @property
    def fingerprint(self) -> str:
        """Eight characters that differ between declarations."""
        said = asdict(self)
        del said["somewhere"]  # not of one file
        if self.stress_kind == "stress":
            del said["stress_kind"]  # as before there was such an entry
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:8]


PREDICTED = ("energy", "forces", "stress", "dipole", "charges")
"""What structures of a data set may have or not."""

_LABELLED = ("energy", "forces", "stress", "dipole", "charges", "charge", "spin", "name", "group")

ASE = Labels(
    energy="energy",
    forces="forces",
    stress="stress",
    dipole="dipole",
    charges="charges",
    charge="charge",
    spin="spin",
    name="name",
    group="group",
    optional=_LABELLED,
)
"""Stored calculator results and `atoms.info`, in ASE's units; any of them may be absent."""

NPZ = replace(ASE, group="cid", cell="cell", pbc="pbc", optional=(*_LABELLED, "cell", "pbc"))
"""Arrays named as here, in eV, Å, e; any label may be absent. The bundled sample, `conformers_xtb`, `pubchem_xtb`."""

RUNNER = Labels(
    energy="energy",
    forces="forces",
    charges="charges",
    charge="charge",
    optional=_LABELLED,
    energy_unit="hartree",
    length_unit="bohr",
)
"""`input.data` of RuNNer and n2p2 in their usual units; any label may be absent."""

ZIP = replace(ASE, name="member", group="system")
"""xyz files in a zip: as `ASE`; the name of a structure is that of its file, less a last `_` and what follows its
group's, so that `1.02_080` and `1.02_090` share one."""

NCI_ATLAS = Labels(
    energy="benchmark_Eint",
    energy_unit="kcal/mol",
    energy_kind="interaction",
    charge="charge",
    name="member",
    group="system",
)
"""Archives of the NCI Atlas: CCSD(T)/CBS interaction energies along dissociation curves; one group per dimer."""

SAPT10K = replace(NCI_ATLAS, name="file_name", group="folder_name", where="structure_type = dimer_original")
"""SAPT10k (doi:10.1063/5.0204064): interaction energies of the dimers, without their copies pulled apart; groups are
the benchmarks that they come from."""

CONFORMER_BENCHMARK = Labels(
    numbers="z",
    positions="pos",
    n_atoms="n",
    energy="E_wb97xd",
    energy_unit="hartree",
    charge="charge",
    group="mol",
    optional=("energy",),
)
"""Conformers of drug-like molecules (doi:10.1002/qua.26381) as one npz: wB97X-D3 total energies, a few are missing."""

QM9 = Labels(
    numbers="Elements", positions="XYZ_Ang", energy="InternalEnergy_0K_au", energy_unit="hartree", name="XYZ_file"
)
"""QM9 (doi:10.1038/sdata.2014.22) as the csv of the package qm9pack: internal energies at 0 K (B3LYP)."""

MD17 = Labels(numbers="z", positions="R", energy="E", forces="F", energy_unit="kcal/mol")
"""npz of MD17 and MD22: one composition, kcal/mol."""

QM7 = Labels(
    numbers="Z", positions="R", energy="T", length_unit="bohr", energy_unit="kcal/mol", energy_kind="atomisation"
)
"""QM7 as padded arrays: atomisation energies in kcal/mol, positions in bohr."""

AQM = Labels(numbers="atNUM", positions="atXYZ", energy="ePBE0+MBD", forces="totFOR")
"""AQM's HDF5: PBE0+MBD total energies (eV) and forces (doi:10.1038/s41597-024-03521-8)."""

AQM_ATOMISATION = Labels(numbers="atNUM", positions="atXYZ", energy="eAT", forces="totFOR", energy_kind="atomisation")
"""AQM's HDF5 with its atomisation energies."""

OE62 = Labels(
    energy="total_energy_pbe0_vac_tier2", positions="xyz_pbe_relaxed", name="refcode_csd", group="refcode_csd"
)
"""OE62's JSON: PBE0 total energies at PBE geometries (doi:10.1038/s41597-020-0385-y)."""

PRESETS = MappingProxyType(
    {
        "ase": ASE,
        "npz": NPZ,
        "runner": RUNNER,
        "zip": ZIP,
        "nci-atlas": NCI_ATLAS,
        "sapt10k": SAPT10K,
        "conformer-benchmark": CONFORMER_BENCHMARK,
        "qm9": QM9,
        "md17": MD17,
        "qm7": QM7,
        "aqm": AQM,
        "aqm-atomisation": AQM_ATOMISATION,
        "oe62": OE62,
    }
)
"""Declarations by name."""


def said(quantity: str) -> str:
    """How a key is declared in a recipe, and to commands that read a file."""
    return f"data.keys.{quantity}, or --labels '{quantity}=KEY'"


def summands(key: str) -> list[tuple[float, str]]:
    """Signs and names of the entries that a key adds up.

    >>> summands("E - E_A - E_B")
    [(1.0, 'E'), (-1.0, 'E_A'), (-1.0, 'E_B')]
    """
    first, *others = re.split(r" ([+-]) ", key)
    return [
        (1.0, first),
        *((1.0 if sign == "+" else -1.0, name) for sign, name in zip(*[iter(others)] * 2, strict=True)),
    ]


def about_mass(structure: Structure, labels: Labels) -> Structure:
    """The structure with its dipole about the centre of mass, whatever the file's is about."""
    if structure.dipole is None or structure.charge == 0 or labels.dipole_about == "mass":
        return structure
    center = np.average(structure.positions, axis=0, weights=atomic_masses[structure.numbers])
    return structure.replace(dipole=structure.dipole - structure.charge * center)


def from_virial(structure: Structure, labels: Labels) -> Structure:
    """The structure with its stress, whatever the file has; without one where there is no volume."""
    if structure.stress is None or labels.stress_kind == "stress":
        return structure
    volume = structure.volume
    return structure.replace(stress=-structure.stress / volume if volume > 0 else None)


def is_absent(value: object) -> bool:
    """Whether a label stands for none: a number that is NaN, or an array of nothing else."""
    return isinstance(value, float | np.ndarray) and bool(np.all(np.isnan(value)))


def real_numbers(value: object) -> np.ndarray:
    """A float64 array of what a file holds.

    Raises:
        ValueError: text, complex numbers or objects, which numpy would convert or cut without a word.
    """
    array = np.asarray(value)
    if array.dtype.kind not in REAL_KINDS:
        raise ValueError(f"holds {array.dtype} such as {str(value)[:40]!r}; required: real numbers")
    return array.astype(np.float64)


def declared(labels: Labels | str) -> Labels:
    """A declaration, or the one of that name.

    Raises:
        ConfigError: unknown name.
    """
    if isinstance(labels, Labels):
        return labels
    if labels not in PRESETS:
        raise ConfigError(unknown_name("labels", labels, PRESETS))
    return PRESETS[labels]
