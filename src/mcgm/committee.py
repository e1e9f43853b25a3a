"""Several networks as one potential: their mean, how far they differ, and whether that is more than usual."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mcgm.backbones.base import Backbone
from mcgm.batch import Batch
from mcgm.domain import Domain
from mcgm.errors import ConfigError
from mcgm.long_range.base import Clusters, LongRange
from mcgm.long_range.mcgm.assignment import Assignment
from mcgm.potential import ElementReference, NetworkPotential, Potential, Prediction
from mcgm.segments import segment_count

FEWEST = 2
"""Members that have a spread."""


class Committee(Potential):
    """Networks of one architecture with weights of their own, on one set of neighbours and index tensors.

    Everything in a prediction is the mean over the members, forces and stress too, so that they are derivatives of the
    mean energy; `energy_spread` and `forces_spread` are sample standard deviations (n - 1). It is smooth where its
    members are. Clusters are those of all members, layers one member after the other, each with its share of the
    energy; that is also how they are prescribed. `references` are the mean ones.

    Args:
        members: two or more; of a committee among them, its members.
        domain: what spread is usual, if that is known.

    Raises:
        ConfigError: too few members, or of different architecture, elements or precision.
    """

    members: Any

    def __init__(self, members: Sequence[Potential], domain: Domain | None = None) -> None:
        super().__init__()
        single: list[Any] = [m for item in members for m in (item.members if isinstance(item, Committee) else [item])]
        _require_alike(single)
        self.members = nn.ModuleList(single)
        self.specification = single[0].specification
        self.elements = single[0].elements
        self.domain = domain

    @property
    def backbone(self) -> Backbone:  # type: ignore[override]
        """That of the first member."""
        return self.members[0].backbone

    @property
    def scale(self) -> Tensor:  # type: ignore[override]
        """That of the first member."""
        return self.members[0].scale

    @property
    def references(self) -> ElementReference:  # type: ignore[override]
        """The mean over the members."""
        mean = ElementReference(None).to(self.device)
        mean.energies = torch.stack([member.references.energies for member in self.members]).mean(0)
        mean.intercept = torch.stack([member.references.intercept for member in self.members]).mean()
        return mean

    @property
    def block(self) -> LongRange:
        """See the base class."""
        return self.members[0].block

    def index(self, batch: Batch) -> Batch:
        """See the base class; the same for all members."""
        return self.members[0].index(batch)

    def forward(
        self,
        batch: Batch,
        *,
        forces: bool = True,
        stress: bool | None = None,
        clusters: tuple[tuple[Assignment, ...], ...] | None = None,
        generator: torch.Generator | None = None,
    ) -> Prediction:
        """See the base class."""
        if batch.index is None:
            batch = self.index(batch)
        prescribed = _shares(clusters, len(self.members))
        predictions = [
            member(batch, forces=forces, stress=stress, clusters=own, generator=generator)
            for member, own in zip(self.members, prescribed, strict=True)
        ]
        found = _mean(predictions)
        return found if self.domain is None else dataclasses.replace(found, out_of_domain=self._outside(found, batch))

    def _outside(self, found: Prediction, batch: Batch) -> Bool[Tensor, "molecule"]:
        assert self.domain is not None
        assert found.energy_spread is not None
        energy = found.energy_spread.detach() / segment_count(batch.molecule, batch.n_molecules)
        forces = torch.zeros_like(energy)
        if found.forces_spread is not None:
            forces = largest_spread(found.forces_spread, batch.molecule, batch.n_molecules)
        return self.domain.is_left(energy, forces)


def largest_spread(
    forces_spread: Float[Tensor, "atom 3"], molecule: Int[Tensor, "atom"], molecules: int
) -> Float[Tensor, "molecule"]:
    """The largest spread of the force on any atom of each structure, eV/Å: the root of the summed variances.

    No rotation changes it, as it does the spread of a component.
    """
    length = torch.linalg.vector_norm(forces_spread.detach(), dim=1)
    return length.new_zeros(molecules).scatter_reduce(0, molecule, length, "amax")


def _require_alike(members: Sequence[NetworkPotential]) -> None:
    if len(members) < FEWEST:
        raise ConfigError(f"a committee of {len(members)}; required: at least {FEWEST} members.")
    for k, member in enumerate(members):
        for name in ("backbone", "long-range block", "elements", "precision"):
            if _feature(member, name) != _feature(members[0], name):
                raise ConfigError(
                    f"committee: member {k} has another {name} than the first one ({_feature(member, name)}, "
                    f"{_feature(members[0], name)}); required: one architecture, trained on the same elements."
                )


def _feature(member: NetworkPotential, name: str) -> Any:
    if name == "backbone":
        return type(member.backbone).__name__, member.backbone.hyperparameters
    if name == "long-range block":
        return member.specification
    return member.elements if name == "elements" else member.dtype


def _shares(
    clusters: tuple[tuple[Assignment, ...], ...] | None, members: int
) -> list[tuple[tuple[Assignment, ...], ...] | None]:
    """The layers that are prescribed to each member."""
    if clusters is None:
        return [None] * members
    layers = len(clusters) // members
    return [clusters[k * layers : (k + 1) * layers] for k in range(members)]


def _mean(predictions: Sequence[Prediction]) -> Prediction:
    """Mean of everything that is a number, spread of energies and forces, and everyone's clusters."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Prediction):
        parts = [getattr(prediction, field.name) for prediction in predictions]
        if field.name != "clusters" and parts[0] is not None:
            values[field.name] = torch.stack(parts).mean(0)
    values |= {f"{name}_spread": _spread(predictions, name) for name in ("energy", "forces") if name in values}
    layers = [layer for prediction in predictions for layer in prediction.clusters]
    share = 1 / len(predictions)
    values["clusters"] = tuple(tuple(_with_share(level, share) for level in layer) for layer in layers)
    # what no member has stays out
    absent = {field.name: None for field in dataclasses.fields(Prediction) if field.name not in values}
    return Prediction(**(absent | values))


def _spread(predictions: Sequence[Prediction], name: str) -> Tensor:
    return torch.stack([getattr(prediction, name) for prediction in predictions]).std(0)


def _with_share(level: Clusters, share: float) -> Clusters:
    return dataclasses.replace(level, energy=None if level.energy is None else share * level.energy)
