"""Rules about the source that no unit test would notice being broken."""

import ast
import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import mcgm
from mcgm.provenance import commit, machine, provenance

SOURCE = Path(mcgm.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path):
    """Every module that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_backbones_and_long_range_blocks_never_import_each_other():
    for folder, other in (("backbones", "mcgm.long_range"), ("long_range", "mcgm.backbones")):
        files = sorted((SOURCE / folder).rglob("*.py"))
        assert len(files) > 3
        for path in files:
            wrong = {name for name in imports(path) if name.startswith(other) or name.startswith("mcgm.potential")}
            assert not wrong, f"{path} imports {wrong}"


def test_nothing_is_pickled_or_run_from_text():
    forbidden = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for path in FILES:
        assert not {name.split(".")[0] for name in imports(path)} & forbidden, path
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "yaml.load", "torch.save"), f"{path}:{node.lineno}: {called}"
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called == "torch.load":
                assert keywords.get("weights_only") == "True", f"{path}:{node.lineno}"
            if called in ("np.load", "numpy.load"):
                assert keywords.get("allow_pickle", "False") == "False", f"{path}:{node.lineno}"


def test_the_energy_is_differentiated_in_one_place():
    # mcgm.testing takes second derivatives to judge the first
    for path in FILES:
        if path.name != "derivatives.py" and "testing" not in path.parts:
            assert "autograd.grad(" not in path.read_text(encoding="utf-8"), path


def test_files_and_functions_stay_short():
    for path in FILES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 80, f"{path}: {node.name}"


def test_no_file_is_a_drawer_for_everything():
    for path in FILES:
        assert not {path.stem, *path.relative_to(SOURCE).parts} & {"utils", "util", "helpers", "misc", "common"}, path


def test_every_module_can_be_imported():
    for module in pkgutil.walk_packages([str(SOURCE)], "mcgm."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def test_public_names_are_found_and_others_are_not():
    assert all(getattr(mcgm, name).__name__ == name for name in mcgm.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = mcgm.Nothing


def test_the_package_is_imported_without_torch():
    code = "import sys, mcgm; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_figures_say_where_they_come_from():
    record = provenance(["mcgm", "compare", "a.yaml"])
    assert record["command"] == "mcgm compare a.yaml"
    assert record["commit"] == commit()
    assert {"processor", "cores", "torch", "mcgm"} <= set(machine())
    json.dumps(record)
