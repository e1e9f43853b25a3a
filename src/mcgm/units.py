"""Names of units and their size in the units used inside: eV, Å, e, amu, fs."""

from __future__ import annotations

from types import MappingProxyType

from mcgm.errors import ConfigError, unknown_name

_AVOGADRO = 6.02214076e23
_ELEMENTARY_CHARGE = 1.602176634e-19
_LIGHT = 299792458.0

HARTREE = 27.211386245988
"""eV (CODATA 2018)."""

BOHR = 0.529177210903
"""Å (CODATA 2018)."""

KJ_PER_MOL = 1e3 / (_AVOGADRO * _ELEMENTARY_CHARGE)
"""eV."""

DEBYE = 1e-11 / (_LIGHT * _ELEMENTARY_CHARGE)
"""eÅ."""

_GPA = 1e-21 / _ELEMENTARY_CHARGE

ENERGY = MappingProxyType(
    {
        "eV": 1.0,
        "meV": 1e-3,
        "hartree": HARTREE,
        "Hartree": HARTREE,
        "Ha": HARTREE,
        "Eh": HARTREE,
        "mHa": 1e-3 * HARTREE,
        "rydberg": HARTREE / 2,
        "Ry": HARTREE / 2,
        "kcal/mol": 4.184 * KJ_PER_MOL,
        "kJ/mol": KJ_PER_MOL,
        "cm^-1": 1.239841984332e-4,
    }
)
LENGTH = MappingProxyType(
    {
        "Å": 1.0,
        "A": 1.0,
        "angstrom": 1.0,
        "Angstrom": 1.0,
        "bohr": BOHR,
        "Bohr": BOHR,
        "a0": BOHR,
        "nm": 10.0,
        "pm": 0.01,
    }
)
FORCES = MappingProxyType({f"{e}/{x}": ENERGY[e] / LENGTH[x] for e in ENERGY for x in LENGTH})
STRESS = MappingProxyType(
    {"GPa": _GPA, "kbar": 0.1 * _GPA, "bar": 1e-4 * _GPA}
    | {f"{e}/{x}{cube}": ENERGY[e] / LENGTH[x] ** 3 for e in ENERGY for x in LENGTH for cube in ("³", "^3")}
)
CHARGE = MappingProxyType({"e": 1.0})
DIPOLE = MappingProxyType(
    {"debye": DEBYE, "Debye": DEBYE, "D": DEBYE}
    | {f"e{times}{x}": LENGTH[x] for x in LENGTH for times in ("", "*", " ")}
)

QUANTITIES = MappingProxyType(
    {"energy": ENERGY, "length": LENGTH, "forces": FORCES, "stress": STRESS, "charge": CHARGE, "dipole": DIPOLE}
)
"""Quantity → unit name → factor to the unit used inside."""


def factor(quantity: str, unit: str) -> float:
    """What to multiply a value in `unit` with, to have it in eV, Å, eV/Å, eV/Å³, e or eÅ.

    >>> round(factor("energy", "kcal/mol"), 6)
    0.043364
    >>> factor("forces", "meV/angstrom")
    0.001

    Raises:
        ConfigError: unknown quantity or unit; the message has the nearest known name.
    """
    if quantity not in QUANTITIES:
        raise ConfigError(unknown_name("quantity", quantity, QUANTITIES))
    units = QUANTITIES[quantity]
    if unit not in units:
        if quantity in ("forces", "stress"):
            lengths = LENGTH if quantity == "forces" else [f"{name}^3" for name in LENGTH]
            example = "GPa, kbar, bar or " if quantity == "stress" else ""
            raise ConfigError(
                f"unit of {quantity}: {unit!r} is not {example}ENERGY/LENGTH with ENERGY one of {', '.join(ENERGY)} "
                f"and LENGTH one of {', '.join(lengths)}.{_nearest(unit, list(units))}"
            )
        raise ConfigError(f"unit of {quantity}: {unknown_name('unit', unit, units)}")
    return units[unit]


def _nearest(unit: str, known: list[str]) -> str:
    sentence = unknown_name("unit", unit, known)
    return (
        " Did you mean" + sentence.split("Did you mean")[1].split("Known:")[0].rstrip() if "Did you" in sentence else ""
    )
