"""`mcgm check` from the outside, and the pieces behind it that no broken potential shows."""

import json

import ase.io
import numpy as np
import pytest
import torch
from ase.build import molecule

from mcgm import build
from mcgm.cli import main
from mcgm.structure import Structure
from mcgm.testing import QUICK, Effort, bad_input, known, validate_potential, zoo
from mcgm.testing.agreement import evaluation_and_calculator, round_trip
from mcgm.testing.claims import CHECKS
from mcgm.testing.predict import predict
from mcgm.testing.subject import Subject

SMALL = {"channels": 8, "filters": 8, "radial": 8, "layers": 2}
BRIEF = Effort(transforms=2, copies=(2,), coordinates=6, path_steps=20, dynamics_ps=0.01)


def fresh(**options):
    torch.manual_seed(0)
    settings = {"backbone_options": SMALL, "cutoff": 4.0} | options
    return build(**settings).eval()


@pytest.fixture
def structures(tmp_path):
    path = tmp_path / "structures.extxyz"
    ase.io.write(path, [molecule("HCN"), molecule("CH4"), molecule("H2O")])
    return path


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    fresh().save(path)
    return path


def test_a_sound_model_keeps_every_promise_and_the_figures_are_written(model, structures, tmp_path, capsys):
    figures = tmp_path / "figures.json"
    arguments = ["check", str(model), str(structures), "--limit", "2", "--quick", "--json", str(figures)]
    rows = [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 16, 18]
    assert main([*arguments, "--rows", *map(str, rows)]) == 0
    shown = capsys.readouterr().out
    assert "Every promise that was measured is kept." in shown
    assert "paths of 200 steps" in " ".join(shown.split())
    found = json.loads(figures.read_text())
    assert found["passed"]
    assert len(found["structures"]) == 2
    assert [number for number in rows if number not in {row["number"] for row in found["rows"]}] == []
    unlike = next(row for row in found["rows"] if row["number"] == 11)
    assert unlike["verdict"] == "reported"
    assert unlike["measured"] > 1e-6


def test_what_a_block_does_not_promise_is_said(structures, tmp_path, capsys):
    path, figures = tmp_path / "charges.safetensors", tmp_path / "figures.json"
    fresh(long_range="charges").save(path)
    assert main(["check", str(path), str(structures), "--quick", "--rows", "10", "16", "--json", str(figures)]) == 0
    assert "Not promised, and reported only: copies, for charges of copies" in " ".join(capsys.readouterr().out.split())
    assert "isolation" in json.loads(figures.read_text())["not_promised"]


def test_a_model_that_steps_at_the_cutoff_breaks_row_9_and_exits_with_1(structures, tmp_path, capsys):
    path = tmp_path / "cosine.safetensors"
    fresh(long_range="none", backbone_options=SMALL | {"envelope": "cosine"}).save(path)
    assert main(["check", str(path), str(structures), "--quick", "--rows", "1", "9"]) == 1
    assert "Broken promises: row 9." in capsys.readouterr().out


def test_structures_with_unknown_elements_are_left_out_and_named(tmp_path, structures, capsys):
    path = tmp_path / "model.safetensors"
    fresh(elements=[1, 6]).save(path)
    assert main(["check", str(path), str(structures), "--quick", "--rows", "4", "9", "16"]) == 0
    assert "Left out" in capsys.readouterr().out
    fresh(elements=[2]).save(path)
    assert main(["check", str(path), str(structures), "--rows", "4"]) == 2
    assert "knows none of the structures" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "13"], "is about the program"),
        (["--rows", "99"], "no such row"),
        (["--limit", "0"], "--limit 0"),
        (["missing.extxyz"], "missing.extxyz"),
    ],
)
def test_a_mistake_is_one_message_and_exit_status_2(model, arguments, message, capsys):
    assert main(["check", str(model), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_every_row_that_a_model_can_break_is_measured():
    assert {check.number for check in CHECKS} == {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16, 18}


def test_rows_are_chosen_and_each_item_is_watched():
    seen = []

    def watch(check, items):
        for item in items:
            seen.append(check.number)
            yield item

    validation = validate_potential(
        fresh().double(), [molecule("CH4"), molecule("HCN")], effort=BRIEF, rows=(2, 12), watch=watch
    )
    assert {row.number for row in validation.rows} == {2, 12}
    assert seen == [2, 2, 12]


def test_a_jumping_potential_has_paths_drift_and_copies_reported():
    potential = fresh(long_range="mcgm_paper").double()
    validation = validate_potential(potential, [molecule("CH4")], effort=BRIEF, rows=(7, 8, 10))
    assert {row.verdict for row in validation.rows if row.measured is not None} == {"reported"}


@pytest.mark.parametrize(
    "options",
    [
        {"long_range": "none"},
        {"long_range": "atom_wise"},
        {"long_range": "mcgm", "long_range_options": {"scope": "molecule"}},
        {"long_range_options": {"scope": "molecule"}},
    ],
)
def test_far_molecules_are_promised_not_to_know_of_each_other_where_the_block_says_so(options):
    validation = validate_potential(
        fresh(**options).double(), [molecule("CH4"), molecule("H2O")], effort=BRIEF, rows=(11,)
    )
    (row,) = validation.rows
    assert (row.limit, row.verdict) == (1e-11, "passed")


def test_a_structure_without_a_finite_answer_is_an_error_of_its_row():
    potential = fresh().double()
    with torch.no_grad():
        next(potential.parameters()).fill_(float("nan"))
    validation = validate_potential(potential, [molecule("CH4")], effort=BRIEF, rows=(1, 4))
    assert {row.number for row in validation.failures} == {1, 4}
    assert not any(row.verdict == "passed" for row in validation.rows)


def test_saving_and_evaluation_change_nothing_and_a_changed_weight_is_seen(tmp_path, monkeypatch):
    potential, structures = fresh(), [zoo()["HCN"], zoo()["solid CO2"]]
    assert round_trip(potential, structures) == 0
    assert evaluation_and_calculator(potential, structures) < 1e-9

    def load_another(path, device):
        torch.manual_seed(1)
        return build(backbone_options=SMALL, cutoff=4.0).eval()

    monkeypatch.setattr("mcgm.testing.agreement.load", load_another)
    assert round_trip(potential, structures) > 1e-3


def test_every_broken_structure_is_refused_and_one_that_is_not_is_named(monkeypatch):
    potential = fresh(elements=[1, 6, 8])
    elements = Subject.of(potential, []).elements
    assert set(elements) == {1, 6, 8}
    assert bad_input.accepted_bad_input(potential, elements) == []
    monkeypatch.setattr("mcgm.testing.bad_input.predict", lambda potential, structures: None)
    accepted = bad_input.accepted_bad_input(potential, elements)
    assert "element that the potential does not know" in accepted
    assert "NaN position" not in accepted


def test_structures_are_sorted_by_known_elements():
    kept, left_out = known(zoo().values(), [1, 6, 7, 8])
    assert "NaCl cell" in {structure.name for structure in left_out}
    assert "solid CO2" in {structure.name for structure in kept}
    assert known(kept, None) == (kept, [])


def test_the_same_answers_come_in_small_and_large_batches():
    potential = fresh().double()
    frames = [Structure(numbers=[1, 8], positions=[[0, 0, 0], [0, 0, 0.9 + 1e-3 * k]]) for k in range(9)]
    parts, whole = predict(potential, frames, atoms=5), predict(potential, frames, atoms=np.inf)
    np.testing.assert_allclose([s.energy for s in parts], [s.energy for s in whole], atol=1e-12)


def test_an_effort_says_what_was_done():
    assert "200 steps" in str(QUICK)
