"""How Lightning is to treat a model that several ranks train."""

from __future__ import annotations

import torch
from lightning.pytorch.strategies import DDPStrategy


class ReplicatedStrategy(DDPStrategy):
    """Every rank holds the whole model, with the weights of rank 0 at the start; the training step adds up gradients.

    Without torch's wrapper, which adds up while it differentiates: it has to be told about parameters without a
    gradient, and cannot start over when a rank has to split its batch.
    """

    def configure_ddp(self) -> None:
        """Called by Lightning at the start."""
        assert self.model is not None
        for values in self.model.state_dict().values():
            torch.distributed.broadcast(values, src=0)
