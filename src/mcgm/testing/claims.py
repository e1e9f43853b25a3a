"""The table of claims: what is measured on which structures, in which unit, and how large it may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from mcgm.errors import ConfigError
from mcgm.potential import Potential
from mcgm.registry import describe_backbone
from mcgm.structure import Structure
from mcgm.testing import agreement, bad_input, derivatives, dynamics, independence, limits, symmetry
from mcgm.testing.flips import flip_scan
from mcgm.testing.predict import Deviation, largest
from mcgm.testing.subject import Subject

DYNAMICS_ATOMS = 22
"""The structure nearest in size to alanine dipeptide is simulated."""


@dataclass(frozen=True)
class Figures:
    """What a check measured, in the order of its claims (`None`: there is nothing to measure), and where or how."""

    values: tuple[float | None, ...]
    note: str = ""


@dataclass(frozen=True)
class Claim:
    """One figure of a check: its name, unit and limit."""

    text: str
    unit: str
    limit: Callable[[Subject], float]


@dataclass(frozen=True)
class Check:
    """A measurement and the claims that it decides, numbered as in the table of acceptance.

    Attributes:
        items: what is measured one after the other; the largest figure counts.
        measure: figures of one item.
        promised: whether the limits hold for a potential; else figures are reported.
    """

    number: int
    claims: tuple[Claim, ...]
    items: Callable[[Subject], Sequence[Any]]
    measure: Callable[[Subject, Any], Figures]
    promised: Callable[[Subject], bool] = lambda subject: True


def _promise(name: str) -> Callable[[Subject], bool]:
    return lambda subject: subject.promises(name)


def _symmetry(
    number: int,
    text: str,
    check: symmetry.Check,
    items: Callable[[Subject], Sequence[Structure]],
    promised: Callable[[Subject], bool] = lambda subject: True,
) -> Check:
    claims = [
        Claim(text, "eV/atom", lambda s: s.tolerance.energy),
        Claim(f"{text}: forces", "eV/Å", lambda s: s.tolerance.forces),
    ]
    with_stress = check in (symmetry.rotation, symmetry.reflection)
    if with_stress:
        claims.append(Claim(f"{text}: stress", "eV/Å³", lambda s: s.tolerance.stress))

    def measure(subject: Subject, structure: Structure) -> Figures:
        found = check(subject.potential, structure, count=subject.effort.transforms)
        stress = found.stress if structure.volume > 0 else None
        return Figures((found.energy, found.forces, stress)[: len(claims)], structure.name)

    return Check(number, tuple(claims), items, measure, promised)


def _each(
    number: int,
    claim: Claim,
    figure: Callable[[Subject, Structure], float],
    items: Callable[[Subject], Sequence[Structure]] = lambda subject: subject.structures,
    promised: Callable[[Subject], bool] = lambda subject: True,
) -> Check:
    """A check of one claim, structure by structure."""
    return Check(number, (claim,), items, lambda s, item: Figures((figure(s, item),), item.name), promised)


def _once(
    number: int,
    claim: Claim,
    measure: Callable[[Subject], Figures],
    needs: Callable[[Subject], bool] = lambda subject: True,
    promised: Callable[[Subject], bool] = lambda subject: True,
) -> Check:
    """A check of one claim that is measured at once; nowhere unless the subject is such as it needs."""
    return Check(number, (claim,), lambda s: [s] if needs(s) else [], lambda s, _: measure(s), promised)


def _is_potential(subject: Subject) -> bool:
    return isinstance(subject.potential, Potential)


def _batch_mates(subject: Subject, _: Subject) -> Figures:
    found: Deviation = independence.batch_mates(subject.potential, subject.structures, copies=subject.effort.copies)
    return Figures((found.energy, found.forces))


def _path(subject: Subject, structure: Structure) -> Figures:
    steps, step = subject.effort.path_steps, subject.effort.path_step
    if isinstance(subject.double, Potential) and not subject.is_smooth:
        flips = flip_scan(subject.double, structure, steps=steps, step=step)
        return Figures((largest(np.abs(flips.residual)),), f"{structure.name}: {flips}")
    scan = derivatives.path_scan(subject.double, structure, steps=steps, step=step)
    jumps = f", {scan.jumps_per_angstrom:.3g} jumps/Å, mean {scan.mean_jump:.1e} eV" if scan.mean_jump else ""
    return Figures((scan.largest,), structure.name + jumps)


def _drift(subject: Subject) -> Figures:
    structure = min(subject.movable, key=lambda s: abs(len(s) - DYNAMICS_ATOMS))
    found = dynamics.drift_at_rest(subject.double, structure, duration_ps=subject.effort.dynamics_ps)
    held = ", held by springs: the bonds did not hold" if found.held else ""
    return Figures((found.rate,), f"{structure.name}, {subject.effort.dynamics_ps:g} ps{held}")


def _drift_limit(subject: Subject) -> float:
    return max(subject.tolerance.drift, subject.tolerance.swing / max(subject.effort.dynamics_ps, 1e-3))


def _lone_limit(subject: Subject) -> float:
    return 0.0 if subject.promises("isolation") else limits.LARGEST_FORCE


def _round_trip(subject: Subject) -> Figures:
    assert isinstance(subject.potential, Potential)
    try:
        describe_backbone(subject.potential.backbone)
    except ConfigError:
        return Figures((None,), "the backbone is in no table, so that it cannot be saved")
    return Figures((agreement.round_trip(subject.potential, subject.structures),))


def _bad_input(subject: Subject) -> Figures:
    accepted = bad_input.accepted_bad_input(subject.potential, subject.elements)
    return Figures((float(len(accepted)),), ", ".join(accepted))


def _pair_name(pair: tuple[Structure, Structure]) -> str:
    return f"{pair[0].name} + {pair[1].name}"


CHECKS: tuple[Check, ...] = (
    _symmetry(1, "rotation", symmetry.rotation, lambda s: s.structures, _promise("rotation")),
    _symmetry(1, "reflection", symmetry.reflection, lambda s: s.structures, _promise("reflection")),
    _symmetry(1, "translation", symmetry.translation, lambda s: s.structures, _promise("translation")),
    _symmetry(
        1,
        "atoms moved by lattice vectors",
        symmetry.lattice_translation,
        lambda s: s.partly_periodic,
        _promise("wrapping"),
    ),
    _each(
        1,
        Claim("sum of the forces per atom", "eV/Å", lambda s: s.tolerance.forces),
        lambda s, item: symmetry.net_force(s.potential, item),
        promised=_promise("translation"),
    ),
    _symmetry(2, "order of atoms", symmetry.permutation, lambda s: s.structures),
    Check(
        3,
        (
            Claim("batch mates", "eV/atom", lambda s: s.tolerance.energy),
            Claim("batch mates: forces", "eV/Å", lambda s: s.tolerance.forces),
        ),
        lambda s: [s],
        _batch_mates,
    ),
    _once(
        3,
        Claim("gradient between structures", "eV/Å", lambda s: 0.0),
        lambda s: Figures((independence.gradient_leak(s.potential, s.structures),)),
    ),
    _once(
        4,
        Claim("second call", "eV", lambda s: 0.0),
        lambda s: Figures((independence.repetition(s.potential, s.structures),)),
        promised=lambda s: s.on_cpu,
    ),
    _each(
        5,
        Claim("forces - differences", "eV/Å", lambda s: s.tolerance.difference),
        lambda s, item: derivatives.finite_differences(s.double, item, coordinates=s.effort.coordinates),
        promised=_promise("derivatives"),
    ),
    _each(
        5,
        Claim("stress - differences", "eV/Å³", lambda s: s.tolerance.difference),
        lambda s, item: derivatives.stress_finite_differences(s.double, item),
        lambda s: s.periodic,
        _promise("derivatives"),
    ),
    _each(
        6,
        Claim("Hessian - differences, positions and cell", "eV/Å²", lambda s: s.tolerance.curvature),
        lambda s, item: derivatives.second_derivatives(s.double, item),
        promised=_promise("derivatives"),
    ),
    Check(
        7,
        (Claim("path: largest |dE + F dr|", "eV", lambda s: s.tolerance.path),),
        lambda s: s.movable,
        _path,
        promised=_promise("smooth"),
    ),
    _once(
        8,
        Claim("drift of the energy at 300 K", "meV/atom/ps", _drift_limit),
        _drift,
        needs=lambda s: bool(s.movable) and s.effort.dynamics_ps > 0,
        promised=_promise("smooth"),
    ),
    _once(
        9,
        Claim("step at the cutoff: E, F, dF/dr", "", lambda s: s.tolerance.cutoff),
        lambda s: Figures((limits.cutoff_step(s.double, numbers=s.elements[:3]).largest,)),
    ),
    _each(
        10,
        Claim("identical copies 60 Å apart", "eV/copy", lambda s: s.tolerance.copies),
        lambda s, item: independence.copies_apart(s.potential, item),
        lambda s: s.open,
        promised=_promise("copies"),
    ),
    _each(
        10,
        Claim("supercell", "eV/atom", lambda s: s.tolerance.energy),
        lambda s, item: independence.supercell(s.potential, item).energy,
        lambda s: s.periodic,
        promised=_promise("supercell"),
    ),
    Check(
        11,
        (Claim("unlike molecules 60 Å apart", "eV", lambda s: s.tolerance.unlike),),
        lambda s: list(pairwise(s.open)),
        lambda s, pair: Figures((independence.unlike_apart_beyond_rounding(s.double, *pair),), _pair_name(pair)),
        promised=lambda s: s.is_separable,
    ),
    _once(
        12,
        Claim("saved and loaded", "eV", lambda s: 0.0),
        _round_trip,
        needs=_is_potential,
        promised=lambda s: s.on_cpu,
    ),
    _once(
        16,
        Claim("one atom, one element, no neighbours", "eV/Å", _lone_limit),
        lambda s: Figures((limits.degenerate(s.potential, elements=s.elements),)),
    ),
    _once(16, Claim("broken structures that were not refused", "", lambda s: 0.0), _bad_input),
    _once(
        18,
        Claim("evaluation - ASE calculator", "eV", lambda s: s.tolerance.paths),
        lambda s: Figures((agreement.evaluation_and_calculator(s.double, s.structures),)),  # type: ignore[arg-type]
        needs=_is_potential,
    ),
)
"""Every check, in the order of the table. Rows 13, 14, 15 and 17 are of the program, not of a potential."""
