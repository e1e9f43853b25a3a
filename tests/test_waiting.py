"""No training step asks a tensor for its values: on a GPU that would wait for the device.

`test_cuda.py` says the same where there is one, of derivatives written in C++ too; here questions are counted.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from torch.utils._python_dispatch import TorchDispatchMode

from mcgm import Batch, Structure, build
from mcgm.backbones import BACKBONES
from mcgm.long_range import BLOCKS

ASKING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal"}
"""Operations whose result or shape depends on values."""

ALLOWED = {
    "neural_p3m": "a mesh's size is a number of the host",
    "mcgm_paper": "on a processor groups that have settled leave",
    "mcgm_kmeans": "on a processor groups that have settled leave",
}
"""Blocks that may ask, each with the reason."""


class Questions(TorchDispatchMode):
    """Counts operations that read values."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def __torch_dispatch__(self, operation, types, arguments=(), named=None):
        name = operation.__name__.split(".")[0]
        by_mask = name == "index" and any(one is not None and one.dtype == torch.bool for one in arguments[1])
        if name in ASKING or by_mask:
            self.asked.append(name)
        return operation(*arguments, **(named or {}))


def a_batch() -> Batch:
    """Molecules of several sizes and a crystal."""
    generator = np.random.default_rng(0)
    made = [molecule("CH3CH2OH"), molecule("C6H6"), bulk("NaCl", "rocksalt", a=5.64, cubic=True)]
    for atoms in made:
        atoms.positions += generator.normal(scale=0.05, size=atoms.positions.shape)
    return Batch.from_structures([Structure.from_atoms(atoms) for atoms in made], cutoff=4.0)


def questions(model: torch.nn.Module, batch: Batch) -> list[str]:
    """What a training step asks, its derivatives included."""
    indexed = model.index(batch)
    with Questions() as counted:
        prediction = model(indexed, generator=torch.Generator().manual_seed(0))
        (prediction.energy.square().sum() + prediction.forces.square().sum()).backward()
    return counted.asked


@pytest.mark.parametrize("block", [name for name in BLOCKS if name not in ALLOWED])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_training_step_asks_for_no_values(backbone: str, block: str):
    torch.manual_seed(0)
    model = build(backbone=backbone, long_range=block, cutoff=4.0, backbone_options={"layers": 2}).train()
    assert questions(model, a_batch()) == []


@pytest.mark.parametrize(
    "asking",
    [
        pytest.param(lambda x: x * float(x.detach().max()), id="a number"),
        pytest.param(lambda x: x[x.detach() > 1], id="a selection"),
    ],
)
def test_what_asks_is_noticed(asking):
    x = torch.linspace(0.5, 1.5, 6).reshape(2, 3).requires_grad_()
    with Questions() as counted:
        asking(x).sum().backward()
    assert counted.asked
