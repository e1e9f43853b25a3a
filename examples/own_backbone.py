"""Add your own backbone: a network of a few lines that gets MCGM, forces, stress, checks and model files for free.

    python examples/own_backbone.py

To use it by name (`build(backbone="neighbor-sum")`, `mcgm train`, model files), put this module into an installed
package whose pyproject.toml says

    [project.entry-points."mcgm.backbones"]
    neighbor-sum = "own_backbone:NeighborSum"
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from ase.build import bulk, molecule
from jaxtyping import Float
from torch import Tensor, nn

from mcgm import Batch, Potential, build
from mcgm.backbones.base import Backbone
from mcgm.data import Dataset, fit_references
from mcgm.neighbors import Edges
from mcgm.radial import GaussianBasis, PolynomialEnvelope
from mcgm.segments import segment_sum, take
from mcgm.testing import QUICK, validate_potential

SIZES = {"small": {"channels": 32, "layers": 2}}  # what `size="small"` means


@dataclass(frozen=True, eq=False)
class State:
    """What passes between the layers: features of the atoms, and the pairs with their radial basis."""

    features: Float[Tensor, "atom channel"]
    edges: Edges
    basis: Float[Tensor, "edge radial"]


class NeighborSum(Backbone):
    """Every layer sums the neighbours' features, each weighted by the distance; cutoff in Å."""

    def __init__(self, *, channels: int = 32, layers: int = 2, cutoff: float = 5.0, radial: int = 16) -> None:
        super().__init__(channels=channels, layers=layers, cutoff=cutoff, radial=radial)
        self.elements = nn.Embedding(119, channels)
        self.radial_basis, self.envelope = GaussianBasis(cutoff, radial), PolynomialEnvelope(cutoff)
        self.weights = nn.ModuleList(nn.Linear(radial, channels, bias=False) for _ in range(layers))
        self.mixes = nn.ModuleList(nn.Sequential(nn.Linear(channels, channels), nn.SiLU()) for _ in range(layers))
        self.head = nn.Linear(channels, 1)

    def embed(self, batch: Batch, edges: Edges, index: Any) -> State:
        """Elements only; the envelope lets every message fade out smoothly at the cutoff."""
        basis = self.radial_basis(edges.length) * self.envelope(edges.length)[:, None]
        return State(self.elements(batch.numbers), edges, basis)

    def interact(self, layer: int, state: State) -> State:
        """The local messages of one layer."""
        messages = take(state.features, state.edges.source) * self.weights[layer](state.basis)
        received = segment_sum(messages, state.edges.target, len(state.features))
        return replace(state, features=state.features + self.mixes[layer](received))

    def scalars(self, state: State) -> Float[Tensor, "atom channel"]:
        """What a long-range block reads."""
        return state.features

    def absorb(self, state: State, update: Float[Tensor, "atom channel"]) -> State:
        """What a long-range block writes."""
        return replace(state, features=state.features + update)

    def atom_energies(self, state: State) -> Float[Tensor, "atom"]:
        """One energy per atom."""
        return self.head(state.features).squeeze(-1)


def train(potential: Potential, dataset: Dataset, steps: int) -> list[float]:
    """A few steps on forces (eV/Å), by hand; `mcgm train` does it properly. Returns the mean absolute errors."""
    batch = potential.index(Batch.from_structures(list(dataset), cutoff=potential.cutoff))
    target = torch.cat([torch.as_tensor(structure.forces, dtype=potential.dtype) for structure in dataset])
    optimizer = torch.optim.AdamW(potential.train().parameters(), lr=5e-3)
    errors = []
    for _ in range(steps):
        loss = (potential(batch).forces - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(loss.item())
    potential.eval()
    return errors


def main() -> None:
    torch.manual_seed(0)
    dataset = Dataset.open("sample")[:6]
    potential = build(
        backbone=NeighborSum(**SIZES["small"]),
        long_range="mcgm",
        references=fit_references(dataset),
        elements=None,  # the checks use molecules with other elements, too
    )
    errors = train(potential, dataset, steps=30)
    print(f"force error {errors[0]:.3f} -> {errors[-1]:.3f} eV/Å")
    structures = [molecule("CH3CH2OH"), bulk("NaCl", "rocksalt", a=5.64)]
    report = validate_potential(potential.double(), structures, effort=QUICK)
    print(report)
    assert report.passed, "what failed is in the table above"


if __name__ == "__main__":
    main()
