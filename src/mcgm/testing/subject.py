"""What is being checked: a potential, the structures that it can answer, and what it promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from ase import Atoms

from mcgm.structure import Structure
from mcgm.testing.effort import FULL, Effort
from mcgm.testing.predict import Predictor, device_of, dtype_of, in_double
from mcgm.testing.tolerances import Tolerance, tolerance_for

ELEMENTS = (8, 1, 6, 11)
"""Atomic numbers for made-up structures where neither the potential nor the structures have four."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A potential under check with the structures and the effort."""

    potential: Predictor
    structures: tuple[Structure, ...]
    effort: Effort = FULL

    @classmethod
    def of(cls, potential: Predictor, structures: Sequence[Structure | Atoms], effort: Effort = FULL) -> Subject:
        """From structures of either kind; those without a name are called by their place."""
        plain = [Structure.from_atoms(item) if isinstance(item, Atoms) else item for item in structures]
        return cls(potential, tuple(s if s.name else s.replace(name=str(k)) for k, s in enumerate(plain)), effort)

    @cached_property
    def double(self) -> Predictor:
        """The potential in float64, where derivatives are measured."""
        return in_double(self.potential)

    @property
    def tolerance(self) -> Tolerance:
        """Limits of the potential's precision."""
        return tolerance_for(dtype_of(self.potential))

    @property
    def on_cpu(self) -> bool:
        """Whether the potential is on the CPU, where a second call repeats every bit."""
        return device_of(self.potential) == torch.device("cpu")

    @property
    def is_smooth(self) -> bool:
        """What the potential says; true where it says nothing."""
        return bool(getattr(self.potential, "is_smooth", True))

    @property
    def not_promised(self) -> dict[str, str]:
        """What the potential says that it does not promise, with the reasons; nothing where it says nothing."""
        return dict(getattr(self.potential, "not_promised", {}))

    def promises(self, promise: str) -> bool:
        """Whether the potential promises this; one that jumps promises nothing of copies and supercells either."""
        if promise in ("smooth", "copies", "supercell") and not self.is_smooth:
            return False
        return promise not in self.not_promised

    @property
    def is_separable(self) -> bool:
        """Whether it promises that molecules out of reach do not know of each other."""
        return bool(getattr(getattr(self.potential, "specification", None), "is_separable", False))

    @property
    def elements(self) -> tuple[int, int, int, int]:
        """Four atomic numbers that the potential knows, repeated if they are fewer: for made-up structures."""
        known = getattr(self.potential, "elements", None)
        if known is None:
            return ELEMENTS
        chosen = [z for z in ELEMENTS if z in known] + [z for z in known if z not in ELEMENTS]
        return tuple(np.resize(chosen, 4).tolist())  # type: ignore[return-value]

    @property
    def open(self) -> tuple[Structure, ...]:
        """Structures that can stand beside others."""
        return tuple(s for s in self.structures if not s.pbc.any())

    @property
    def periodic(self) -> tuple[Structure, ...]:
        """Structures that have a stress."""
        return tuple(s for s in self.structures if s.volume > 0)

    @property
    def partly_periodic(self) -> tuple[Structure, ...]:
        """Structures with any lattice vector."""
        return tuple(s for s in self.structures if s.pbc.any())

    @property
    def movable(self) -> tuple[Structure, ...]:
        """Structures with more than one distance."""
        return tuple(s for s in self.structures if len(s) > 2)
