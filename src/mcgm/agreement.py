"""Do two ways of computing a prediction agree but for rounding? What a compiler makes of a network may be wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from mcgm.batch import Batch
from mcgm.derivatives import parameter_gradients
from mcgm.potential import NetworkPotential, Prediction
from mcgm.segments import segment_sum

SAME = {torch.float64: 1e-6, torch.float32: 1e-3}
"""Largest difference relative to the largest entry; rounding makes less, a wrong kernel more."""

SMALLEST = 0.1
"""eV and Å: differences are relative to this where everything is smaller, as the forces of a perfect crystal are."""


def disagreement(
    found: Prediction, expected: Prediction, network: NetworkPotential, batch: Batch, *, gradients: bool
) -> str | None:
    """What differs by more than rounding, in words; `None` where nothing does.

    Energies are compared without those of free atoms, which are large and no work of the network's. With `gradients`
    also derivatives by the weights, for which both predictions must have kept their graphs.
    """
    own = (expected.atom_energy - network.references(batch.numbers)).detach().abs()
    pairs = {
        "energy": (found.energy, expected.energy, segment_sum(own, batch.molecule, batch.n_molecules)),
        "forces": (found.forces, expected.forces, expected.forces),
        "stress": (found.stress, expected.stress, expected.stress),
    }
    if gradients:
        right = _gradient(expected, network)
        pairs["gradient of the weights"] = (_gradient(found, network), right, right)
    for name, (mine, other, entries) in pairs.items():
        if mine is None or other is None or entries is None:
            continue
        off = (mine - other).detach().abs().max() / entries.detach().abs().max().clamp(min=SMALLEST)
        if not off <= SAME[network.dtype]:
            return f"{name} off by {float(off):.0e} of the largest"
    return None


def _gradient(prediction: Prediction, network: NetworkPotential) -> Tensor:
    """Of energies and forces together, by all weights that are trained; zero where a weight has no effect."""
    loss = prediction.energy.sum()
    if prediction.forces is not None:
        loss = loss + prediction.forces.square().sum()
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    found = parameter_gradients(loss, weights)
    parts = (torch.zeros_like(w) if part is None else part for w, part in zip(weights, found, strict=True))
    return torch.cat([part.flatten() for part in parts])
