"""`attach`: a long-range block inside a network of another library, which is not edited."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mcgm.attachment_inputs import AtomInputs, Reading, require_same_positions
from mcgm.attachment_points import AtomFeatures, EnergyOutput, Output, PerAtom, PerStructure, Residual
from mcgm.batch import Batch
from mcgm.errors import ConfigError, unknown_name
from mcgm.long_range import BLOCKS, LongRangeSpec
from mcgm.mixed import exact
from mcgm.segments import segment_sum, take

__all__ = ["AtomInputs", "Attachment", "Output", "PerAtom", "PerStructure", "Residual", "attach"]

CHILD = "long_range"
"""Name of the child module that `attach` adds: its weights appear in `state_dict` under this prefix."""


def attach(
    model: nn.Module,
    long_range: str | LongRangeSpec = "mcgm",
    *,
    layers: Sequence[nn.Module],
    channels: int,
    features: AtomFeatures | None = None,
    inputs: Callable[..., AtomInputs] = AtomInputs,
    energy: EnergyOutput | None = None,
    energy_from: nn.Module | None = None,
    gain: float = 1.0,
    scale: float = 1.0,
    cutoff: float | None = None,
    generator: torch.Generator | None = None,
) -> Attachment:
    """Add a long-range block after each interaction layer of any network; the network is then used as before.

    Args:
        model: changed in place: it gets hooks and a child `long_range`, whose weights train and save with its own.
        long_range: a name ("mcgm", "mcgm_paper", …) or a specification; default: one that needs no neighbours.
        layers: the modules that update the atoms' features, in the order in which they run.
        channels: width of those features; only invariant ones may be given.
        features: where they are; default: the layer returns what is added to its first input (`Residual()`).
        inputs: makes `AtomInputs` of the arguments of `model.forward`; default: numbers, positions, molecule. There are
            also places for cell, charge and spin.
        energy: how an energy is added to an output; default: a tensor with one row per structure (`PerStructure()`).
        energy_from: the module with that output; default `model`. One inside it where the model makes its own forces.
        gain: initial strength, learned per layer and for the energy. 0 leaves the predictions of a trained model.
        scale: the model's unit of energy in units of the block's output. Coulomb energies of blocks with charges are
            in eV, whatever it is: the model's energies have to be.
        cutoff: Å; search neighbours, for blocks that need them (`scope="molecule"`).
        generator: on the model's device; where rules that draw (K-means++, random) take chance from while the model is
            in training mode. Without one, and always in evaluation mode, they are functions of their inputs.

    Raises:
        ConfigError: unknown block, no layers, one attached already, or labels kept per epoch (`recluster`).
    """
    if isinstance(long_range, str):
        if long_range not in BLOCKS:
            raise ConfigError(unknown_name("long-range block", long_range, BLOCKS))
        long_range = BLOCKS[long_range]()
    if not isinstance(long_range, LongRangeSpec):
        raise ConfigError(f"long_range is {long_range!r}; required: a name, or a specification such as MCGM().")
    if hasattr(model, CHILD):
        raise ConfigError(
            f"{type(model).__name__} has an attribute {CHILD!r} already; remove() the earlier attachment."
        )
    if getattr(long_range, "recluster", "forward") != "forward":
        raise ConfigError(
            "recluster='epoch' keeps labels by the names of structures, which another library's loop does not give; "
            "required: recluster='forward', or training with mcgm."
        )
    layers = list(layers)
    if not layers:
        raise ConfigError("layers is empty; required: the modules that update the features of the atoms, in order.")
    attachment = Attachment(long_range, len(layers), channels, Reading(inputs, cutoff), gain=gain, scale=scale)
    attachment.generator = generator
    attachment.features = features or Residual()
    attachment.energy = energy or PerStructure()
    reference = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    attachment.to(device=reference.device, dtype=reference.dtype)
    attachment.train(model.training)
    attachment._hook(model, layers, energy_from or model)
    return attachment


class Call(NamedTuple):
    """What the model is called with."""

    model: str
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Pass:
    """One forward pass under way: the batch, the block's memory, and the atoms' features after the last layer.

    `molecule` is the structure of each atom as the model has them, `order` who stands where in the batch if not they.
    """

    batch: Batch
    molecule: Int[Tensor, "atom"]
    order: Int[Tensor, "atom"] | None
    memory: Any
    scalars: Float[Tensor, "atom channel"] | None = None
    layer: int = 0
    has_energy: bool = False


class Attachment(nn.Module):
    """A block with the hooks that feed it; made by `attach`, a child of the model it is attached to.

    One pass at a time: threads that share a model need a copy each (`copy.deepcopy` works).
    """

    features: AtomFeatures
    energy: EnergyOutput
    generator: torch.Generator | None

    def __init__(
        self, specification: LongRangeSpec, layers: int, channels: int, reading: Reading, *, gain: float, scale: float
    ) -> None:
        super().__init__()
        self.specification = specification
        self.block = specification.build(channels, layers)
        self.gain = nn.Parameter(torch.full((layers + 1,), float(gain)))
        self.channels = channels
        self.layers = layers
        self.scale = scale
        self.reading = reading
        self._called: Call | None = None
        self._pass: Pass | None = None
        self._handles: list[Any] = []
        self._model: tuple[nn.Module, ...] = ()

    def remove(self) -> None:
        """Take the block and all hooks out again; the model is then what it was."""
        for handle in self._handles:
            handle.remove()
        for model in self._model:
            delattr(model, CHILD)
        self._handles, self._model = [], ()

    def _hook(self, model: nn.Module, layers: Sequence[nn.Module], energy_from: nn.Module) -> None:
        # a tuple keeps torch from registering the parent as a child of its own child
        self._model = (model,)
        model.add_module(CHILD, self)
        self._handles = [model.register_forward_pre_hook(self._call, with_kwargs=True)]
        for number, layer in enumerate(layers):
            self._handles.append(layer.register_forward_hook(_LayerHook(self, number), with_kwargs=True))
        self._handles.append(energy_from.register_forward_hook(self._add_energy))
        self._handles.append(model.register_forward_hook(self._end, always_call=True))

    def _call(self, model: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        self._called = Call(type(model).__name__, arguments, keywords)

    def _begin(self, call: Call) -> Pass:
        """At the first layer: until then the model may say by what it will differentiate."""
        batch, molecule, order = self.reading(*call)
        chance = self.generator if self.training else None
        with exact(batch.device):
            memory = self.block.begin(batch, self.block.index(batch), clusters=None, generator=chance)
        return Pass(batch, molecule, order, memory)

    def _after_layer(self, number: int, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> Any:
        expected = self._pass.layer if self._pass else 0
        if self._called is None or expected != number:
            state = "outside a pass of the model" if self._called is None else f"where layer {expected} was expected"
            raise ConfigError(
                f"attached layer {number} ran {state}. Give `layers` in the order in which the model calls them, each "
                "called once per pass (no activation checkpointing)."
            )
        now = self._pass or self._begin(self._called)
        scalars = self.features.read(arguments, keywords, output)
        shape = (now.batch.n_atoms, self.channels)
        if tuple(scalars.shape) != shape:
            raise ConfigError(
                f"features of layer {number} have shape {tuple(scalars.shape)}; required: atoms x channels {shape}. "
                "Check channels= and features=."
            )
        if number == 0 and self.specification.reads_positions:
            require_same_positions(self._called.model, scalars, now.batch)
        scalars = scalars if now.order is None else take(scalars, now.order)
        with exact(now.batch.device):
            scalars = scalars.to(self.gain.dtype)
            update, memory = self.block.exchange(number, scalars, now.memory)
            if update is not None:
                update = self.gain[number] * update
                scalars = scalars + update
        if update is not None:
            there = update if now.order is None else take(update, torch.argsort(now.order))
            output = self.features.write(output, there)
        self._pass = replace(now, memory=memory, scalars=scalars, layer=number + 1)
        return output

    def _add_energy(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        now = self._pass
        if now is None or now.scalars is None or now.layer != self.layers or now.has_energy:
            done = f"{now.layer} of {self.layers} attached layers" if now else "nothing"
            raise ConfigError(
                f"the energy was made by {type(module).__name__} when {done} had run"
                f"{', for the second time' if now and now.has_energy else ''}; required: once, after all of them."
            )
        with exact(now.batch.device):
            added = self.block.contribution(now.scalars, now.memory)
            energy = self.scale * segment_sum(added.energy, added.molecule, now.batch.n_molecules)
            if added.electrostatics is not None:
                energy = energy + segment_sum(added.electrostatics.energy, now.batch.molecule, now.batch.n_molecules)
            energy = self.gain[-1] * energy
        self._pass = replace(now, has_energy=True)
        return self.energy.add(output, energy, now.molecule)

    def _end(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        now, self._pass, self._called = self._pass, None, None
        if output is not None and not (now and now.has_energy):
            raise ConfigError("energy_from did not run in this pass, so the block's energy is in no output.")

    def forward(self, *arguments: Any) -> None:
        """Never called: the hooks do the work."""
        raise NotImplementedError("an attachment works through hooks; call the model that it is attached to.")


class _LayerHook:
    """Knows which layer it follows; a class, so that copying a model copies the link to the copied attachment."""

    def __init__(self, attachment: Attachment, number: int) -> None:
        self.attachment = attachment
        self.number = number

    def __call__(self, layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> Any:
        return self.attachment._after_layer(self.number, arguments, keywords, output)
