"""Shapes written in signatures are checked in every test, and workers keep to one thread each."""

import collections
import dataclasses
import functools
import gc
import os
import sys
import types
from pathlib import Path

import beartype
import jaxtyping
import pytest
import torch
from beartype.roar import BeartypeDecorHintException

CHECKED = [f"mcgm.{name}" for name in ("backbones", "batch", "derivatives", "long_range", "neighbors", "potential")]
"""Where arrays change shape; `mcgm.segments` is left out because it is called too often."""

_beartype = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))


def check_tensors(function):
    """Check the annotations of tensors; the other ones belong to the static type checker."""
    function.__annotations__ = {
        name: hint for name, hint in function.__annotations__.items() if "Tensor, " in str(hint)
    }
    try:
        return _beartype(function)
    except BeartypeDecorHintException:  # a protocol beside the tensors: not checkable when running
        return function


CALLS = 1
"""How often a function is checked in each test: a check takes longer than many of the functions."""

_calls: collections.Counter = collections.Counter()
_jaxtyped = jaxtyping.jaxtyped


def jaxtyped(target, *, typechecker):
    """jaxtyping's decorator, for the first calls of a test."""
    if isinstance(target, type):
        if dataclasses.is_dataclass(target):
            target.__init__ = jaxtyped(target.__init__, typechecker=typechecker)
        return target
    if "<locals>" in target.__qualname__:  # would be prepared anew at every call of what it is in: 2 ms
        return target
    checked = _jaxtyped(target, typechecker=typechecker)
    if not isinstance(target, types.FunctionType):
        return checked

    @functools.wraps(target)
    def function(*arguments, **options):
        _calls[target.__code__] += 1  # the function itself would keep alive what it encloses
        return (checked if _calls[target.__code__] <= CALLS else target)(*arguments, **options)

    return function


@pytest.fixture(autouse=True)
def _checked_anew():
    _calls.clear()


# jaxtyping asks for a name that can be imported, which a conftest does not have
checker = types.ModuleType("check_of_shapes")
checker.check_tensors = check_tensors
sys.modules[checker.__name__] = checker
already = [name for name in CHECKED if name in sys.modules]
if already:
    raise RuntimeError(f"{', '.join(already)}: imported before the tests could install the check of shapes.")
jaxtyping.jaxtyped = lambda *, typechecker: functools.partial(jaxtyped, typechecker=typechecker)
jaxtyping.install_import_hook(CHECKED, "check_of_shapes.check_tensors")


def pytest_collection_finish():
    """What was imported and collected lives until the end: garbage collection need not look at it again and again."""
    gc.collect()
    gc.freeze()


torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start


@pytest.fixture(scope="session")
def shared_data():
    """Data that is not in the repository: MCGM_DATA, or shared/data beside it."""
    folder = Path(os.environ.get("MCGM_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the shared data, looked for in {folder}; set MCGM_DATA")
    return folder


@pytest.fixture
def traced_graphs(monkeypatch):
    """Graphs that a compiled potential traces; no kernels are generated, they run operation by operation."""
    graphs = []

    def keep(graph, arguments):
        graphs.append(graph)
        return lambda *given: graph(*given)

    monkeypatch.setattr("mcgm.compiled.compile_fx", keep)
    return graphs


EDGES = {"channels": 16, "message_channels": 16, "triplet_channels": 4, "basis_channels": 4, "radial": 4, "degrees": 3}
EDGES |= {"layers": 1}
SMALL = {
    "schnet": {"channels": 16, "filters": 16, "radial": 8, "layers": 2},
    "painn": {"channels": 16, "radial": 8, "layers": 2},
    "visnet": {"channels": 16, "heads": 2, "radial": 8, "layers": 2},
    "dimenet++": EDGES,
    "gemnet-t": EDGES | {"bilinear_channels": 4},
}


@pytest.fixture(scope="session")
def small_network():
    """The function that makes a small potential in double precision, always with the same weights."""
    from mcgm import build  # after the hook above

    def make(backbone="schnet", long_range="mcgm_oriented", *, cutoff, **options):
        torch.manual_seed(0)
        settings = {"backbone": backbone, "long_range": long_range, "cutoff": cutoff} | options
        return build(backbone_options=SMALL[backbone], **settings).double()

    return make
