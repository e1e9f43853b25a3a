"""Dense and residual layers of atoms' messages, as GemNet has them (arXiv:2106.08903)."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor, nn


class Update(nn.Module):
    """Messages to an update: dense, then residual layers, (x + two dense layers) / sqrt(2) (GemNet, paper)."""

    def __init__(self, channels: int, residuals: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.dense = nn.Sequential(nn.Linear(channels, channels), activation())
        self.residuals = nn.Sequential(*(Residual(channels, activation) for _ in range(residuals)))

    def forward(self, messages: Float[Tensor, "atom channel"]) -> Float[Tensor, "atom channel"]:
        """What is added to the scalars."""
        return self.residuals(self.dense(messages))


class Residual(nn.Module):
    """(x + two dense layers of x) / sqrt(2)."""

    def __init__(self, channels: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(channels, channels), activation(), nn.Linear(channels, channels), activation()
        )

    def forward(self, x: Float[Tensor, "atom channel"]) -> Float[Tensor, "atom channel"]:
        """Refined features."""
        return (x + self.layers(x)) * math.sqrt(0.5)
