"""The contract of a potential as a function: every claim measured, with its limit and verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

from ase import Atoms

from mcgm.structure import Structure
from mcgm.testing import derivatives, independence, limits, symmetry
from mcgm.testing.predict import Deviation, Predictor, dtype_of, largest
from mcgm.testing.tolerances import Tolerance, tolerance_for
from mcgm.testing.zoo import zoo

Structures = Sequence[Structure]


@dataclass(frozen=True)
class Row:
    """One claim as measured; `limit` is `None` where the figure is reported and no limit is promised.

    `error` says why there is no figure.
    """

    number: int
    claim: str
    unit: str
    measured: float | None
    limit: float | None
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether the figure keeps the limit; a figure that could not be taken does not."""
        if self.error:
            return False
        return self.measured is None or self.limit is None or self.measured <= self.limit

    def __str__(self) -> str:
        measured = "-" if self.measured is None else f"{self.measured:.1e}"
        limit = "reported" if self.limit is None else f"{self.limit:.0e}"
        verdict = self.error or ("passed" if self.passed else "FAILED")
        return f"{self.number:>2}  {self.claim:<48} {measured:>9} {limit:>9} {self.unit:<8} {verdict}"


@dataclass(frozen=True)
class Validation:
    """Rows of a validation; prints as a table."""

    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        """Whether every row passed."""
        return all(row.passed for row in self.rows)

    @property
    def failures(self) -> tuple[Row, ...]:
        """Rows that did not pass."""
        return tuple(row for row in self.rows if not row.passed)

    def __str__(self) -> str:
        head = f"{'#':>2}  {'claim':<48} {'measured':>9} {'limit':>9} {'unit':<8} verdict"
        return "\n".join([head, *map(str, self.rows)])


Limit = Callable[[Tolerance], float | None]


@dataclass(frozen=True)
class _Claim:
    """A claim: how it is measured over structures, in which unit, and how large the figure may be."""

    number: int
    claim: str
    unit: str
    measure: Callable[[Predictor, Structures], float | None]
    limit: Limit
    smooth_only: bool = False


def validate_potential(potential: Predictor, structures: Sequence[Structure | Atoms] | None = None) -> Validation:
    """Measure every claim over the structures (default: the zoo) and compare with the limits of its precision.

    Raises nothing for a bad potential: what could not be measured is a row that failed and says why. For a potential
    whose `is_smooth` is false the path and the copies are reported without a limit. Limits: `mcgm.testing.DOUBLE`
    and `SINGLE`.
    """
    given = list(zoo().values()) if structures is None else structures
    plain = [Structure.from_atoms(item) if isinstance(item, Atoms) else item for item in given]
    tolerance = tolerance_for(dtype_of(potential))
    smooth = bool(getattr(potential, "is_smooth", True))
    return Validation(tuple(_measured(claim, potential, plain, tolerance, smooth) for claim in CLAIMS))


def _measured(claim: _Claim, potential: Predictor, structures: Structures, tolerance: Tolerance, smooth: bool) -> Row:
    measured, error = None, ""
    try:
        measured = claim.measure(potential, structures)
    except Exception as problem:
        # The contract is to report: whatever a potential raises belongs into the table.
        error = f"{type(problem).__name__}: {problem}"
    limit = claim.limit(tolerance) if smooth or not claim.smooth_only else None
    return Row(claim.number, claim.claim, claim.unit, measured, limit, error)


def _over(
    check: Callable[[Predictor, Structure], Deviation], part: str, keep: Callable[[Structure], bool] = lambda _: True
) -> Callable[[Predictor, Structures], float | None]:
    def measure(potential: Predictor, structures: Structures) -> float | None:
        kept = [structure for structure in structures if keep(structure)]
        if not kept:
            return None
        worst = reduce(Deviation.__or__, (check(potential, structure) for structure in kept))
        return float(getattr(worst, part))

    return measure


def _largest(
    check: Callable[[Predictor, Structure], float], keep: Callable[[Structure], bool] = lambda _: True
) -> Callable[[Predictor, Structures], float | None]:
    def measure(potential: Predictor, structures: Structures) -> float | None:
        figures = [check(potential, structure) for structure in structures if keep(structure)]
        return largest(figures) if figures else None

    return measure


def _batch_mates(potential: Predictor, structures: Structures, part: str) -> float:
    return float(getattr(independence.batch_mates(potential, structures), part))


def _unlike(potential: Predictor, structures: Structures) -> float | None:
    pairs = pairwise(structure for structure in structures if _open(structure))
    figures = [independence.unlike_apart(potential, *pair) for pair in pairs]
    return largest(figures) if figures else None


def _open(structure: Structure) -> bool:
    return not structure.pbc.any()


def _periodic(structure: Structure) -> bool:
    return bool(structure.pbc.all())


def _partly_periodic(structure: Structure) -> bool:
    return bool(structure.pbc.any())


def _movable(structure: Structure) -> bool:
    return len(structure) > 2


def _parts(number: int, claim: str, check: Callable[[Predictor, Structure], Deviation], **keep) -> list[_Claim]:
    return [
        _Claim(number, claim, "eV/atom", _over(check, "energy", **keep), lambda t: t.energy),
        _Claim(number, f"{claim}: forces", "eV/Å", _over(check, "forces", **keep), lambda t: t.forces),
    ]


CLAIMS: tuple[_Claim, ...] = (
    *_parts(1, "rotation", symmetry.rotation),
    *_parts(1, "reflection", symmetry.reflection),
    *_parts(1, "translation", symmetry.translation),
    _Claim(1, "sum of the forces per atom", "eV/Å", _largest(symmetry.net_force), lambda t: t.forces),
    *_parts(1, "atoms moved by lattice vectors", symmetry.lattice_translation, keep=_partly_periodic),
    _Claim(1, "stress under rotation", "eV/Å³", _over(symmetry.rotation, "stress", _periodic), lambda t: t.stress),
    *_parts(2, "order of atoms", symmetry.permutation),
    _Claim(3, "batch mates", "eV/atom", lambda p, s: _batch_mates(p, s, "energy"), lambda t: t.energy),
    _Claim(3, "batch mates: forces", "eV/Å", lambda p, s: _batch_mates(p, s, "forces"), lambda t: t.forces),
    _Claim(3, "gradient between structures", "eV/Å", independence.gradient_leak, lambda t: 0.0),
    _Claim(4, "second call", "eV", independence.repetition, lambda t: 0.0),
    _Claim(5, "forces - differences", "eV/Å", _largest(derivatives.finite_differences), lambda t: t.difference),
    _Claim(
        5,
        "stress - differences",
        "eV/Å³",
        _largest(derivatives.stress_finite_differences, _periodic),
        lambda t: t.difference,
    ),
    _Claim(
        6,
        "Hessian - differences, positions and cell",
        "eV/Å²",
        _largest(derivatives.second_derivatives),
        lambda t: t.curvature,
    ),
    _Claim(
        7,
        "path: largest |dE + F dr|",
        "eV",
        _largest(lambda p, s: derivatives.path_scan(p, s).largest, _movable),
        lambda t: t.path,
        smooth_only=True,
    ),
    _Claim(9, "step at the cutoff: E, F, dF/dr", "", lambda p, _: limits.cutoff_step(p).largest, lambda t: t.cutoff),
    _Claim(
        10,
        "identical copies 60 Å apart",
        "eV/copy",
        _largest(independence.copies_apart, _open),
        lambda t: t.copies,
        smooth_only=True,
    ),
    _Claim(
        10,
        "supercell",
        "eV/atom",
        _over(independence.supercell, "energy", _periodic),
        lambda t: t.energy,
        smooth_only=True,
    ),
    _Claim(11, "unlike molecules 60 Å apart", "eV", _unlike, lambda t: None),
    _Claim(16, "one atom, one element, no neighbours", "eV/Å", lambda p, _: limits.degenerate(p), lambda t: 0.0),
)
