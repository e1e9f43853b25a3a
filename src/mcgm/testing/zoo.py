"""Small structures that between them reach the corners of an atomistic network."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule

from mcgm.data import open_structures, sample_path
from mcgm.structure import Structure

CAFFEINE = """
C 3.2417 0.4646 -0.6562   N 2.0927 -0.3798 -0.4947   C 2.0131 -1.7161 -0.6182   N 0.8059 -2.1960 -0.4062
C 0.0528 -1.1092 -0.1280  C 0.8230 0.0442 -0.1740    C 0.2821 1.3453 0.0807     O 0.8827 2.4028 0.0616
N -1.0840 1.2694 0.3697   C -1.8837 0.1343 0.4238    O -3.0633 0.2133 0.6885    N -1.2744 -1.0759 0.1641
C -2.0412 -2.3019 0.2008  C -1.7766 2.5165 0.6518    H 3.4329 1.0152 0.2663     H 3.0610 1.1934 -1.4479
H 4.1068 -0.1465 -0.9074  H 2.8554 -2.3310 -0.8662   H -1.6202 -2.9760 0.9464   H -3.0673 -2.0461 0.4570
H -2.0036 -2.7883 -0.7738 H -2.2135 2.4802 1.6492    H -2.5765 2.6687 -0.0722   H -1.0458 3.3190 0.5851
"""

ALANINE_DIPEPTIDE = """
C -3.6330 0.3701 0.1293   C -2.3947 -0.4969 0.0781  O -2.4215 -1.7026 0.2226  N -1.2427 0.1734 -0.1333
C 0.0407 -0.4865 -0.1397  C 0.3484 -1.0695 -1.5256  C 1.0982 0.5510 0.2411   O 0.8855 1.7440 0.1607
N 2.2684 0.0215 0.6414    C 3.4079 0.8237 1.0176    H -4.4133 -0.0913 -0.4699 H -3.9849 0.4088 1.1583
H -3.4423 1.3782 -0.2244  H -1.1991 1.1807 -0.2104  H 0.0099 -1.2990 0.5966  H 0.3566 -0.2754 -2.2689
H -0.4279 -1.7864 -1.7803 H 1.3118 -1.5732 -1.5336  H 2.3589 -0.9797 0.7096  H 3.1340 1.8675 0.8744
H 4.2694 0.5841 0.3921    H 3.6695 0.6572 2.0643
"""


def zoo() -> dict[str, Structure]:
    """One atom, linear, planar, symmetric, flexible, apart and periodic structures by name.

    H, H2, HCN, CH4, benzene, SF6, caffeine, alanine dipeptide (minima of GFN2-xTB), two water molecules 20 Å apart,
    a NaCl cell and one of solid CO2 with displaced atoms, and the largest molecule of the bundled sample (62 atoms).
    Elements: H C N O F Na S Cl, and those of that molecule.
    """
    return dict(_zoo())


@cache
def _zoo() -> dict[str, Structure]:
    water = molecule("H2O")
    far_water = water.copy()
    far_water.rotate(50, (1, 2, 3))
    far_water.translate((20.0, 0.0, 0.0))
    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    salt.positions += np.random.default_rng(0).normal(scale=0.05, size=(8, 3))
    sulfur_fluorine = 1.56 * np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)])
    animals = {
        "H": molecule("H"),
        "H2": molecule("H2"),
        "HCN": molecule("HCN"),
        "CH4": molecule("CH4"),
        "benzene": molecule("C6H6"),
        "SF6": Atoms("SF6", positions=sulfur_fluorine),
        "caffeine": _parse(CAFFEINE),
        "alanine dipeptide": _parse(ALANINE_DIPEPTIDE),
        "two waters far apart": water + far_water,
        "NaCl cell": salt,
        "solid CO2": _dry_ice(),
    }
    plain = {name: _plain(atoms, name) for name, atoms in animals.items()}
    return plain | {"largest of the sample": largest_of_the_sample()}


def known(structures: Iterable[Structure], elements: Iterable[int] | None) -> tuple[list[Structure], list[Structure]]:
    """Structures whose elements are all among these (`None`: any), and the others."""
    allowed = None if elements is None else set(elements)
    kept: list[Structure] = []
    left_out: list[Structure] = []
    for structure in structures:
        is_known = allowed is None or allowed.issuperset(structure.numbers.tolist())
        (kept if is_known else left_out).append(structure)
    return kept, left_out


@cache
def largest_of_the_sample() -> Structure:
    """The first of the largest molecules of the bundled sample, without its labels."""
    found = max(open_structures(sample_path()), key=len)
    name = f"largest of the sample, {len(found)} atoms"
    return Structure(numbers=found.numbers, positions=found.positions, name=name)


def degenerate_structures(elements: tuple[int, int, int, int] = (8, 1, 6, 11)) -> dict[str, Structure]:
    """What breaks careless code by name: one atom, one element, atoms without a neighbour, a cell with one atom."""
    first, second, third, fourth = elements
    animals = {
        "one atom": Atoms([first]),
        "one element": Atoms([third] * 4, positions=[[0, 0, 0], [1.3, 0, 0], [2.6, 0.2, 0], [3.9, 0, 0.1]]),
        "no neighbours": Atoms([first, second, first], positions=[[0, 0, 0], [30, 0, 0], [0, 40, 0]]),
        "one atom in a cell": Atoms([fourth], cell=np.eye(3) * 3.0 + 0.3, pbc=True),
        "one atom alone in a cell": Atoms([fourth], cell=np.eye(3) * 50.0, pbc=True),
    }
    return {name: _plain(atoms, name) for name, atoms in animals.items()}


def _dry_ice() -> Atoms:
    """CO2 in Pa-3: carbon on the face-centred lattice, each molecule along a diagonal of its own; a = 5.62 Å."""
    edge, bond = 5.62, 1.16
    sites = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) * edge / 2
    axes = np.array([[1, 1, 1], [1, -1, 1], [1, 1, -1], [1, -1, -1]]) * bond / np.sqrt(3)
    ice = Atoms("C4O8", positions=np.concatenate([sites, sites + axes, sites - axes]), cell=[edge] * 3, pbc=True)
    ice.positions += np.random.default_rng(1).normal(scale=0.03, size=(12, 3))
    return ice


def _plain(atoms: Atoms, name: str) -> Structure:
    return Structure(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc, name=name)


def _parse(text: str) -> Atoms:
    words = text.split()
    return Atoms(words[::4], positions=np.array([words[k::4] for k in (1, 2, 3)], dtype=float).T)
