"""The pages of the benchmark are drawn from stored cells alone."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def suite_results(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    specification = importlib.util.spec_from_file_location("suite_results", BENCHMARKS / "suite_results.py")
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "suite_results", module)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def kept(result_maker, tmp_path):
    """Three variants of a suite and two seeds, one of them clearly better."""
    errors = {"range": (0.1995, 0.2205), "local": (0.2, 0.22), "mcgm": (0.1, 0.11)}
    for variant, values in errors.items():
        for seed, error in enumerate(values):
            reference = None if variant == "local" else "local"
            result = result_maker(variant, seed, error, label=variant.upper(), reference=reference)
            result.save(tmp_path / "rivals-sample" / f"{variant}-seed{seed}.json")
    return tmp_path


def test_a_section_has_the_variants_in_the_suites_order_with_standard_errors(suite_results, kept):
    (found,) = suite_results.stored(kept)
    assert found == ("rivals", kept / "rivals-sample")
    text = suite_results.section(*found)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows[1:]] == ["| LOCAL", "| MCGM", "| RANGE"]
    assert "| LOCAL | 210 ± 10 |" in text
    assert "−50.0 ± 0.0" in text
    assert "mcgm compare sample.yaml" in text


def test_the_figure_marks_what_the_seeds_tell(suite_results, kept):
    rows = [row for row in suite_results.summarize(suite_results.read_results(kept / "rivals-sample")) if row.reference]
    svg = suite_results.figure(rows).decode()
    assert svg.startswith("<?xml")
    assert suite_results.BETTER in svg
    assert suite_results.WORSE not in svg


def test_errors_by_size_are_those_of_the_quarters(suite_results, result_maker, tmp_path):
    """Errors of 1 meV on small and 5 meV on large molecules, whatever their order."""
    sizes = np.array([40, 10, 12, 41, 20, 30, 22, 32])
    error = np.where(sizes > 25, 0.005, 0.001)
    (tmp_path / "cells").mkdir()
    np.savez(tmp_path / "cells" / "mcgm-seed0.npz", n_atoms=sizes, energy=-sizes * 1.0, energy_predicted=error - sizes)
    result = dataclasses.replace(result_maker("mcgm", 0, 0.1), predictions="mcgm-seed0.npz")
    found = suite_results.suite_figures.by_size(tmp_path, [result])
    assert found["energy_mae_mev"]["mcgm"] == pytest.approx([1, 1, 5, 5])
    assert found["atoms"][0] == 10
    assert found["atoms"][-1] == 41


def test_the_frontier_has_every_variant_and_its_seeds(suite_results, kept):
    results = suite_results.read_results(kept / "rivals-sample")
    times = {variant: {"seconds per step": 0.1} for variant in ("local", "mcgm")}
    svg = suite_results.suite_figures.frontier(results, times).decode()
    assert svg.count("<!-- RANGE -->") == 1  # its time is not known
    assert svg.count("<!-- MCGM -->") == 2


def test_what_was_not_measured_is_said(suite_results, kept, monkeypatch):
    monkeypatch.setattr(suite_results, "RESULTS", kept)
    assert "step_times.py aqm" in suite_results.step_times("aqm")
    assert not list(suite_results.stored(kept / "nothing"))


def test_parts_of_one_size_are_one(suite_results, result_maker, tmp_path):
    sizes = np.array([42, 42, 42, 42, 42, 42, 50, 51])
    (tmp_path / "cells").mkdir()
    np.savez(
        tmp_path / "cells" / "mcgm-seed0.npz", n_atoms=sizes, energy=0.0 * sizes, energy_predicted=0.001 + 0 * sizes
    )
    result = dataclasses.replace(result_maker("mcgm", 0, 0.1), predictions="mcgm-seed0.npz")
    found = suite_results.suite_figures.by_size(tmp_path, [result])
    assert found["energy_mae_mev"]["mcgm"] == pytest.approx([1, 1])
    assert len(found["atoms"]) == 3


def test_one_size_is_no_figure_over_sizes(suite_results, kept):
    folder = kept / "rivals-sample"
    for atoms, shown in (([51.0], False), ([12.0, 13.0], False), ([12.0, 13.0, 20.0], True)):
        record = {"kind": "errors by size", "atoms": atoms, "energy_mae_mev": {"local": [1.0] * (len(atoms) - 1)}}
        (folder / "by_size.json").write_text(json.dumps(record))
        assert ("On which molecules?" in suite_results.section("rivals", folder)) == shown


def test_times_of_several_measurements_are_not_in_a_section(suite_results, kept):
    text = suite_results.section("rivals", kept / "rivals-sample")
    assert "Inference" not in text
    assert "epoch" not in text


def test_steps_are_named_and_a_cutoff_that_is_not_the_suites(suite_results, result_maker):
    steps = dataclasses.replace(result_maker("mcgm", 0, 0.1), config={"training": {"steps": 2000}})
    assert suite_results.setting("rivals", steps).endswith(", 2,000 steps")
    result = dataclasses.replace(result_maker("mcgm", 0, 0.1), config={"model": {"cutoff": 3.0}})
    assert suite_results.setting("rivals", result).endswith(", cutoff 3 Å")
    assert "cutoff" not in suite_results.setting(
        "rivals", dataclasses.replace(result, config={"model": {"cutoff": 5.0}})
    )


def test_one_table_has_every_data_set_and_marks_what_seeds_tell(suite_results, kept, monkeypatch):
    import suite_across

    monkeypatch.setattr(suite_across.suite_results, "RESULTS", kept)
    stored = suite_across.suite_results.stored
    monkeypatch.setattr(suite_across.suite_results, "stored", lambda: stored(kept))
    row = next(line for line in suite_across.table().splitlines() if "| energy |" in line)
    assert row == "| sample, schnet | energy | 210 meV | **−50.0 ± 0.0** |"
