"""Where another library's network keeps the features of its atoms and its energy: the objects that `attach` takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from mcgm.errors import ConfigError
from mcgm.segments import segment_count


class AtomFeatures(ABC):
    """How invariant features are read after a layer, and an update of them written into its output."""

    @abstractmethod
    def read(self, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> Float[Tensor, "atom channel"]:
        """The features as they stand after the layer."""

    @abstractmethod
    def write(self, output: Any, update: Float[Tensor, "atom channel"]) -> Any:
        """The output with the update in it."""


@dataclass(frozen=True)
class Output(AtomFeatures):
    """The layer returns the new features: as a tensor, or as one item of a tuple, list or dict."""

    item: int | str | None = None

    def read(self, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> Float[Tensor, "atom channel"]:
        """The output, or its item."""
        return _pick(output, self.item)

    def write(self, output: Any, update: Float[Tensor, "atom channel"]) -> Any:
        """A new output of the same kind, in its own precision."""
        before = self.read((), {}, output)
        return _replace(output, self.item, before + update.to(before.dtype))


@dataclass(frozen=True)
class Residual(AtomFeatures):
    """The layer returns what the network adds to the features, which are the layer's input `argument`.

    `argument` is a position, or the name under which the network passes it; `item` as for `Output`.
    """

    argument: int | str = 0
    item: int | str | None = None

    def read(self, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> Float[Tensor, "atom channel"]:
        """Input plus output."""
        before = keywords[self.argument] if isinstance(self.argument, str) else arguments[self.argument]
        return before + _pick(output, self.item)

    def write(self, output: Any, update: Float[Tensor, "atom channel"]) -> Any:
        """A new output of the same kind: the network adds the update with it."""
        return Output(self.item).write(output, update)


class EnergyOutput(ABC):
    """How an energy per structure enters a module's output."""

    @abstractmethod
    def add(self, output: Any, energy: Float[Tensor, "molecule"], molecule: Int[Tensor, "atom"]) -> Any:
        """The output with the energy in it."""


@dataclass(frozen=True)
class PerStructure(EnergyOutput):
    """The output has one energy per structure, as (molecule,) or (molecule, 1); `item` as for `Output`."""

    item: int | str | None = None

    def add(self, output: Any, energy: Float[Tensor, "molecule"], molecule: Int[Tensor, "atom"]) -> Any:
        """A new output of the same kind, in its own precision."""
        return _add(output, self.item, energy, "structure")


@dataclass(frozen=True)
class PerAtom(EnergyOutput):
    """The output has one energy per atom, as (atom,) or (atom, 1): each gets an equal share of its structure's energy.

    For networks that differentiate inside `forward`: attach it where energies are still per atom.
    """

    item: int | str | None = None

    def add(self, output: Any, energy: Float[Tensor, "molecule"], molecule: Int[Tensor, "atom"]) -> Any:
        """A new output of the same kind, in its own precision."""
        share = energy / segment_count(molecule, len(energy)).clamp(min=1)
        return _add(output, self.item, share[molecule], "atom")


def _add(output: Any, item: int | str | None, energy: Tensor, row: str) -> Any:
    value = _pick(output, item)
    if not isinstance(value, Tensor) or value.numel() != len(energy):
        what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise ConfigError(
            f"the energy should be added to {what}; required: a tensor with one number per {row} ({len(energy)}). Give "
            f"attach energy=PerStructure(item) or PerAtom(item), with the key or position of the energy in the output."
        )
    return _replace(output, item, value + energy.to(value.dtype).reshape(value.shape))


def _pick(output: Any, item: int | str | None) -> Any:
    if item is None:
        return output
    known: list[Any] = []
    if isinstance(output, dict):
        known = list(output)
    elif isinstance(output, tuple | list):
        known = list(range(len(output)))
    if item not in known:
        required = f"one of {known}" if known else "None, which is the output itself"
        raise ConfigError(
            f"item {item!r} is not in an output of type {type(output).__name__}; required: {required}. "
            "Check features= and energy= of attach."
        )
    return output[item]


def _replace(output: Any, item: int | str | None, value: Tensor) -> Any:
    """A copy of the output with one item changed; never the network's own object."""
    if item is None:
        return value
    if isinstance(output, dict):
        return {**output, item: value}
    values = list(output)
    values[int(item)] = value
    if hasattr(output, "_fields"):
        return type(output)(*values)
    return type(output)(values)
