"""How what a block gives to the atoms changes their scalars, by the name that specifications use."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

Update = Callable[[Float[Tensor, "atom channel"], Float[Tensor, "atom channel"]], Float[Tensor, "atom channel"]]


def replaced(new: Float[Tensor, "atom channel"], old: Float[Tensor, "atom channel"]) -> Float[Tensor, "atom channel"]:
    """The update that puts what is new in the place of the scalars."""
    return new - old


def added(new: Float[Tensor, "atom channel"], old: Float[Tensor, "atom channel"]) -> Float[Tensor, "atom channel"]:
    """What is new itself, also for backbones whose scalars are a reading of something else."""
    return new


UPDATES: dict[str, Update] = {"replace": replaced, "add": added}
