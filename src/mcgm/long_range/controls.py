"""The trivial blocks that every table must hold beside MCGM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mcgm.activations import SiLU
from mcgm.batch import Batch
from mcgm.long_range.base import Contribution, LongRange, LongRangeSpec
from mcgm.long_range.mcgm.assignment import Assignment
from mcgm.long_range.mcgm.clusterers import ByElement, Everything
from mcgm.long_range.mcgm.hierarchy import Hierarchy, once_per_atom
from mcgm.long_range.mcgm.scope import WholeSystem
from mcgm.long_range.options import require_choice
from mcgm.long_range.updates import UPDATES, Update


class Nothing(LongRange):
    """Exchanges nothing and adds no energy."""

    def begin(
        self,
        batch: Batch,
        index: Any,
        *,
        clusters: tuple[tuple[Assignment, ...], ...] | None,
        generator: torch.Generator | None,
    ) -> Batch:
        """The batch itself, for its shape."""
        return batch

    def exchange(
        self, layer: int, scalars: Float[Tensor, "atom channel"], state: Batch
    ) -> tuple[Float[Tensor, "atom channel"] | None, Batch]:
        """No update."""
        return None, state

    def contribution(self, scalars: Float[Tensor, "atom channel"], state: Batch) -> Contribution:
        """No energy."""
        return Contribution.none(state)


@dataclass(frozen=True)
class NoLongRange(LongRangeSpec):
    """The local network alone."""

    @property
    def is_separable(self) -> bool:
        """Every atom by itself."""
        return True

    @property
    def reads_positions(self) -> bool:
        """No."""
        return False

    def build(self, channels: int, layers: int) -> LongRange:
        """No parameters."""
        return Nothing()


@dataclass(frozen=True)
class GlobalMean(LongRangeSpec):
    """One node per structure: the mean of all atoms, mapped, added to each; the least that is global."""

    @property
    def reads_positions(self) -> bool:
        """No."""
        return False

    def build(self, channels: int, layers: int) -> LongRange:
        """A hierarchy of one level with one cluster."""
        return _one_level(channels, layers, Everything())


@dataclass(frozen=True)
class ElementMean(LongRangeSpec):
    """One node per element: MCGM with its first level only (L = 1)."""

    @property
    def reads_positions(self) -> bool:
        """No."""
        return False

    def build(self, channels: int, layers: int) -> LongRange:
        """A hierarchy of one level with a cluster per element."""
        return _one_level(channels, layers, ByElement())


@dataclass(frozen=True)
class AtomWise(LongRangeSpec):
    """No exchange at all: O silu(LN(A h_i)) for every atom, the layers per atom that attention blocks come with.

    What a block gains over it is due to what atoms tell each other.

    Args:
        update: "add": to the scalars; "replace": in their place.
    """

    update: Literal["add", "replace"] = "add"

    def __post_init__(self) -> None:
        require_choice("update", self.update, UPDATES)

    @property
    def is_separable(self) -> bool:
        """Every atom by itself."""
        return True

    @property
    def reads_positions(self) -> bool:
        """No."""
        return False

    def build(self, channels: int, layers: int) -> LongRange:
        """Two linear maps and a layer norm per layer."""
        return AtomLayers(channels, layers, UPDATES[self.update])


class AtomLayers(Nothing):
    """The module behind `AtomWise`."""

    def __init__(self, channels: int, layers: int, update: Update) -> None:
        super().__init__()
        self.update = update
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Linear(channels, channels, bias=False),
                nn.LayerNorm(channels),
                SiLU(),
                nn.Linear(channels, channels),
            )
            for _ in range(layers)
        )

    def exchange(
        self, layer: int, scalars: Float[Tensor, "atom channel"], state: Batch
    ) -> tuple[Float[Tensor, "atom channel"], Batch]:
        """Each atom by itself."""
        return self.update(self.layers[layer](scalars), scalars), state


def _one_level(channels: int, layers: int, rule: Everything | ByElement) -> Hierarchy:
    return Hierarchy(
        channels=channels,
        layers=layers,
        rules=(rule,),
        activation=SiLU,
        scope=WholeSystem(),
        weighting=once_per_atom,
    )
