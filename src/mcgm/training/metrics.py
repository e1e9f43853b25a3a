"""Errors accumulated exactly: sums and counts, so that neither batches nor ranks weigh in."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mcgm.potential import Prediction
from mcgm.report.result import Metrics
from mcgm.segments import segment_count
from mcgm.training.batches import LabelledBatch
from mcgm.training.ranks import total

FIELDS = ("structures", "energy_abs", "energy_abs_per_atom", "energy_square", "components", "force_abs", "force_square")


class ErrorSums:
    """Running sums of errors, in float64, as one vector that ranks can add up."""

    def __init__(self) -> None:
        self.sums: Float[Tensor, "field"] = torch.zeros(len(FIELDS), dtype=torch.float64)

    def add(
        self, energy: Float[Tensor, "molecule"], forces: Float[Tensor, "atom 3"] | None, data: LabelledBatch
    ) -> None:
        """Count a batch of predictions in eV and eV/Å."""
        error = energy.detach().double() - data.energy
        entries = [
            error.new_tensor(float(len(error))),
            error.abs().sum(),
            (error.abs() / data.sizes).sum(),
            error.square().sum(),
        ]
        entries += [error.new_zeros(())] * 3
        if forces is not None:
            difference = (forces.detach().double() - data.forces)[data.has_forces]
            entries[4:] = [
                error.new_tensor(float(difference.numel())),
                difference.abs().sum(),
                difference.square().sum(),
            ]
        self.sums = self.sums.to(error.device) + torch.stack(entries)

    def reduced(self) -> ErrorSums:
        """The sums over all ranks."""
        result = ErrorSums()
        result.sums = total(self.sums)
        return result

    def metrics(self) -> Metrics:
        """Errors in meV and meV/Å of at least one structure; None for forces that no structure has."""
        entries = dict(zip(FIELDS, self.sums.tolist(), strict=True))
        number, components = entries["structures"], entries["components"]
        return Metrics(
            n_structures=int(number),
            energy_mae_mev=1000 * entries["energy_abs"] / number,
            energy_mae_mev_per_atom=1000 * entries["energy_abs_per_atom"] / number,
            energy_rmse_mev=1000 * (entries["energy_square"] / number) ** 0.5,
            force_mae_mev_per_A=1000 * entries["force_abs"] / components if components else None,
            force_rmse_mev_per_A=1000 * (entries["force_square"] / components) ** 0.5 if components else None,
        )


def not_finite(prediction: Prediction, data: LabelledBatch) -> list[str]:
    """Names of the structures with an energy or a force that is infinite or not a number."""
    wrong = ~torch.isfinite(prediction.energy)
    if prediction.forces is not None:
        per_atom = (~torch.isfinite(prediction.forces)).any(1)
        wrong = wrong | (segment_count(data.batch.molecule[per_atom], len(data)) > 0)
    return [data.names[k] for k in torch.flatten(torch.nonzero(wrong)).tolist()]
