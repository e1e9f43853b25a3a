"""Energies from features: one for each atom, one for each cluster."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from mcgm.activations import SiLU


class EnergyHead(nn.Module):
    """Two-layer perceptron to one number: channels -> channels / 2 -> 1. In units of the potential's scale."""

    def __init__(self, channels: int, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.hidden = nn.Linear(channels, channels // 2)
        self.activation = SiLU() if activation is None else activation
        self.energy = nn.Linear(channels // 2, 1)

    def forward(self, features: Float[Tensor, "node channel"]) -> Float[Tensor, "node"]:
        """Energy of each node."""
        return self.energy(self.activation(self.hidden(features))).squeeze(-1)
