"""Several blocks in one slot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mcgm.batch import Batch
from mcgm.errors import ConfigError
from mcgm.long_range.base import Contribution, IndexReads, LongRange, LongRangeSpec, Promise
from mcgm.long_range.mcgm.assignment import Assignment


@dataclass(frozen=True)
class Together(LongRangeSpec):
    """Blocks side by side: each sees the same scalars, updates and energies are added.

    For parts that represent different things, such as `(MCGM(), LatentCharges())`: global context, and a 1/R tail.
    At most one of them may have clusters, and one charges.
    """

    blocks: tuple[LongRangeSpec, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))
        kinds = [type(block) for block in self.blocks]
        if len(kinds) < 2 or len(set(kinds)) < len(kinds) or Together in kinds:
            raise ConfigError(f"blocks: required: two or more of different kinds; got {[k.__name__ for k in kinds]}.")

    @property
    def not_promised(self) -> dict[Promise, str]:
        """What any of the blocks leaves out, with the reason of the first that does."""
        return {promise: why for block in self.blocks[::-1] for promise, why in block.not_promised.items()}

    @property
    def is_smooth(self) -> bool:
        """Whether every block is."""
        return all(block.is_smooth for block in self.blocks)

    @property
    def is_separable(self) -> bool:
        """Whether every block is."""
        return all(block.is_separable for block in self.blocks)

    @property
    def reads_positions(self) -> bool:
        """Whether any block does."""
        return any(block.reads_positions for block in self.blocks)

    @property
    def has_labels(self) -> bool:
        """Whether freezing clusters is enough for all that jump."""
        return any(block.has_labels for block in self.blocks) and all(
            block.is_smooth or block.has_labels for block in self.blocks
        )

    @property
    def index_reads(self) -> IndexReads:
        """The most that any block's index reads."""
        return max((block.index_reads for block in self.blocks), key=get_args(IndexReads).index)

    @property
    def index_reach(self) -> float:
        """The longest of any block."""
        return max(block.index_reach for block in self.blocks)

    @property
    def has_charges(self) -> bool:
        """Whether any block has."""
        return any(block.has_charges for block in self.blocks)

    @property
    def knows_total_charge(self) -> bool:
        """Whether any block does."""
        return any(block.knows_total_charge for block in self.blocks)

    @property
    def recluster(self) -> str:
        """That of the block with clusters; "forward" where none has."""
        return next((block.recluster for block in self.blocks if hasattr(block, "recluster")), "forward")

    def build(self, channels: int, layers: int) -> LongRange:
        """The modules side by side."""
        return SideBySide([block.build(channels, layers) for block in self.blocks])


class SideBySide(LongRange):
    """The blocks of `Together` at work; index and state are tuples, one entry for each."""

    def __init__(self, blocks: list[LongRange]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def index(self, batch: Batch) -> tuple[Any, ...]:
        """Of every block."""
        return tuple(block.index(batch) for block in self.blocks)

    def begin(
        self,
        batch: Batch,
        index: tuple[Any, ...],
        *,
        clusters: tuple[tuple[Assignment, ...], ...] | None,
        generator: torch.Generator | None,
    ) -> tuple[Any, ...]:
        """Of every block."""
        pairs = zip(self.blocks, index, strict=True)
        return tuple(block.begin(batch, own, clusters=clusters, generator=generator) for block, own in pairs)

    def exchange(
        self, layer: int, scalars: Float[Tensor, "atom channel"], state: tuple[Any, ...]
    ) -> tuple[Float[Tensor, "atom channel"] | None, tuple[Any, ...]]:
        """The sum of the updates."""
        total, states = None, []
        for block, own in zip(self.blocks, state, strict=True):
            update, own = block.exchange(layer, scalars, own)
            states.append(own)
            if update is not None:
                total = update if total is None else total + update
        return total, tuple(states)

    def contribution(self, scalars: Float[Tensor, "atom channel"], state: tuple[Any, ...]) -> Contribution:
        """All energies, and the clusters and charges of the blocks that have them."""
        parts = [block.contribution(scalars, own) for block, own in zip(self.blocks, state, strict=True)]
        return Contribution(
            energy=torch.cat([part.energy for part in parts]),
            molecule=torch.cat([part.molecule for part in parts]),
            clusters=next((part.clusters for part in parts if part.clusters), ()),
            electrostatics=next((part.electrostatics for part in parts if part.electrostatics is not None), None),
        )

    def labelled_as(self, labelled: tuple[Any, ...], index: tuple[Any, ...]) -> tuple[Any, ...]:
        """Of every block."""
        parts = zip(self.blocks, labelled, index, strict=True)
        return tuple(block.labelled_as(theirs, own) for block, theirs, own in parts)

    def penalty(self) -> Float[Tensor, ""] | None:
        """The sum of the blocks' ones."""
        terms = [term for block in self.blocks if (term := block.penalty()) is not None]
        return torch.stack(terms).sum() if terms else None
