"""How much is measured: the numbers of transformations, steps and picoseconds behind a table of claims."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """Numbers behind the figures; printed with every table.

    Attributes:
        transforms: random rotations, reflections, shifts and orders of atoms for each structure.
        copies: sizes of the batches of copies that each structure is compared with itself in.
        coordinates: of each structure, drawn at random, along which forces are compared with differences.
        path_steps: steps of the path scan for each structure.
        path_step: Å, over all coordinates together.
        dynamics_ps: length of the simulation at constant energy.
    """

    transforms: int = 20
    copies: tuple[int, ...] = (2, 64)
    coordinates: int = 72
    path_steps: int = 2000
    path_step: float = 5e-4
    dynamics_ps: float = 20.0

    def __str__(self) -> str:
        copies = " and ".join(map(str, self.copies))
        return (
            f"{self.transforms} random transforms, batches of {copies} copies, forces along {self.coordinates} "
            f"coordinates at most, paths of {self.path_steps:,} steps of {self.path_step:g} Å, "
            f"{self.dynamics_ps:g} ps of dynamics"
        )


FULL = Effort()
"""What the claims say."""

QUICK = Effort(transforms=4, copies=(2, 8), coordinates=12, path_steps=200, dynamics_ps=0.25)
"""Enough to find a broken potential, not to trust a sound one with long simulations."""
