"""Shapes written in signatures are checked in every test, and workers keep to one thread each."""

import sys
import types

import beartype
import jaxtyping
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


# jaxtyping asks for a name that can be imported, which a conftest does not have
checker = types.ModuleType("check_of_shapes")
checker.check_tensors = check_tensors
sys.modules[checker.__name__] = checker
already = [name for name in CHECKED if name in sys.modules]
if already:
    raise RuntimeError(f"{', '.join(already)}: imported before the tests could install the check of shapes.")
jaxtyping.install_import_hook(CHECKED, "check_of_shapes.check_tensors")

torch.set_num_threads(1)
