"""What looks wrong in a data set: each function gives sentences for the user, or none."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from jaxtyping import Float

from mcgm.data.dataset import Dataset
from mcgm.data.labels import said
from mcgm.data.references import fit_references
from mcgm.errors import StructureError
from mcgm.neighbors import find_neighbors
from mcgm.structure import Structure
from mcgm.units import ENERGY

SHORTEST_BOND = 0.5
"""Å; no two nuclei of a molecule are nearer (H2 has 0.74)."""

SEARCHED_AT_ONCE = 128

LARGEST_FORCE = 50.0
"""eV/Å; above it a geometry is broken rather than hot."""

LARGEST_NET_FORCE = 0.5
"""eV/Å; the forces on an isolated molecule sum to nothing."""

OUTLIER = 20.0
"""robust standard deviations of the energy that composition does not explain."""

NEAR = 0.2
"""Å root mean square; within it the mean force times the way predicts the energy difference (to 10 % on MD17)."""

LOOK_BACK = 10
"""How many earlier geometries of its molecule each one is compared with."""

HYDROGEN_TOTAL = (-17.5, -12.0)
"""eV; what hydrogen adds to the total energy of a molecule, over methods from GFN2-xTB to hybrid functionals."""

_RATIOS: Mapping[str, float] = MappingProxyType(
    {"hartree": ENERGY["hartree"], "kcal/mol": ENERGY["kcal/mol"], "kJ/mol": ENERGY["kJ/mol"], "meV": ENERGY["meV"]}
)


def missing_labels(dataset: Dataset) -> Iterator[str]:
    """Structures without energy or forces, where others have them or all lack the energy."""
    for quantity in ("energy", "forces"):
        count = int(dataset.lacks(quantity).sum())
        if 0 < count < len(dataset):
            first = int(np.argmax(dataset.lacks(quantity)))
            yield f"{count} of {len(dataset)} structures have no {quantity}; first: {first} ({dataset.names[first]})."
        elif count and quantity == "energy":
            yield f"No structure has an energy. Declare its key: {said('energy')}."


def duplicates(dataset: Dataset) -> Iterator[str]:
    """Structures with the same atoms at the same places in the same cell (to 1e-4 Å, shifts removed)."""
    seen: dict[bytes, int] = {}
    pairs = []
    for k, structure in enumerate(dataset):
        centred = np.round(structure.positions - structure.positions.mean(axis=0), 4) + 0.0
        cell = np.round(structure.cell * structure.pbc[:, None], 4) + 0.0
        content = structure.numbers.tobytes() + centred.tobytes() + cell.tobytes() + structure.pbc.tobytes()
        mark = hashlib.blake2b(content, digest_size=16).digest()
        if mark in seen:
            pairs.append((seen[mark], k))
        seen.setdefault(mark, k)
    if pairs:
        yield f"{len(pairs)} duplicate structures; the first: {pairs[0][0]} and {pairs[0][1]}. Splits may leak."


def overlaps(dataset: Dataset) -> Iterator[str]:
    """Atoms nearer to each other than any bond."""
    wrong = [k for first in range(0, len(dataset), SEARCHED_AT_ONCE) for k in _overlapping(dataset, first)]
    if wrong:
        yield (
            f"{len(wrong)} structures have atoms closer than {SHORTEST_BOND} Å; the first is {wrong[0]} "
            f"({dataset.names[wrong[0]]}). Is the length unit right?"
        )


def odd_forces(dataset: Dataset) -> Iterator[str]:
    """Forces too large for a molecule, or that do not sum to zero."""
    large, pushed = [], []
    for k, structure in enumerate(dataset):
        if structure.forces is None:
            continue
        if np.linalg.norm(structure.forces, axis=1).max() > LARGEST_FORCE:
            large.append(k)
        if np.abs(structure.forces.sum(axis=0)).max() > LARGEST_NET_FORCE:
            pushed.append(k)
    if large:
        yield f"{len(large)} structures have forces above {LARGEST_FORCE:g} eV/Å; the first is {large[0]}."
    if pushed:
        yield (
            f"{len(pushed)} structures have forces that sum to more than {LARGEST_NET_FORCE} eV/Å; the first is "
            f"{pushed[0]}. Were atoms left out?"
        )


def odd_energies(dataset: Dataset) -> Iterator[str]:
    """Energies far from what composition explains, or with a hydrogen atom that fits another unit."""
    labelled = dataset.subset(np.flatnonzero(~dataset.lacks("energy")))
    if len(labelled) < 20:
        return
    references = fit_references(labelled)
    residual = labelled.energies - references.of(labelled)
    spread = 1.4826 * np.median(np.abs(residual - np.median(residual)))
    far = np.flatnonzero(np.abs(residual - np.median(residual)) > OUTLIER * spread)
    if spread > 1e-6 and len(far):
        yield (
            f"{len(far)} energies are more than {OUTLIER:g} robust standard deviations ({spread:.3g} eV) from what "
            f"composition explains; the first is {labelled.names[far[0]]} ({labelled.energies[far[0]]:.3f} eV)."
        )
    elements, counts = labelled.composition
    if 1 in elements and np.linalg.matrix_rank(counts) == len(elements):
        hydrogen = references.energies[1]
        fitting = [u for u, f in _RATIOS.items() if HYDROGEN_TOTAL[0] < hydrogen * f < HYDROGEN_TOTAL[1]]
    else:
        # All electrons of neutral atoms: about -Z^2.4 / 2 hartree. Valence energies are too small to be taken for it.
        whole = -0.5 * ENERGY["hartree"] * (counts @ elements.astype(float) ** 2.4)
        scale = float(np.median(labelled.energies / whole))
        fitting = [u for u, f in _RATIOS.items() if u != "hartree" and abs(scale * f - 1) < 0.1]
    for unit in fitting:
        yield f"Energies look like {unit}, not eV. Declare the unit: energy_unit={unit}."


def forces_against_energies(dataset: Dataset, *, most: int = 4000) -> Iterator[str]:
    """Forces in another unit than the energies, or gradients instead of forces.

    Between two geometries of one molecule that are near each other the energy changes by about minus the mean force
    times the way; the slope over many such pairs tells a wrong unit or a wrong sign.
    """
    pairs = np.array(list(_near_pairs(dataset[:most]))).reshape(-1, 2)
    if len(pairs) < 20:
        return
    difference, work = pairs.T
    if abs(np.corrcoef(difference, work)[0, 1]) < 0.8:
        return
    ratio = float(difference @ work / (work @ work))
    if ratio < 0:
        yield "Forces point uphill: they look like gradients, the negative of forces."
    if not 0.7 < abs(ratio) < 1.4:
        near = min(_candidates(), key=lambda item: abs(np.log(abs(ratio) / item[1])))
        hint = f", as with {near[0]}" if abs(np.log(abs(ratio) / near[1])) < 0.3 else ""
        yield f"Energies change {abs(ratio):.3g} times as much as the forces say{hint}. Check the units of both."


def _candidates() -> list[tuple[str, float]]:
    units = {"eV": 1.0, **_RATIOS}
    return [
        (f"energies in {energy} and forces in {forces}/Å", units[forces] / units[energy])
        for energy in units
        for forces in units
        if energy != forces
    ]


def _near_pairs(dataset: Dataset) -> Iterator[tuple[float, float]]:
    """Energy difference and minus the mean force times the way, of each structure and the last ones of its molecule."""
    recent: dict[bytes, list[Structure]] = {}
    for structure in dataset:
        if structure.energy is None or structure.forces is None or len(structure) < 2 or structure.pbc.any():
            continue
        earlier = recent.setdefault(structure.numbers.tobytes(), [])
        for other in earlier:
            rotation, way = _aligned(structure.positions, other.positions)
            if np.sqrt((way**2).sum(axis=1).mean()) < NEAR and other.energy is not None and other.forces is not None:
                mean = (structure.forces @ rotation + other.forces) / 2
                yield structure.energy - other.energy, -float((mean * way).sum())
        earlier.append(structure)
        del earlier[:-LOOK_BACK]


def _aligned(
    moving: Float[np.ndarray, "atom 3"], fixed: Float[np.ndarray, "atom 3"]
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "atom 3"]]:
    """Rotation that lays one geometry on the other (Kabsch, doi:10.1107/S0567739476001873), and what is left."""
    moving, fixed = moving - moving.mean(axis=0), fixed - fixed.mean(axis=0)
    left, _, right = np.linalg.svd(moving.T @ fixed)
    sign = np.sign(np.linalg.det(left @ right))
    rotation = left @ np.diag([1.0, 1.0, sign]) @ right
    return rotation, moving @ rotation - fixed


def _overlapping(dataset: Dataset, first: int) -> list[int]:
    """Which of the next structures overlap; looked at one by one only where some does."""
    chosen = range(first, min(first + SEARCHED_AT_ONCE, len(dataset)))
    return [k for k in chosen if _overlap([dataset[k]])] if _overlap([dataset[k] for k in chosen]) else []


def _overlap(structures: Sequence[Structure]) -> bool:
    try:
        return len(find_neighbors(structures, SHORTEST_BOND).source) > 0
    except StructureError:
        return True


CHECKS = (missing_labels, duplicates, overlaps, odd_forces, odd_energies, forces_against_energies)
"""All of them, in the order in which they are told."""
