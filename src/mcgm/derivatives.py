"""Forces, stress and the gradient of the loss: the only place that differentiates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from mcgm.batch import Batch
from mcgm.errors import ConfigError
from mcgm.mixed import exact
from mcgm.segments import take
from mcgm.structure import FLAT


class HasEnergy(Protocol):
    """Whatever an energy function returns, as long as it has the energy of each structure."""

    @property
    def energy(self) -> Float[Tensor, "molecule"]:
        """eV."""


E = TypeVar("E", bound=HasEnergy)


def differentiate(
    energies: Callable[[Batch], E], batch: Batch, *, stress: bool, create_graph: bool
) -> tuple[E, Float[Tensor, "atom 3"], Float[Tensor, "molecule 3 3"] | None]:
    """Energies with forces = -dE/dpositions (eV/Å) and stress = dE/dstrain / volume (eV/Å³, as in ASE).

    Stress is zero for structures that are not periodic, or have no volume. With `create_graph` the results can be
    differentiated again; the energies returned then keep their graph, as they do not otherwise.

    Raises:
        ConfigError: within `torch.inference_mode()`.
    """
    if torch.is_inference_mode_enabled():
        raise ConfigError(
            "forces are derivatives, and torch.inference_mode() allows none. Use torch.no_grad() (in Lightning: "
            "Trainer(inference_mode=False)), or ask for energies alone (forces=False)."
        )
    with torch.enable_grad():
        positions = batch.positions if batch.positions.requires_grad else batch.positions.detach().requires_grad_()
        inputs = [positions]
        strained = batch.replace(positions=positions)
        if stress:
            strain = positions.new_zeros((batch.n_molecules, 3, 3)).requires_grad_()
            inputs.append(strain)
            with exact(batch.device):
                strained = apply_strain(strained, strain)
        result = energies(strained)
        with exact(batch.device):  # each operation is differentiated in the precision that it was done in
            gradients = torch.autograd.grad(
                [result.energy.sum()], inputs, create_graph=create_graph, materialize_grads=True
            )
    if not stress:
        return result, -gradients[0], None
    cell = batch.exact_cell
    volume = torch.linalg.det(cell).abs()
    is_flat = volume <= FLAT * torch.linalg.vector_norm(cell, dim=2).prod(dim=1)
    has_volume = (batch.pbc.any(dim=1) & ~is_flat)[:, None, None]
    volume = torch.where(has_volume, volume[:, None, None], 1.0).to(batch.cell.dtype)
    return result, -gradients[0], torch.where(has_volume, gradients[1] / volume, 0.0)


def parameter_gradients(
    loss: Float[Tensor, ""], parameters: Sequence[Tensor]
) -> tuple[Float[Tensor, "..."] | None, ...]:
    """Gradient of a loss for each parameter, `None` for those without a part in it; all of them, or an error."""
    with exact(loss.device):
        return torch.autograd.grad(loss, parameters, allow_unused=True)


def vector_jacobian_product(
    results: Sequence[Tensor], parameters: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> tuple[Float[Tensor, "..."] | None, ...]:
    """Gradient of the results times their cotangents for each parameter, `None` for those without a part in them."""
    with exact(results[0].device):
        return torch.autograd.grad(results, parameters, cotangents, allow_unused=True)


def apply_strain(batch: Batch, strain: Float[Tensor, "molecule 3 3"]) -> Batch:
    """Positions and cells under the symmetric part of a small strain."""
    symmetric = 0.5 * (strain + strain.transpose(1, 2))
    moved = torch.einsum("ab,abc->ac", batch.positions, take(symmetric, batch.molecule))
    return batch.replace(positions=batch.positions + moved, cell=batch.cell + batch.cell @ symmetric)
