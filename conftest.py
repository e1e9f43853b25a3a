"""Documentation that is run as a test writes its files into a folder of its own."""

import doctest

import pytest


@pytest.fixture(autouse=True)
def scratch_folder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run docstrings and the README where they may leave files."""
    if isinstance(getattr(request.node, "dtest", None), doctest.DocTest):
        monkeypatch.chdir(request.getfixturevalue("tmp_path"))
