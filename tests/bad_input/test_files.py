"""Any file gives structures or an error that names it; a repeatable sample of `benchmarks/bad_input.py`. Full disks."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from mcgm import build
from mcgm.cli import main
from mcgm.data import Dataset, open_structures
from mcgm.data.writers import write_extxyz
from mcgm.errors import DataError

_specification = importlib.util.spec_from_file_location("bad_files", Path(__file__).with_name("files.py"))
bad = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(bad)

WRITING = """
import resource, sys
from mcgm.cli import main
from mcgm import load
from mcgm.data import Dataset, open_structures
from mcgm.errors import MCGMError
from pathlib import Path

kind, model, data, target = sys.argv[1:]
potential = load(model) if kind == "save" else None
sys.dont_write_bytecode = True  # Python 3.11 keeps compiled modules that it could write in part only
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
try:
    if kind == "predict":
        sys.exit(main(["predict", model, data, "-o", target]))
    if kind == "convert":
        sys.exit(main(["data", "convert", data, target]))
    if kind == "save":
        potential.save(target)
    if kind == "cache":
        Dataset.open(data)
except MCGMError as error:
    print(f"mcgm: {error}", file=sys.stderr)
    sys.exit(2)
"""
"""A process that may not write files above 3 kB, as on a disk that is full after that."""


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MCGM_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    bad.write_all(folder)
    build(cutoff=4.0, backbone_options={"channels": 16, "filters": 16}).save(folder / "model.safetensors")
    return folder


@given(case=bad.cases())
@settings(
    max_examples=300, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)  # fmt: skip
def test_any_file_gives_structures_or_an_error_that_names_it(case, sound):
    with tempfile.TemporaryDirectory() as folder:
        assert bad.outcome(case, sound, Path(folder), sound / "model.safetensors")


@pytest.mark.parametrize("file", sorted(bad.FORMATS))
def test_the_sound_files_are_read_by_everyone(file, sound, tmp_path):
    for reader in bad.READERS:
        case = {"file": file, "damage": "none", "place": "file", "labels": "the format's", "reader": reader, "seed": 0}
        # `mcgm predict` has no declaration of labels: it reads what each format declares by itself
        by_itself = bad.FORMATS[file] in (None, "aqm", "oe62") or reader != "predict"
        assert bad.outcome(case, sound, tmp_path, sound / "model.safetensors") == (
            "answered" if by_itself else "refused: on the command line"
        )


@pytest.mark.parametrize("kind", ["predict", "convert", "save", "cache"])
def test_a_full_disk_gives_one_error_and_leaves_the_old_file(kind, sound, tmp_path, monkeypatch):
    data, target = tmp_path / "many.extxyz", tmp_path / ("out.safetensors" if kind == "save" else "out.extxyz")
    write_extxyz(bad.molecules() * 50, data)
    target.write_text("old")
    cache = tmp_path / "cache"
    monkeypatch.setenv("MCGM_CACHE", str(cache))
    command = [sys.executable, "-c", WRITING, kind, str(sound / "model.safetensors"), str(data), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "cannot be written" in done.stderr
    assert (str(data) if kind == "cache" else str(target)) in done.stderr
    assert target.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} - {"cache"} == {data.name, target.name}
    assert not any(path.is_file() for path in cache.rglob("*"))


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs users as on Unix")
def test_a_file_that_may_not_be_read_is_told(sound):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "a.extxyz"
        path.write_bytes((sound / "a.extxyz").read_bytes())
        path.chmod(0)
        before = os.geteuid()
        if before == 0:  # the superuser may read everything: be nobody for the moment
            os.seteuid(65534)
        try:
            with pytest.raises(DataError, match=r"a\.extxyz: cannot be opened \(Permission denied\)"):
                open_structures(path)
        finally:
            os.seteuid(before)


def test_a_folder_that_is_a_file_is_told(sound, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    model, data = str(sound / "model.safetensors"), str(sound / "a.extxyz")
    assert main(["predict", model, data, "-o", str(tmp_path / "file" / "out.extxyz")]) == 2
    assert "out.extxyz: cannot be written" in capsys.readouterr().err


def test_a_damaged_cache_is_made_again(sound, tmp_path):
    path = tmp_path / "a.extxyz"
    path.write_bytes((sound / "a.extxyz").read_bytes())
    first = Dataset.open(path)
    (mapped,) = Path(os.environ["MCGM_CACHE"]).rglob("positions.npy")
    mapped.write_bytes(mapped.read_bytes()[:-8])
    again = Dataset.open(path)
    assert [item.energy for item in again] == [item.energy for item in first]
    assert again[1].positions.shape == (3, 3)
