"""Loss and gradient of one step, added up over parts and ranks, and which structures spoil them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mcgm.derivatives import parameter_gradients
from mcgm.potential import Prediction
from mcgm.training.config import LossConfig
from mcgm.training.loss import loss_terms
from mcgm.training.parts import Portion
from mcgm.training.ranks import total, total_gradients

SHOWN = 5
"""Names in a message."""


@dataclass(frozen=True, eq=False)
class Share:
    """What some structures add to the loss of a step and to its gradient, and what was predicted for them."""

    portion: Portion
    energy: Float[Tensor, "molecule"]
    forces: Float[Tensor, "atom 3"] | None
    loss: Float[Tensor, ""]
    gradients: tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Differentiator:
    """From structures to their share of a step whose loss is normalised by these counts, times a factor."""

    predict: Callable[[Portion], Prediction]
    parameters: Sequence[Tensor]
    config: LossConfig
    counts: Float[Tensor, "term"]
    factor: float = 1.0

    def __call__(self, portion: Portion) -> Share:
        """One pass forward and one backward."""
        prediction = self.predict(portion)
        terms = loss_terms(
            prediction.energy,
            prediction.forces,
            portion.data,
            self.config,
            charges=prediction.charges,
            dipole=prediction.dipole,
            stress=prediction.stress,
            missing_charge=prediction.missing_charge,
        )
        loss = self.factor * terms.mean(self.config, self.counts)
        forces = None if prediction.forces is None else prediction.forces.detach()
        gradients = parameter_gradients(loss, self.parameters)
        return Share(portion, prediction.energy.detach(), forces, loss.detach(), gradients)


class GradientSum:
    """Loss and gradient of a step: shares are added, then the sums of all ranks."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = parameters
        self.gradients: list[Tensor | None] = [None] * len(parameters)
        self.loss = torch.zeros((), dtype=torch.float64, device=parameters[0].device)

    def add(self, share: Share) -> None:
        """Add the share of a part."""
        self._add(share.loss, share.gradients)

    def _add(self, loss: Float[Tensor, ""], gradients: Sequence[Tensor | None]) -> None:
        self.loss = self.loss + loss
        pairs = zip(self.gradients, gradients, strict=True)
        self.gradients = [new if old is None else old if new is None else old + new for old, new in pairs]

    def add_penalty(self, penalty: Float[Tensor, ""] | None) -> None:
        """Add a term of the parameters alone, once for all ranks: after `share_among_ranks`."""
        if penalty is not None:
            self._add(penalty.detach(), parameter_gradients(penalty, self.parameters))

    def spoil(self) -> None:
        """Make it not finite: how a rank that failed tells the others."""
        self.loss = torch.full_like(self.loss, torch.nan)

    def share_among_ranks(self) -> None:
        """Replace by the sums over all ranks."""
        self.loss = total(self.loss)
        self.gradients = total_gradients(self.gradients, self.parameters)

    @property
    def is_finite(self) -> bool:
        """Whether the loss and the norm of the gradient are finite numbers."""
        return _is_finite(self.loss, self.gradients)


def _is_finite(loss: Tensor, gradients: Sequence[Tensor | None]) -> bool:
    norm = torch.nn.utils.get_total_norm([g for g in gradients if g is not None])
    return bool(torch.isfinite(loss) & torch.isfinite(norm))


def what_is_not_finite(differentiate: Differentiator, whole: Portion) -> str:
    """The structures that are not finite when they are alone, and in what; empty where there is none."""
    found: dict[str, list[str]] = {}
    for k, name in enumerate(whole.data.names):
        quantity = _spoiled(differentiate(whole.part(k, k + 1)))
        if quantity is not None:
            found.setdefault(quantity, []).append(name)
    return " and ".join(f"{quantity} of {named(names)}" for quantity, names in found.items())


def _spoiled(share: Share) -> str | None:
    """The first quantity that is not finite, in the order in which they follow from each other."""
    data = share.portion.data
    quantities = {
        "energy label": data.energy,
        "force label": data.forces[data.has_forces],
        "stress label": data.stress[data.has_stress],
        "energy": share.energy,
    }
    if share.forces is not None:
        quantities["forces"] = share.forces
    quantities["loss"] = share.loss
    for quantity, values in quantities.items():
        if not bool(torch.isfinite(values).all()):
            return quantity
    return None if _is_finite(share.loss, share.gradients) else "gradient"


def named(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(repr(name) for name in names[:SHOWN]) + more
