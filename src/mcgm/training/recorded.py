"""Training steps of a GPU that are recorded once for batches of one size and replayed: forwards, and backwards.

Batches are filled up to a few sizes (`mcgm.training.filling`). The loss is made of what was predicted for the batch
itself, by ordinary operations; of it, what fills the batch has no gradient.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from mcgm.batch import Batch
from mcgm.cuda_graphs import CudaGraphs
from mcgm.derivatives import vector_jacobian_product
from mcgm.leaves import put_together, take_apart
from mcgm.potential import NetworkPotential, Prediction

MOST = 16
"""Forms of batches that are recorded; others run as they are."""

WARM_UP = 2

_log = logging.getLogger("mcgm")


class RecordedNetwork:
    """Predictions of a network in training mode, of batches that were filled up.

    Without electrostatics and clusters: what a loss asks of blocks that can be recorded.
    """

    def __init__(self, network: NetworkPotential) -> None:
        self.network = network
        self._graphs: CudaGraphs | None = None
        self._steps: dict[Hashable, _Step] = {}
        self._has_warned = False

    @property
    def recordings(self) -> int:
        """How many forms of batches have been recorded."""
        return len(self._steps)

    def __call__(self, batch: Batch, filled: Batch, *, forces: bool) -> Prediction | None:
        """The prediction for a batch, by way of the filled one; `None` where it is not recorded.

        The next call overwrites what its gradient is made of.
        """
        parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        values, form = take_apart(filled)
        lengths = tuple(value.shape if isinstance(value, Tensor) else value for value in values)
        key = form, lengths, forces, self.network.training, tuple(parameter.data_ptr() for parameter in parameters)
        step = self._steps.get(key)
        if step is None:
            graphs = self._graphs = self._graphs or CudaGraphs(self.network.device)
            if len(self._steps) >= MOST or not (graphs.is_possible or graphs.device.type == "cpu"):
                self._warn_once()
                return None
            step = _Step.recorded(self.network, filled, graphs, forces=forces)
            if step is None:
                return None
            self._steps[key] = step
        step.load(values)
        energy, force, atom_energy, cluster_energy = _Replay.apply(step, *parameters)
        molecules, atoms = batch.n_molecules, batch.n_atoms
        return Prediction(
            energy=energy[:molecules],
            atom_energy=atom_energy[:atoms],
            cluster_energy=cluster_energy[:molecules],
            clusters=(),
            electrostatic_energy=torch.zeros_like(cluster_energy[:molecules]),
            charges=None,
            dipole=None,
            missing_charge=None,
            forces=force[:atoms] if forces else None,
        )

    def _warn_once(self) -> None:
        if len(self._steps) >= MOST and not self._has_warned:
            _log.warning("training.cuda_graphs: %d forms of batches are recorded; others run as they are.", MOST)
            self._has_warned = True


class _Step:
    """One form of batches: where its numbers are, and what runs forwards and backwards on them."""

    def __init__(self, network: NetworkPotential, filled: Batch, *, forces: bool) -> None:
        values = [value.clone() if isinstance(value, Tensor) else value for value in take_apart(filled)[0]]
        self.batch: Batch = put_together(filled, values)
        self.network, self.forces = network, forces
        self.weights = {  # others than the optimiser's, with the same memory: no graph of before holds on to them
            name: parameter.detach().requires_grad_()
            for name, parameter in network.named_parameters()
            if parameter.requires_grad
        }
        self.outputs: tuple[Tensor, ...] = ()
        self.is_used: list[bool] = []
        self.flat = torch.cat([torch.zeros_like(weight).flatten() for weight in self.weights.values()])
        self.cotangents: list[Tensor] = []
        self.run_forwards: Callable[[], Any] = self._forwards
        self.run_backwards: Callable[[], Any] = self._backwards
        self._places = _by_type([value for value in values if isinstance(value, Tensor)])

    @classmethod
    def recorded(cls, network: NetworkPotential, filled: Batch, graphs: CudaGraphs, *, forces: bool) -> _Step | None:
        """Recorded where the device is a GPU; `None` where that is not possible."""
        step = cls(network, filled, forces=forces)
        with torch.enable_grad():
            graphs.on_another_stream(step._warm_up)
            if graphs.device.type == "cpu":
                return step
            forwards = graphs.record(step._forwards)
            backwards = None if forwards is None else graphs.record(step._backwards)
        if forwards is None or backwards is None:
            return None
        step.run_forwards, step.run_backwards = forwards[0], backwards[0]
        step.outputs = tuple(output.detach() for output in step.outputs)
        return step

    def _warm_up(self) -> None:
        for _ in range(WARM_UP):
            self._forwards()
            self._backwards()
        self.outputs = ()  # nor does a graph of this stream

    def load(self, values: list[Any]) -> None:
        """Numbers of another batch of this form."""
        tensors = [value for value in values if isinstance(value, Tensor)]
        for rows, own in self._places:
            torch._foreach_copy_(own, [tensors[k] for k in rows])

    @property
    def gradients(self) -> tuple[Tensor | None, ...]:
        """Of the parameters, in memory of their own."""
        weights = self.weights.values()
        parts = self.flat.clone().split([weight.numel() for weight in weights])
        pairs = zip(parts, weights, self.is_used, strict=True)
        return tuple(part.view_as(weight) if used else None for part, weight, used in pairs)

    def _forwards(self) -> None:
        how = {"forces": self.forces, "stress": False}
        found: Prediction = functional_call(self.network, self.weights, (self.batch,), how)
        force = found.energy.new_zeros(0) if found.forces is None else found.forces
        self.outputs = found.energy, force, found.atom_energy, found.cluster_energy

    def _backwards(self) -> None:
        made = self.outputs[:2] if self.forces else self.outputs[:1]
        if not self.cotangents:
            self.cotangents = [torch.zeros_like(output) for output in made]
        weights = list(self.weights.values())
        found = vector_jacobian_product(made, weights, self.cotangents)
        self.is_used = [gradient is not None for gradient in found]
        pairs = zip(found, weights, strict=True)
        self.flat.copy_(torch.cat([(p if g is None else g).detach().flatten() for g, p in pairs]))


class _Replay(torch.autograd.Function):
    """The step as one operation on the parameters."""

    @staticmethod
    def forward(ctx: Any, step: _Step, *parameters: Tensor) -> tuple[Tensor, ...]:
        """Energies, forces, and parts of the energies, which have no gradient."""
        ctx.step = step
        with torch.enable_grad():
            step.run_forwards()
        found = tuple(output.detach().clone() for output in step.outputs)
        ctx.mark_non_differentiable(*found[2:])
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        """From gradients of energies and forces to those of the parameters."""
        step: _Step = ctx.step
        torch._foreach_copy_(step.cotangents, list(gradients[: len(step.cotangents)]))
        step.run_backwards()
        return None, *step.gradients


def _by_type(tensors: list[Tensor]) -> list[tuple[list[int], list[Tensor]]]:
    """Tensors of each type with their places: they are copied together."""
    places: dict[torch.dtype, list[int]] = {}
    for k, tensor in enumerate(tensors):
        places.setdefault(tensor.dtype, []).append(k)
    return [(rows, [tensors[k] for k in rows]) for rows in places.values()]
