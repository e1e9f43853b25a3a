"""What spread of a committee is usual, and beyond which a structure is unlike those that were trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

PERCENTILE = 99.0
"""Share of the validation structures, %, that the limits of a domain leave inside."""


@dataclass(frozen=True)
class Domain:
    """How far members differ on structures like those trained on: limits that `percentile` % of them stay below.

    `energy` is the spread of a structure's energy per atom, eV; `forces` that of the force on one of its atoms, the
    largest, eV/Å. A structure above either is out of domain. `structures` is how many the limits were found on.
    """

    energy: float
    forces: float
    structures: int
    percentile: float = PERCENTILE

    @classmethod
    def of(cls, energy: Float[np.ndarray, "structure"], forces: Float[np.ndarray, "structure"]) -> Domain:
        """From the spreads of validation structures: per atom, and the largest of a structure's atoms."""
        limit, largest = (float(np.percentile(values, PERCENTILE)) for values in (energy, forces))
        return cls(energy=limit, forces=largest, structures=len(energy))

    def is_left(self, energy: Any, forces: Any) -> Any:
        """Which structures are out of domain, from spreads per atom and the largest of a structure's atoms."""
        return (energy > self.energy) | (forces > self.forces)

    def __str__(self) -> str:
        return (
            f"spread above {1000 * self.energy:.3g} meV/atom or {self.forces:.3g} eV/Å, which {self.percentile:g} % of "
            f"{self.structures} validation structures stay below"
        )
