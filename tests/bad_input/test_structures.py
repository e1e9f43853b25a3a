"""Any structure gives an answer that holds or an error that names it: a sample of `benchmarks/bad_input.py`."""

import importlib.util
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

_specification = importlib.util.spec_from_file_location("bad_structures", Path(__file__).with_name("structures.py"))
bad = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(bad)


@pytest.fixture(scope="module")
def known():
    return bad.potentials()


@given(case=bad.cases())
@settings(
    max_examples=300, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)  # fmt: skip
def test_any_structure_gives_an_answer_that_holds_or_an_error_that_names_it(case, known):
    assert bad.outcome(case, known)
