"""The physics checks as tests that any backbone or long-range block inherits."""

from __future__ import annotations

from unittest import SkipTest

import numpy as np

from mcgm.structure import Structure
from mcgm.testing import derivatives, independence, limits, symmetry
from mcgm.testing.predict import Deviation, Predictor, dtype_of, energies, in_double
from mcgm.testing.tolerances import Tolerance, tolerance_for
from mcgm.testing.zoo import zoo

ANIMALS = ("HCN", "CH4", "alanine dipeptide", "NaCl cell")


class InvarianceSuite:
    """Inherit, name the class `Test…`, define `potential()`: pytest checks what must not change the energy.

    The checks whose outcome depends on the precision; `PhysicsSuite` adds the others. Limits and measuring functions
    are those of `validate_potential`; the numbers of transformations are small, for speed. A potential whose
    `is_smooth` is false is excused from the copies, and every one from what it does not promise (`not_promised`).

    Raises:
        AssertionError: with the figure, its limit and unit.
    """

    count = 4

    def potential(self) -> Predictor:
        """The potential under test, in evaluation mode, with weights that make every part of it speak."""
        raise NotImplementedError("define `potential(self)` to return the potential that is to be tested.")

    def structures(self) -> list[Structure]:
        """What it is tested on; by default a linear, a symmetric, a flexible and a periodic structure."""
        animals = zoo()
        return [animals[name] for name in ANIMALS]

    def tolerance(self) -> Tolerance:
        """Limits for the potential's precision."""
        return tolerance_for(dtype_of(self.potential()))

    def small(self) -> Structure:
        """The smallest structure with more than two atoms: for what is quadratic in size."""
        return min((s for s in self.structures() if len(s) > 2), key=len)

    def periodic(self) -> list[Structure]:
        """Structures that have a stress."""
        found = [structure for structure in self.structures() if structure.volume > 0]
        if not found:
            raise SkipTest("structures() has none that is periodic in a cell with a volume.")
        return found

    def not_promised(self) -> dict[str, str]:
        """What the potential is excused from, with reasons; override where it holds on these structures."""
        return dict(getattr(self.potential(), "not_promised", {}))

    def open(self) -> list[Structure]:
        """Structures that can stand beside others."""
        return [structure for structure in self.structures() if not structure.pbc.any()]

    def test_energy_depends_on_the_geometry(self) -> None:
        """Otherwise no other check means anything."""
        structure = self.small()
        rattled = structure.positions + np.random.default_rng(0).normal(scale=0.05, size=structure.positions.shape)
        before, after = energies(self.potential(), [structure, structure.replace(positions=rattled)])
        assert abs(after - before) > 1e-5, f"the energy changed by {abs(after - before):.1e} eV only"

    def test_energy_and_forces_turn_with_the_structure(self) -> None:
        """Rotation."""
        self._only_if_promised("rotation")
        self._symmetric(symmetry.rotation)

    def test_mirror_images_have_one_energy(self) -> None:
        """Reflection."""
        self._only_if_promised("reflection")
        self._symmetric(symmetry.reflection)

    def test_energy_and_forces_do_not_depend_on_the_place(self) -> None:
        """Translation."""
        self._only_if_promised("translation")
        self._symmetric(symmetry.translation)

    def test_energy_and_forces_do_not_depend_on_the_order_of_atoms(self) -> None:
        """Permutation."""
        self._symmetric(symmetry.permutation)

    def test_atoms_may_move_by_lattice_vectors(self) -> None:
        """Wrapping into the cell changes nothing."""
        self._only_if_promised("wrapping")
        for structure in self.periodic():
            self._equal(symmetry.lattice_translation(self.potential(), structure, count=self.count), structure)

    def test_forces_sum_to_zero(self) -> None:
        """No structure pushes itself."""
        self._only_if_promised("translation")
        for structure in self.structures():
            _within(symmetry.net_force(self.potential(), structure), self.tolerance().forces, "eV/Å", structure)

    def test_batch_mates_do_not_matter(self) -> None:
        """Alone, in both orders, and among copies."""
        self._equal(independence.batch_mates(self.potential(), self.structures(), copies=(2, 9)), "batch")

    def test_no_gradient_crosses_structures(self) -> None:
        """Exactly."""
        _within(independence.gradient_leak(self.potential(), self.structures()), 0.0, "eV/Å", "batch")

    def test_a_second_call_repeats_every_bit(self) -> None:
        """On the CPU."""
        _within(independence.repetition(self.potential(), self.structures()), 0.0, "eV", "batch")

    def test_copies_out_of_reach_add_up(self) -> None:
        """Identical molecules 60 Å apart."""
        self._only_if_smooth()
        self._only_if_promised("copies")
        for structure in self.open():
            figure = independence.copies_apart(self.potential(), structure)
            _within(figure, self.tolerance().copies * len(structure), "eV per copy", structure)

    def test_degenerate_structures_are_answered(self) -> None:
        """One atom, one element, no pairs: finite, and no force on an isolated atom, where that is promised."""
        limit = limits.LARGEST_FORCE if "isolation" in self.not_promised() else 0.0
        _within(limits.degenerate(self.potential()), limit, "eV/Å", "degenerate structures")

    def _symmetric(self, check: symmetry.Check) -> None:
        potential = self.potential()
        for structure in self.structures():
            self._equal(check(potential, structure, count=self.count), structure)

    def _equal(self, deviation: Deviation, of: Structure | str) -> None:
        tolerance = self.tolerance()
        _within(deviation.energy, tolerance.energy, "eV/atom", of)
        _within(deviation.forces, tolerance.forces, "eV/Å", of)
        _within(deviation.stress, tolerance.stress, "eV/Å³", of)

    def _only_if_smooth(self) -> None:
        if not getattr(self.potential(), "is_smooth", True):
            raise SkipTest("the potential says that its energy jumps (is_smooth is false).")

    def _only_if_promised(self, promise: str) -> None:
        why = self.not_promised().get(promise)
        if why is not None:
            raise SkipTest(f"the potential does not promise {promise}: {why}.")


class PhysicsSuite(InvarianceSuite):
    """All checks: those of `InvarianceSuite`, and derivatives, which are measured in float64 whatever the precision.

    A potential whose `is_smooth` is false is excused from the path too.
    """

    def test_forces_are_the_negative_slope_of_the_energy(self) -> None:
        """Central differences."""
        self._only_if_promised("derivatives")
        potential, limit = in_double(self.potential()), self.tolerance().difference
        for structure in self.structures():
            if len(structure) <= 8:
                _within(derivatives.finite_differences(potential, structure), limit, "eV/Å", structure)

    def test_stress_is_the_slope_of_the_energy_by_strain(self) -> None:
        """Central differences."""
        self._only_if_promised("derivatives")
        potential, limit = in_double(self.potential()), self.tolerance().difference
        for structure in self.periodic():
            _within(derivatives.stress_finite_differences(potential, structure), limit, "eV/Å³", structure)

    def test_second_derivatives_are_the_slope_of_the_forces(self) -> None:
        """By positions and cell: training on forces rests on them."""
        self._only_if_promised("derivatives")
        potential, limit = in_double(self.potential()), self.tolerance().curvature
        for structure in self.structures():
            _within(derivatives.second_derivatives(potential, structure), limit, "eV/Å²", structure)

    def test_gradgradcheck_accepts_positions_and_cell(self) -> None:
        """The check of torch itself, on the smallest structure."""
        self._only_if_promised("derivatives")
        assert derivatives.gradgradcheck(self.potential(), self.small()), "torch.autograd.gradgradcheck refused"

    def test_energy_changes_by_the_work_of_the_forces_along_a_path(self) -> None:
        """No jumps."""
        self._only_if_smooth()
        potential = in_double(self.potential())
        largest = max(self.open(), key=len)
        scan = derivatives.path_scan(potential, largest, steps=200, step=2e-3)
        _within(scan.largest, 64 * self.tolerance().path, "eV", largest)

    def test_nothing_steps_at_the_cutoff(self) -> None:
        """Energy, force and slope of the force."""
        _within(limits.cutoff_step(self.potential()).largest, self.tolerance().cutoff, "eV/Å²", "at the cutoff")


def _within(measured: float, limit: float, unit: str, of: Structure | str) -> None:
    assert measured <= limit, f"{of}: {measured:.3e} {unit}; required: at most {limit:.0e}"
