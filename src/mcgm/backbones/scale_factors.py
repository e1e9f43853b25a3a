"""Constant factors that keep the variance of activations, fitted on data before training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mcgm.backbones.base import Backbone
from mcgm.batch import Batch
from mcgm.errors import DataError


class ScaleFactor(nn.Module):
    """Multiplies what a sum or product has given by a constant, an initial value until `fit_scale_factors` sets it.

    `reference` is what went into the sum or product; it only says which variance to keep.
    Source: GemNet, arXiv:2106.08903, section 6.
    """

    factor: Tensor

    def __init__(self, initial: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(initial))

    def forward(
        self, reference: Float[Tensor, "input feature"], values: Float[Tensor, "output other"]
    ) -> Float[Tensor, "output other"]:
        """Scaled values."""
        return values * self.factor


class Variances:
    """Sums of the variances that pass one factor, in a forward hook; batches count by their rows."""

    def __init__(self) -> None:
        self.reference = 0.0
        self.values = 0.0

    def __call__(self, _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Add one pass; the output already carries the factor of before."""
        rows = output.shape[0]
        if rows > 1:
            self.reference += rows * float(inputs[0].var(dim=0).mean())
            self.values += rows * float(output.var(dim=0).mean())


@torch.no_grad()
def fit_scale_factors(backbone: Backbone, batches: Iterable[Batch]) -> dict[str, float]:
    """Set each factor such that its output varies as much as its input, first to last, and return them by name.

    Labels are not used. A network without factors is left as it is. Source: GemNet, arXiv:2106.08903, section 6.

    Raises:
        DataError: no edges in the batches, so that nothing varies.
    """
    if not any(isinstance(module, ScaleFactor) for module in backbone.modules()):
        return {}
    batches = list(batches)
    fitted = {}
    for name, factor in _in_order(backbone, batches).items():
        variances = Variances()
        handle = factor.register_forward_hook(variances)
        try:
            for batch in batches:
                _run(backbone, batch)
        finally:
            handle.remove()
        if not (variances.reference > 0 and variances.values > 0):
            raise DataError(
                f"scale factor {name}: nothing varies in the {len(batches)} batches given; required: structures "
                "with several neighbours within the cutoff. Give batches of training structures."
            )
        factor.factor.mul_(math.sqrt(variances.reference / variances.values))
        fitted[name] = float(factor.factor)
    return fitted


def _run(backbone: Backbone, batch: Batch) -> None:
    state = backbone.embed(batch, batch.edges, backbone.index(batch))
    for layer in range(backbone.layers):
        state = backbone.interact(layer, state)


def _in_order(backbone: Backbone, batches: Sequence[Batch]) -> dict[str, ScaleFactor]:
    """The factors in the order in which a pass meets them: each is fitted with those before it in place."""
    factors = {name: module for name, module in backbone.named_modules() if isinstance(module, ScaleFactor)}
    names = {module: name for name, module in factors.items()}
    met: dict[str, ScaleFactor] = {}
    handles = [
        module.register_forward_pre_hook(lambda module, _: _note(met, names[module], module)) for module in names
    ]
    try:
        for batch in batches[: min(1, len(names))]:
            _run(backbone, batch)
    finally:
        for handle in handles:
            handle.remove()
    return met


def _note(met: dict[str, ScaleFactor], name: str, module: ScaleFactor) -> None:
    met.setdefault(name, module)
