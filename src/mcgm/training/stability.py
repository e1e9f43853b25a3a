"""How much the clusters of a few validation structures change from one validation to the next."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mcgm.data import Dataset
from mcgm.long_range.mcgm.clusterers import ByElement, Everything
from mcgm.long_range.mcgm.hierarchy import Hierarchy
from mcgm.potential import Potential
from mcgm.segments import segment_count, segment_sum, take
from mcgm.splitting import Splitter
from mcgm.training.batches import EVALUATION_ATOMS, Collate, pack
from mcgm.training.clusters import atom_labels
from mcgm.training.parts import Portion, in_parts

WATCHED = 64
"""structures, at most."""

COLUMN = "rand_index_level_"
"""What the columns of `metrics.csv` are called, followed by the level, 1 the lowest."""


def adjusted_rand_index(
    first: Int[Tensor, "atom"], second: Int[Tensor, "atom"], molecule: Int[Tensor, "atom"], molecules: int
) -> Float[Tensor, "molecule"]:
    """Agreement of two labellings of the atoms of each molecule: 1 the same clusters, 0 as by chance, may be negative.

    How labels are numbered does not matter. Two labellings that leave nothing to choose (all atoms together, all
    apart, or a single atom) agree: 1. Source: Hubert and Arabie, J. Classif. 2, 193 (1985), Eq. 5.
    """
    sides = [_renumbered(torch.stack([molecule, labels])) for labels in (first, second)]
    together = _pairs_of(_renumbered(torch.stack(sides)), molecule, molecules)
    alone = [_pairs_of(side, molecule, molecules) for side in sides]
    size = segment_count(molecule, molecules).double()
    every = size * (size - 1) / 2
    expected = alone[0] * alone[1] / every.clamp(min=1)
    largest = (alone[0] + alone[1]) / 2
    free = largest != expected
    return torch.where(free, (together - expected) / torch.where(free, largest - expected, 1.0), 1.0)


def _renumbered(columns: Int[Tensor, "row atom"]) -> Int[Tensor, "atom"]:
    """One number for each different column."""
    return torch.unique(columns, dim=1, return_inverse=True)[1]


def _pairs_of(part: Int[Tensor, "atom"], molecule: Int[Tensor, "atom"], molecules: int) -> Float[Tensor, "molecule"]:
    """Pairs of atoms in the same part, in each molecule; parts do not reach beyond one."""
    size = segment_count(part, int(part.max()) + 1).double()
    # every atom of a part of n has (n - 1) / 2 of its pairs
    return segment_sum((take(size, part) - 1) / 2, molecule, molecules)


def changing_levels(potential: Potential) -> tuple[int, ...]:
    """The levels (1 the lowest) whose clusters the composition alone does not fix."""
    found = [module for module in potential.modules() if isinstance(module, Hierarchy)]
    rules = found[0].rules if found else ()
    return tuple(k for k, rule in enumerate(rules, start=1) if not isinstance(rule, ByElement | Everything))


@dataclass(eq=False)
class ClusterStability:
    """Keeps the labels of a fixed set of structures, and compares them with those before.

    Labels are those of the last layer in evaluation, the largest weight where clusters are soft. `labels` (atom, by
    level) is what must be restored to go on as before; `None` before the first validation.
    """

    splitter: Splitter = field(default_factory=lambda: Splitter("clustering of validation structures"))
    labels: list[Tensor] | None = None

    def observe(self, potential: Potential, structures: Dataset, collate: Collate) -> dict[str, float | None]:
        """Mean adjusted Rand index of each level since the last call, by name of column; `None` at the first call.

        Empty for a potential without clusters that can change. The potential must be in evaluation mode.

        Raises:
            TooLargeError: a structure alone does not fit into memory.
        """
        levels = changing_levels(potential)
        if not levels:
            return {}
        labels, molecule = self._labels(potential, structures, collate)
        before, self.labels = self.labels, [labels[level - 1] for level in levels]
        if before is None or [len(known) for known in before] != [len(molecule)] * len(levels):
            return {f"{COLUMN}{level}": None for level in levels}
        count = int(molecule[-1]) + 1
        pairs = zip(levels, before, self.labels, strict=True)
        return {
            f"{COLUMN}{level}": float(adjusted_rand_index(old, new, molecule, count).mean())
            for level, old, new in pairs
        }

    def _labels(
        self, potential: Potential, structures: Dataset, collate: Collate
    ) -> tuple[list[Int[Tensor, "atom"]], Int[Tensor, "atom"]]:
        """Labels by level, and the structure of each atom, on the CPU."""

        def clusters(portion: Portion) -> tuple[Tensor, ...]:
            with torch.no_grad():
                last = potential(portion.data.batch, forces=False).clusters[-1]
            return tuple(label.cpu() for label in atom_labels(last))

        chosen = np.unique(np.linspace(0, len(structures) - 1, min(WATCHED, len(structures))).round().astype(int))
        parts = []
        for places in pack(chosen, structures.sizes, atoms=EVALUATION_ATOMS, structures=None):
            data = collate([structures[k] for k in places]).to(potential.device)
            parts += list(in_parts(self.splitter, potential, Portion(data), clusters))
        sizes = torch.from_numpy(np.asarray(structures.sizes)[chosen].astype(np.int64))
        molecule = torch.repeat_interleave(torch.arange(len(chosen)), sizes)
        return [torch.cat(level) for level in zip(*parts, strict=True)], molecule
