"""The training loss: sums and counts, so that any sharing of structures among ranks gives the same value."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mcgm.training.batches import LabelledBatch
from mcgm.training.config import LossConfig


@dataclass(frozen=True, eq=False)
class LossTerms:
    """Sums of the element-wise losses and how many there were, as [energy, force]."""

    sums: Float[Tensor, "2"]
    counts: Float[Tensor, "2"]

    def mean(self, config: LossConfig, counts: Float[Tensor, "2"] | None = None) -> Float[Tensor, ""]:
        """Weighted loss with these counts (default: its own); a term without entries is zero."""
        weights = self.sums.new_tensor([config.energy_weight, config.force_weight])
        number = (self.counts if counts is None else counts).clamp(min=1)
        return (weights * self.sums / number).sum()


def loss_terms(
    energy: Float[Tensor, "molecule"], forces: Float[Tensor, "atom 3"] | None, data: LabelledBatch, config: LossConfig
) -> LossTerms:
    """Energy errors in eV (per molecule or per atom) and force errors in eV/Å (per component), summed in float64."""
    error = energy.double() - data.energy
    if config.energy_per == "atom":
        error = error / data.sizes
    values = elementwise(error, config)
    force_values = error.new_zeros(0)
    if forces is not None:
        force_values = elementwise(forces[data.has_forces].double() - data.forces[data.has_forces], config).flatten()
    counts = torch.tensor([len(values), len(force_values)], dtype=torch.float64, device=error.device)
    return LossTerms(torch.stack([values.sum(), force_values.sum()]), counts)


def label_counts(data: LabelledBatch, *, forces: bool) -> Float[Tensor, "2"]:
    """How many entries the two terms have: what `loss_terms` counts, known before anything is predicted."""
    components = 3 * data.has_forces.sum() if forces else data.energy.new_zeros(())
    return torch.stack([data.energy.new_tensor(float(len(data))), components.to(data.energy.dtype)])


def elementwise(error: Float[Tensor, "*shape"], config: LossConfig) -> Float[Tensor, "*shape"]:
    """Absolute value, square, or Huber's mixture of the two (divided by `huber_delta`: slope 1 far out)."""
    if config.kind == "l1":
        return error.abs()
    if config.kind == "l2":
        return error.square()
    delta = config.huber_delta
    size = error.abs()
    return torch.where(size < delta, error.square() / (2 * delta), size - delta / 2)
