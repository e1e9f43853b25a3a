"""The training loss: sums and counts, so that any sharing of structures among ranks gives the same value."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mcgm.training.batches import LabelledBatch
from mcgm.training.config import LossConfig

TERMS = ("energy", "force", "charge", "dipole", "stress", "total_charge")


@dataclass(frozen=True, eq=False)
class LossTerms:
    """Sums of the element-wise losses and how many there were, in the order of `TERMS`."""

    sums: Float[Tensor, "term"]
    counts: Float[Tensor, "term"]

    def mean(self, config: LossConfig, counts: Float[Tensor, "term"] | None = None) -> Float[Tensor, ""]:
        """Weighted loss with these counts (default: its own); a term without entries is zero."""
        weights = self.sums.new_tensor([getattr(config, f"{term}_weight") for term in TERMS])
        number = (self.counts if counts is None else counts).clamp(min=1)
        return (weights * self.sums / number).sum()


def loss_terms(
    energy: Float[Tensor, "molecule"],
    forces: Float[Tensor, "atom 3"] | None,
    data: LabelledBatch,
    config: LossConfig,
    *,
    charges: Float[Tensor, "atom"] | None = None,
    dipole: Float[Tensor, "molecule 3"] | None = None,
    stress: Float[Tensor, "molecule 3 3"] | None = None,
    missing_charge: Float[Tensor, "molecule"] | None = None,
) -> LossTerms:
    """Element-wise losses, summed in float64.

    Energy errors in eV (per molecule or per atom), force errors in eV/Å (per component), charge errors in e, dipole
    errors in eÅ and stress errors in eV/Å³ (per component), missing charge in e (per molecule); all but energy
    and forces only where they have a weight.
    """
    error = energy.double() - data.energy
    if config.energy_per == "atom":
        error = error / data.sizes
    errors = [error, *(error.new_zeros(0) for _ in TERMS[1:])]
    if forces is not None:
        errors[1] = _errors(forces, data.forces, data.has_forces)
    if charges is not None and config.charge_weight > 0:
        errors[2] = _errors(charges, data.charges, data.has_charges)
    if dipole is not None and config.dipole_weight > 0:
        errors[3] = _errors(dipole, data.dipole, data.has_dipole)
    if stress is not None and config.stress_weight > 0:
        errors[4] = _errors(stress, data.stress, data.has_stress)
    if missing_charge is not None and config.total_charge_weight > 0:
        errors[5] = missing_charge.double()
    sums = torch.stack([elementwise(item, config).sum() for item in errors])
    return LossTerms(sums, sums.new_tensor([float(item.numel()) for item in errors]))


def _errors(predicted: Tensor, label: Tensor, known: Tensor) -> Tensor:
    return predicted[known].double() - label[known]


def label_counts(data: LabelledBatch, config: LossConfig, *, forces: bool, charges: bool) -> Float[Tensor, "term"]:
    """How many entries the terms have: what `loss_terms` counts, known before anything is predicted."""
    numbers = [
        torch.tensor(len(data), device=data.energy.device),
        3 * forces * data.has_forces.sum(),
        charges * (config.charge_weight > 0) * data.has_charges.sum(),
        3 * charges * (config.dipole_weight > 0) * data.has_dipole.sum(),
        9 * (config.stress_weight > 0) * data.has_stress.sum(),
        torch.tensor(charges * (config.total_charge_weight > 0) * len(data), device=data.energy.device),
    ]
    return torch.stack(numbers).to(data.energy.dtype)


def elementwise(error: Float[Tensor, "*shape"], config: LossConfig) -> Float[Tensor, "*shape"]:
    """Absolute value, square, or Huber's mixture of the two (divided by `huber_delta`: slope 1 far out)."""
    if config.kind == "l1":
        return error.abs()
    if config.kind == "l2":
        return error.square()
    delta = config.huber_delta
    size = error.abs()
    return torch.where(size < delta, error.square() / (2 * delta), size - delta / 2)
