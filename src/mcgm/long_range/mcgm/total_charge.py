"""How the total charge and spin of a structure enter its hierarchy."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mcgm.batch import Batch
from mcgm.segments import segment_count


class TotalCharge(nn.Module, ABC):
    """Changes the features of the topmost clusters by the charge and spin of their structure."""

    @abstractmethod
    def forward(
        self, features: Float[Tensor, "cluster channel"], density: Float[Tensor, "cluster 2"]
    ) -> Float[Tensor, "cluster channel"]:
        """Features that know of charge (e) and unpaired electrons, both per atom."""


class Embedded(TotalCharge):
    """A linear map of charge and spin per atom, added: nothing for neutral closed-shell structures.

    Per atom, so that n copies of an ion have n times its energy, as means over atoms have it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2, channels, bias=False)

    def forward(
        self, features: Float[Tensor, "cluster channel"], density: Float[Tensor, "cluster 2"]
    ) -> Float[Tensor, "cluster channel"]:
        """Features plus the mapped density."""
        return features + self.linear(density)


class Ignored(TotalCharge):
    """Charge and spin have no effect, as published; no parameters."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(
        self, features: Float[Tensor, "cluster channel"], density: Float[Tensor, "cluster 2"]
    ) -> Float[Tensor, "cluster channel"]:
        """The same features."""
        return features


TOTAL_CHARGE: dict[str, type[Embedded] | type[Ignored]] = {"embedded": Embedded, "ignored": Ignored}
"""Ways by the name that specifications use."""


def charge_density(batch: Batch) -> Float[Tensor, "molecule 2"]:
    """Charge (e) and unpaired electrons per atom of every structure, times ten: of order one for small ions."""
    atoms = segment_count(batch.molecule, batch.n_molecules).to(batch.charge.dtype)
    return 10 * torch.stack([batch.charge, batch.spin], dim=1) / atoms[:, None]
