"""What the comparisons with independent implementations share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor

from mcgm.backbones.base import Backbone
from mcgm.batch import Batch

ORDINARY = [molecule("CH3CH2OH"), molecule("CH3COCH3"), molecule("C6H6")]
UNUSUAL = [Atoms("O"), Atoms("HeNe", [[0, 0, 0], [9, 0, 0]]), molecule("HCN"), bulk("Cu", "fcc", 3.6)]


@pytest.fixture(params=["molecules", "open and periodic"])
def varied_batch(request: pytest.FixtureRequest) -> Batch:
    """Edges within 4 Å; the second also has one atom alone, no edges at all, a linear molecule, own images only."""
    moved = [bulk("NaCl", "rocksalt", 5.0), molecule("CH3CH2OH")] if request.param != "molecules" else ORDINARY
    moved = [atoms.copy() for atoms in moved]
    for atoms in moved:
        atoms.rattle(0.05, seed=1)
    if request.param != "molecules":
        moved += UNUSUAL
    return Batch.from_atoms(moved, cutoff=4.0, dtype=torch.float64)


@pytest.fixture
def double_by_default() -> Iterator[None]:
    """The oracles keep constants in the default type, and a cast cannot give the lost digits back."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def local_energies(backbone: Backbone, batch: Batch) -> Tensor:
    """Energies of the atoms without any long-range update."""
    state = backbone.embed(batch, batch.edges, backbone.index(batch))
    for layer in range(backbone.layers):
        state = backbone.interact(layer, state)
    return backbone.atom_energies(state)


@pytest.fixture
def assert_equals_oracle() -> Callable[[Backbone, Callable[[Batch], Tensor], Batch], None]:
    """Energies of all atoms to 1e-6 relative, forces to 1e-5; both large enough for that to mean something."""

    def check(backbone: Backbone, oracle: Callable[[Batch], Tensor], batch: Batch) -> None:
        results = []
        for energies in (lambda b: local_energies(backbone, b), oracle):
            moved = batch.replace(positions=batch.positions.clone().requires_grad_())
            energy = energies(moved)
            results.append((energy.detach(), torch.autograd.grad(energy.sum(), moved.positions)[0]))
        (energy, forces), (reference, reference_forces) = results
        assert energy.shape == reference.shape
        assert reference.abs().min() > 1e-4
        assert reference_forces.abs().max() > 1e-2
        torch.testing.assert_close(energy, reference, rtol=1e-6, atol=0)
        torch.testing.assert_close(forces, reference_forces, rtol=0, atol=1e-5)

    return check
