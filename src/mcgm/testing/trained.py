"""Weights that have seen some training: what holds for fresh ones must hold for them too."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_

from mcgm.potential import Potential
from mcgm.structure import Structure
from mcgm.training.batches import Collate
from mcgm.training.config import LossConfig
from mcgm.training.loss import loss_terms

LARGEST_GRADIENT = 10.0
"""Norm at which gradients are clipped."""


def train_briefly(
    potential: Potential,
    structures: Sequence[Structure],
    *,
    steps: int = 40,
    batch: int = 2,
    learning_rate: float = 5e-3,
    seed: int = 0,
    loss: LossConfig | None = None,
) -> Potential:
    """A copy after some steps of Adam on energies and forces, in evaluation mode: a subject for checks, not a model.

    `loss` says how they weigh, and may add stress.

    The learning rate falls to zero. The potential should have element references of the structures. K-means draws its
    seeds, as in any training.

    Raises:
        DataError: a structure has no energy.
    """
    trained = copy.deepcopy(potential).train()
    collate, loss = Collate(trained, trained.dtype), loss or LossConfig()
    order, chance = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(trained.parameters(), lr=learning_rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        data = collate([structures[k] for k in order.choice(len(structures), batch, replace=False)])
        prediction = trained(data.batch, stress=loss.stress_weight > 0, generator=chance)
        optimizer.zero_grad()
        terms = loss_terms(
            prediction.energy,
            prediction.forces,
            data,
            loss,
            stress=prediction.stress,
            missing_charge=prediction.missing_charge,
        )
        terms.mean(loss).backward()
        clip_grad_norm_(trained.parameters(), LARGEST_GRADIENT)
        optimizer.step()
    return trained.eval()
