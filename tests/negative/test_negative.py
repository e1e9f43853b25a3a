"""Tests of the tests: every broken potential fails the checks that are there for its defect, and only those."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from unittest import SkipTest

import numpy as np
import pytest

from mcgm.testing import Effort, PhysicsSuite, copies_apart, path_scan, unlike_apart, validate_potential, zoo

_specification = importlib.util.spec_from_file_location("broken_models", Path(__file__).with_name("models.py"))
models = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(models)

DIFFERENCES = "forces - differences"
PATH = "path: largest |dE + F dr|"
COPIES = "identical copies 60 Å apart"
WRAPPED = "atoms moved by lattice vectors"
DEGENERATE = "one atom, one element, no neighbours"
CUTOFF = "step at the cutoff: E, F, dF/dr"
DRIFT = "drift of the energy at 300 K"

SHORT = Effort(transforms=4, copies=(2, 5), coordinates=15, path_steps=250, path_step=4e-3, dynamics_ps=0.05)
"""Paths as long as in a full check, in longer steps."""

OPEN_DEFECTS = {
    "Sound": set(),
    "NotRotationInvariant": {"rotation", "reflection"},
    "Handed": {"reflection"},
    "PinnedToTheOrigin": {"translation", "sum of the forces per atom", COPIES, DEGENERATE},
    "OrderDependent": {"order of atoms", COPIES},
    "LeaksBetweenStructures": {"batch mates", "gradient between structures", DIFFERENCES, PATH, COPIES},
    "FeelsTheSizeOfTheBatch": {"batch mates", DIFFERENCES, PATH},
    "NonConservative": {"sum of the forces per atom", DIFFERENCES, PATH, DRIFT},
    "NoEnvelope": {CUTOFF},
    "RoughEnvelope": {CUTOFF},
    "Jumps": {PATH, COPIES},
    "NotExtensive": {COPIES},
    "GlobalContext": set(),
    "DetachedDensity": {"Hessian - differences, positions and cell"},
    "RemembersTheLastCall": {DRIFT},
}

JUDGED_BY = {
    "NotRotationInvariant": 1,
    "OrderDependent": 2,
    "LeaksBetweenStructures": 3,
    "NonConservative": 5,
    "DetachedDensity": 6,
    "Jumps": 7,
    "RemembersTheLastCall": 8,
    "NoEnvelope": 9,
    "NotExtensive": 10,
}
"""The row of the table that is there for the defect."""

PERIODIC_DEFECTS = {
    "Sound": set(),
    "IgnoresPeriodicity": {WRAPPED, "supercell"},
    "NoStrainOnTheCell": {"stress - differences"},
    "NotExtensive": {"supercell"},
}


CRYSTALS = replace(SHORT, path_steps=100, dynamics_ps=0)


def failed_claims(potential, structures, effort=SHORT):
    validation = validate_potential(potential, structures, effort=effort)
    return {row.claim.split(":")[0] if row.number < 4 else row.claim for row in validation.failures}


def open_structures():
    methane = zoo()["CH4"]
    rattled = methane.positions + np.random.default_rng(0).normal(scale=0.1, size=methane.positions.shape)
    return [zoo()["HCN"], methane.replace(positions=rattled)]


@pytest.mark.parametrize(("name", "claims"), OPEN_DEFECTS.items(), ids=OPEN_DEFECTS)
def test_a_defect_fails_its_own_checks_and_no_other(name, claims):
    assert failed_claims(getattr(models, name)(), open_structures()) == claims


@pytest.mark.parametrize(("name", "number"), JUDGED_BY.items(), ids=JUDGED_BY)
def test_a_defect_fails_the_row_that_is_there_for_it(name, number):
    effort = replace(SHORT, transforms=2, path_steps=100, path_step=1e-2)
    assert not validate_potential(getattr(models, name)(), open_structures(), effort=effort, rows=(number,)).passed
    assert validate_potential(models.Sound(), open_structures(), effort=effort, rows=(number,)).passed


@pytest.mark.parametrize(("name", "claims"), PERIODIC_DEFECTS.items(), ids=PERIODIC_DEFECTS)
def test_a_defect_in_crystals_fails_its_own_checks_and_no_other(name, claims):
    assert failed_claims(getattr(models, name)(), [zoo()["NaCl cell"]], CRYSTALS) == claims


def test_lots_are_noticed_at_the_second_call():
    assert {"second call", "batch mates"} <= failed_claims(models.DrawsLots(), open_structures())


def test_a_potential_that_divides_by_neighbours_fails_and_is_named():
    assert DEGENERATE in failed_claims(models.NotANumberForOneAtom(), open_structures())


def test_a_neighbour_cap_jumps_on_a_path_and_no_cap_does_not():
    effort = replace(SHORT, dynamics_ps=0)
    structures = [zoo()["alanine dipeptide"]]
    assert failed_claims(models.CapsNeighbours(), structures, effort) == {PATH}
    assert failed_claims(models.Sound(), structures, effort) == set()


def test_a_path_counts_its_jumps():
    structure = open_structures()[1]
    scan, smooth = path_scan(models.Jumps(), structure), path_scan(models.Sound(), structure)
    assert scan.largest >= scan.mean_jump > 1e-3
    assert scan.jumps_per_angstrom >= 1
    assert (smooth.jumps_per_angstrom, smooth.mean_jump) == (0, 0)


def test_global_context_shows_beside_an_unlike_molecule_only():
    first, second = open_structures()
    assert copies_apart(models.GlobalContext(), first) < 1e-8
    assert unlike_apart(models.GlobalContext(), first, second) > 1e-5
    assert unlike_apart(models.Sound(), first, second) < 1e-8


def test_a_potential_that_says_it_jumps_is_excused_from_paths_and_copies():
    potential = models.Jumps()
    potential.is_smooth = False
    assert failed_claims(potential, open_structures()) == set()


def test_what_is_declared_is_reported_and_everything_else_still_judged():
    turned = models.NotRotationInvariant()
    turned.not_promised = {"rotation": "it has a frame of its own"}
    assert failed_claims(turned, open_structures()) == {"reflection"}
    rows = validate_potential(turned, open_structures(), effort=SHORT, rows=(1,)).rows
    (rotation,) = (row for row in rows if row.claim == "rotation")
    assert (rotation.verdict, rotation.limit) == ("reported", None)
    assert rotation.measured > 1e-3


def test_degenerate_structures_need_an_answer_whatever_is_declared():
    broken = models.NotANumberForOneAtom()
    broken.not_promised = {"isolation": "it reaches far"}
    assert DEGENERATE in failed_claims(broken, open_structures())
    pinned = models.PinnedToTheOrigin()
    pinned.not_promised = {"isolation": "", "translation": "", "copies": ""}
    assert failed_claims(pinned, open_structures()) == set()


def test_the_suite_skips_what_is_declared_and_says_why():
    class Suite(PhysicsSuite):
        count = 2

        def potential(self):
            potential = models.NotRotationInvariant()
            potential.not_promised = {"rotation": "it has a frame of its own"}
            return potential

    with pytest.raises(SkipTest, match="does not promise rotation: it has a frame of its own"):
        Suite().test_energy_and_forces_turn_with_the_structure()
    with pytest.raises(AssertionError):
        Suite().test_mirror_images_have_one_energy()


def test_a_potential_that_raises_is_reported_not_raised():
    class Raises(models.Sound):
        def energy(self, batch):
            raise RuntimeError("out of order")

    validation = validate_potential(Raises(), open_structures(), effort=SHORT)
    assert not validation.passed
    assert "RuntimeError: out of order" in str(validation)


def test_the_table_names_claims_limits_and_verdicts():
    table = str(validate_potential(models.RoughEnvelope(), open_structures(), effort=SHORT, rows=(1, 9, 11)))
    assert "step at the cutoff" in table
    assert "FAILED" in table
    assert "passed" in table
    assert "reported" in table


class TestSound(PhysicsSuite):
    """The suite itself accepts a sound potential."""

    def potential(self):
        return models.Sound()


@pytest.mark.parametrize(
    ("name", "test"),
    [
        ("NotRotationInvariant", "test_energy_and_forces_turn_with_the_structure"),
        ("Handed", "test_mirror_images_have_one_energy"),
        ("PinnedToTheOrigin", "test_energy_and_forces_do_not_depend_on_the_place"),
        ("PinnedToTheOrigin", "test_forces_sum_to_zero"),
        ("OrderDependent", "test_energy_and_forces_do_not_depend_on_the_order_of_atoms"),
        ("IgnoresPeriodicity", "test_atoms_may_move_by_lattice_vectors"),
        ("FeelsTheSizeOfTheBatch", "test_batch_mates_do_not_matter"),
        ("LeaksBetweenStructures", "test_no_gradient_crosses_structures"),
        ("DrawsLots", "test_a_second_call_repeats_every_bit"),
        ("NonConservative", "test_forces_are_the_negative_slope_of_the_energy"),
        ("NoStrainOnTheCell", "test_stress_is_the_slope_of_the_energy_by_strain"),
        ("DetachedDensity", "test_second_derivatives_are_the_slope_of_the_forces"),
        ("DetachedDensity", "test_gradgradcheck_accepts_positions_and_cell"),
        ("Jumps", "test_energy_changes_by_the_work_of_the_forces_along_a_path"),
        ("NoEnvelope", "test_nothing_steps_at_the_cutoff"),
        ("NotExtensive", "test_copies_out_of_reach_add_up"),
        ("NotANumberForOneAtom", "test_degenerate_structures_are_answered"),
    ],
)
def test_the_suite_rejects_the_defect_that_each_test_is_for(name, test):
    class Suite(PhysicsSuite):
        def potential(self):
            return getattr(models, name)()

    with pytest.raises(AssertionError):
        getattr(Suite(), test)()
