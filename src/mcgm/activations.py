"""Activations by the name under which a configuration asks for them; all smooth."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor, nn


class ShiftedSoftplus(nn.Module):
    """ln(exp(x)/2 + 1/2), zero at zero (SchNet, arXiv:1706.08566)."""

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Elementwise."""
        return nn.functional.softplus(x) - math.log(2)


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "silu": nn.SiLU,
    "shifted_softplus": ShiftedSoftplus,
    "tanh": nn.Tanh,
    "identity": nn.Identity,
}
"""Smooth activations only: a kink in the energy is a jump in the force constants."""
