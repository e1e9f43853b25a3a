"""Chance that belongs to a structure: what is drawn for it does not depend on what stands beside it in a batch.

A generator gives one number per call of a rule; hashed with a key of the group and a place in it, this is everything
that is drawn. A batch in parts, or shared out among processes, then draws what the whole would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mcgm.batch import Batch
from mcgm.segments import segment_sum

GOLDEN, FIRST, SECOND = (value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
"""Step and multipliers of splitmix64 (Steele, Lea and Flood 2014), as signed integers."""


@dataclass(frozen=True, eq=False)
class Draws:
    """What one call of a rule draws: a fixed function of a group's key and of a place."""

    key: Int[Tensor, "group"]

    def integers(self, group: Int[Tensor, "*shape"], place: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """Any 53 bits, for places of groups."""
        return _shifted(_mixed(self.key[group] + place * GOLDEN), 11)

    def uniform(self, places: Int[Tensor, "row"]) -> Float[Tensor, "group row"]:
        """Numbers from 0 to 1 (not included) for the same places of every group, float64."""
        group = torch.arange(len(self.key), device=self.key.device)[:, None].expand(-1, len(places))
        return self.integers(group, places.expand_as(group)).double() * 2.0**-53


@dataclass(frozen=True, eq=False)
class Chance:
    """A generator, and a key of every group: the sum of hashes of its atoms, whatever their order."""

    generator: torch.Generator
    key: Int[Tensor, "group"]

    @classmethod
    def of(cls, generator: torch.Generator, batch: Batch, group: Int[Tensor, "atom"], groups: int) -> Self:
        """Keys from the atoms' elements and positions."""
        hashed = batch.numbers
        for axis in batch.positions.detach().double().contiguous().view(torch.int64).unbind(1):
            hashed = _mixed(hashed * GOLDEN + axis)
        return cls(generator, segment_sum(hashed, group, groups))

    def draws(self) -> Draws:
        """For one call of a rule: takes one number from the generator, however many groups there are."""
        # one number of the host needs no copy that a device would be waited for
        seed = torch.randint(2**62, (), generator=self.generator, device=self.generator.device)
        return Draws(_mixed(self.key + seed))


def _shifted(bits: Int[Tensor, "*shape"], by: int) -> Int[Tensor, "*shape"]:
    """To the right, filled with zeros."""
    return (bits >> by) & (2 ** (64 - by) - 1)


def _mixed(bits: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """The finaliser of splitmix64: every bit of the input changes half of the output."""
    bits = (bits ^ _shifted(bits, 30)) * FIRST
    bits = (bits ^ _shifted(bits, 27)) * SECOND
    return bits ^ _shifted(bits, 31)
