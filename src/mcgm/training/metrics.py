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

FIELDS = (
    "structures",
    "energy_abs",
    "energy_abs_per_atom",
    "energy_square",
    "components",
    "force_abs",
    "force_square",
    "charges",
    "charge_abs",
    "dipole_components",
    "dipole_abs",
    "stress_components",
    "stress_abs",
)


class ErrorSums:
    """Running sums of errors, in float64, as one vector that ranks can add up."""

    def __init__(self) -> None:
        self.sums: Float[Tensor, "field"] = torch.zeros(len(FIELDS), dtype=torch.float64)

    def add(
        self,
        energy: Float[Tensor, "molecule"],
        forces: Float[Tensor, "atom 3"] | None,
        data: LabelledBatch,
        *,
        charges: Float[Tensor, "atom"] | None = None,
        dipole: Float[Tensor, "molecule 3"] | None = None,
        stress: Float[Tensor, "molecule 3 3"] | None = None,
    ) -> None:
        """Count a batch of predictions in eV, eV/Å, e, eÅ and eV/Å³."""
        error = energy.detach().double() - data.energy
        entries = {
            "structures": error.new_tensor(float(len(error))),
            "energy_abs": error.abs().sum(),
            "energy_abs_per_atom": (error.abs() / data.sizes).sum(),
            "energy_square": error.square().sum(),
        }
        if forces is not None:
            difference = _differences(forces, data.forces, data.has_forces)
            entries |= {
                "components": error.new_tensor(float(difference.numel())),
                "force_abs": difference.abs().sum(),
                "force_square": difference.square().sum(),
            }
        if charges is not None and dipole is not None:
            charge = _differences(charges, data.charges, data.has_charges)
            moment = _differences(dipole, data.dipole, data.has_dipole)
            entries |= {
                "charges": error.new_tensor(float(charge.numel())),
                "charge_abs": charge.abs().sum(),
                "dipole_components": error.new_tensor(float(moment.numel())),
                "dipole_abs": moment.abs().sum(),
            }
        if stress is not None:
            tension = _differences(stress, data.stress, data.has_stress)
            entries |= {
                "stress_components": error.new_tensor(float(tension.numel())),
                "stress_abs": tension.abs().sum(),
            }
        zero = error.new_zeros(())
        self.sums = self.sums.to(error.device) + torch.stack([entries.get(field, zero) for field in FIELDS])

    def reduced(self) -> ErrorSums:
        """The sums over all ranks."""
        result = ErrorSums()
        result.sums = total(self.sums)
        return result

    def metrics(self) -> Metrics:
        """Errors in meV, meV/Å, me, meÅ and meV/Å³ of at least one structure; None for labels that no structure has."""
        entries = dict(zip(FIELDS, self.sums.tolist(), strict=True))
        number, components = entries["structures"], entries["components"]
        charges, moments, tensions = (entries[f] for f in ("charges", "dipole_components", "stress_components"))
        return Metrics(
            n_structures=int(number),
            energy_mae_mev=1000 * entries["energy_abs"] / number,
            energy_mae_mev_per_atom=1000 * entries["energy_abs_per_atom"] / number,
            energy_rmse_mev=1000 * (entries["energy_square"] / number) ** 0.5,
            force_mae_mev_per_A=1000 * entries["force_abs"] / components if components else None,
            force_rmse_mev_per_A=1000 * (entries["force_square"] / components) ** 0.5 if components else None,
            charge_mae_me=1000 * entries["charge_abs"] / charges if charges else None,
            dipole_mae_meA=1000 * entries["dipole_abs"] / moments if moments else None,
            stress_mae_mev_per_A3=1000 * entries["stress_abs"] / tensions if tensions else None,
        )


def _differences(predicted: Tensor, label: Tensor, known: Tensor) -> Tensor:
    return (predicted.detach().double() - label)[known]


def not_finite(prediction: Prediction, data: LabelledBatch) -> list[str]:
    """Names of the structures with an energy, a force or a stress that is infinite or not a number."""
    wrong = ~torch.isfinite(prediction.energy)
    if prediction.stress is not None:
        wrong = wrong | ~torch.isfinite(prediction.stress).all(-1).all(-1)
    if prediction.forces is not None:
        per_atom = (~torch.isfinite(prediction.forces)).any(1)
        wrong = wrong | (segment_count(data.batch.molecule[per_atom], len(data)) > 0)
    return [data.names[k] for k in torch.flatten(torch.nonzero(wrong)).tolist()]
