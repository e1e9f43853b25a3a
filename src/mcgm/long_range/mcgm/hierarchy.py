"""The hierarchy at work: cluster, aggregate upwards, disseminate downwards, after every interaction layer.

| paper (arXiv:2509.22028) | here |
|---|---|
| V(l), nodes of level l, V(0) the atoms | `HierarchyIndex.levels[l]` |
| clustering of V(l-1) into V(l) | `Exchange.rules[l-1]` |
| aggregation, mean of members and a linear map | `Exchange.rise` |
| dissemination, h <- h + h~ (Eq. 4) | `Exchange.descend`, `Exchange.dissemination` |
| energy of every cluster | `Hierarchy.contribution` |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mcgm.batch import Batch
from mcgm.errors import ConfigError
from mcgm.heads import EnergyHead
from mcgm.long_range.base import Clusters, Contribution, LongRange
from mcgm.long_range.mcgm.aggregation import Mean
from mcgm.long_range.mcgm.assignment import Assignment, Nodes
from mcgm.long_range.mcgm.chance import Chance
from mcgm.long_range.mcgm.clusterers import Clusterer
from mcgm.long_range.mcgm.dissemination import Broadcast
from mcgm.long_range.mcgm.scope import Guests, Presence, Scope
from mcgm.long_range.mcgm.total_charge import Ignored, TotalCharge, charge_density
from mcgm.long_range.updates import Update, added
from mcgm.segments import take

Weighting = Callable[[Float[Tensor, "cluster"]], Float[Tensor, "cluster"]]


def once_per_cluster(mass: Float[Tensor, "cluster"]) -> Float[Tensor, "cluster"]:
    """Each cluster that has members counts once (paper)."""
    return (mass > 0).to(mass.dtype)


def once_per_atom(mass: Float[Tensor, "cluster"]) -> Float[Tensor, "cluster"]:
    """Each cluster counts as often as it has atoms: n copies of a system then have n times its energy."""
    return mass


def presence_of_clusters(assignment: Assignment, reach: Float[Tensor, "member"]) -> Presence:
    """A cluster is as present as its most present member; soft ones always are."""
    if not assignment.is_hard:
        whole = reach.new_ones(assignment.clusters)
        return Presence(whole, whole)
    most = reach.new_zeros(assignment.clusters).scatter_reduce(0, assignment.cluster, reach.detach(), "amax")
    leading = (reach == take(most, assignment.cluster)).to(reach.dtype)
    present = assignment.total(leading * reach) / assignment.total(leading).clamp(min=1)
    return Presence(present, present)


WEIGHTINGS: dict[str, Weighting] = {"cluster": once_per_cluster, "atom": once_per_atom}
"""How often the energy of a cluster counts, by the name that specifications use."""

FRESH = 0.2
"""Fresh weights of aggregations and of clusters' energies, relative to what linear layers start with: a network then
starts close to itself alone, and need not unlearn what means of untrained features say. The paper does not tell."""


@dataclass(frozen=True, eq=False)
class HierarchyIndex:
    """Groups (whole systems, or molecules within them) and the nodes of every level, level 0 the atoms.

    Where groups see atoms of others in part, these guests are nodes of level 0 too, after all atoms. `known` holds what
    the composition tells of the assignment to each level above, `owner` the structure of each of its clusters.
    """

    levels: tuple[Nodes, ...]
    known: tuple[Assignment | None, ...]
    owner: tuple[Tensor, ...]
    molecule: Int[Tensor, "group"]
    guests: Guests | None


@dataclass(frozen=True, eq=False)
class HierarchyState:
    """What is kept between layers: the index, charge and spin density of the topmost clusters' structures, how present
    the nodes of level 0 are (`None`: all wholly), prescribed labels, the source of chance, and what was seen so far."""

    index: HierarchyIndex
    density: Float[Tensor, "cluster 2"]
    presence: Presence | None
    prescribed: tuple[tuple[Assignment, ...], ...] | None
    chance: Chance | None
    features: tuple[Float[Tensor, "_ channel"], ...] = ()
    layers: tuple[tuple[Assignment, ...], ...] = ()


def small(layer: nn.Module) -> nn.Module:
    """A fresh layer with its weights times `FRESH`."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(FRESH)
    return layer


class Exchange(nn.Module):
    """One layer's way up and down the hierarchy."""

    def __init__(
        self,
        channels: int,
        rules: tuple[Clusterer, ...],
        activation: Callable[[], nn.Module],
        total_charge: Callable[[int], TotalCharge],
        aggregation: Callable[[int], nn.Module],
        dissemination: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.total_charge = total_charge(channels)
        self.aggregations = nn.ModuleList(aggregation(channels) for _ in rules)
        self.dissemination = dissemination(channels)
        self.rules = nn.ModuleList(rule.build(channels) for rule in rules)
        self.maps = nn.ModuleList(nn.Sequential(small(nn.Linear(channels, channels)), activation()) for _ in rules)

    def rise(
        self,
        nodes: Float[Tensor, "node channel"],
        presence: Presence | None,
        assign: Callable[[int, Tensor], Assignment],
    ) -> tuple[list[Tensor], list[Assignment]]:
        """Features of every level above the atoms, and the assignments between levels."""
        features, assignments = [], []
        for level, (aggregation, transform) in enumerate(zip(self.aggregations, self.maps, strict=True)):
            assignment = assign(level, nodes)
            pooled = assignment if presence is None else assignment.faded(presence.weight)
            nodes = transform(aggregation(nodes, pooled))
            presence = None if presence is None else presence_of_clusters(assignment, presence.reach)
            features.append(nodes)
            assignments.append(assignment)
        return features, assignments

    @staticmethod
    def descend(features: list[Tensor], assignments: list[Assignment]) -> list[Tensor]:
        """Features of every cluster level, from the lowest, after each received its parents' ones."""
        received = [features[-1]]
        for level in range(len(assignments) - 1, 0, -1):
            received.append(assignments[level].broadcast_onto(features[level - 1], received[-1]))
        return received[::-1]


class Hierarchy(LongRange):
    """Clusters over clusters, by one rule per level; the module behind `MCGM` and the mean-node controls."""

    def __init__(
        self,
        *,
        channels: int,
        layers: int,
        rules: tuple[Clusterer, ...],
        activation: Callable[[], nn.Module],
        scope: Scope,
        weighting: Weighting,
        total_charge: Callable[[int], TotalCharge] = Ignored,
        aggregation: Callable[[int], nn.Module] = Mean,
        dissemination: Callable[[int], nn.Module] = Broadcast,
        update: Update = added,
    ) -> None:
        super().__init__()
        self.rules = rules
        self.update = update
        self.scope = scope
        self.weighting = weighting
        self.exchanges = nn.ModuleList(
            Exchange(channels, rules, activation, total_charge, aggregation, dissemination) for _ in range(layers)
        )
        heads = [EnergyHead(channels) for _ in rules]
        for head in heads:
            small(head.energy)
        self.heads = nn.ModuleList(heads)

    def index(self, batch: Batch) -> HierarchyIndex:
        """Groups, and how many nodes every level has: known from the composition alone."""
        found = self.scope(batch)
        levels = [found.nodes(batch.numbers)]
        known = []
        for rule in self.rules:
            levels.append(rule.layout(levels[-1]))
            known.append(rule.known(levels[-2], levels[-1], batch.positions.dtype))
        owner = tuple(take(found.molecule, nodes.group) for nodes in levels[1:])
        return HierarchyIndex(tuple(levels), tuple(known), owner, found.molecule, found.guests)

    def labelled_as(self, labelled: HierarchyIndex, index: HierarchyIndex) -> HierarchyIndex:
        """Clusters are of the groups in which they were found."""
        return labelled

    def begin(
        self,
        batch: Batch,
        index: HierarchyIndex,
        *,
        clusters: tuple[tuple[Assignment, ...], ...] | None,
        generator: torch.Generator | None,
    ) -> HierarchyState:
        """Nothing seen yet.

        Raises:
            ConfigError: assignments are prescribed where atoms are seen in part.
        """
        density = take(charge_density(batch), index.owner[-1])
        atoms = index.levels[0].group[: batch.n_atoms]
        chance = None if generator is None else Chance.of(generator, batch, atoms, len(index.molecule))
        if index.guests is None:
            return HierarchyState(index, density, None, clusters, chance)
        if clusters is not None:
            raise ConfigError("assignments cannot be prescribed while bonds are partial (scope='molecule').")
        partial = index.guests.presence(batch)
        home = partial.weight.new_ones(batch.n_atoms)
        presence = Presence(torch.cat([home, partial.weight]), torch.cat([home, partial.reach]))
        return HierarchyState(index, density, presence, None, chance)

    def exchange(
        self, layer: int, scalars: Float[Tensor, "atom channel"], state: HierarchyState
    ) -> tuple[Float[Tensor, "atom channel"], HierarchyState]:
        """Cluster, aggregate, disseminate."""
        exchange = self.exchanges[layer]
        levels, known = state.index.levels, state.index.known

        def assign(level: int, features: Tensor) -> Assignment:
            if state.prescribed is not None:
                return state.prescribed[layer][level]
            return exchange.rules[level](features, levels[level], levels[level + 1], known[level], state.chance)

        guests = state.index.guests
        nodes = scalars if guests is None else torch.cat([scalars, take(scalars, guests.atom)])
        features, assignments = exchange.rise(nodes, state.presence, assign)
        features[-1] = exchange.total_charge(features[-1], state.density)
        if guests is not None:
            assignments[0] = assignments[0].first(scalars.shape[0])
        received = exchange.descend(features, assignments)
        new = exchange.dissemination(scalars, received[0], assignments[0])
        return self.update(new, scalars), replace(
            state, features=tuple(received), layers=(*state.layers, tuple(assignments))
        )

    def contribution(self, scalars: Float[Tensor, "atom channel"], state: HierarchyState) -> Contribution:
        """Energies of the clusters of every level, from the last layer's features."""
        owner = state.index.owner
        energies, mass = [], scalars.new_ones(scalars.shape[0])
        for assignment, head, features in zip(state.layers[-1], self.heads, state.features, strict=True):
            mass = assignment.total(mass)
            energies.append(self.weighting(mass) * head(features))
        earlier = tuple(_clusters(assignments, owner, (None,) * len(owner)) for assignments in state.layers[:-1])
        return Contribution(
            energy=torch.cat(energies),
            molecule=torch.cat(owner),
            clusters=(*earlier, _clusters(state.layers[-1], owner, energies)),
        )


def _clusters(
    assignments: tuple[Assignment, ...], owner: tuple[Tensor, ...], energies: Sequence[Tensor | None]
) -> tuple[Clusters, ...]:
    """The levels of one layer."""
    levels: list[Clusters] = []
    for assignment, molecule, energy in zip(assignments, owner, energies, strict=True):
        levels.append(Clusters(assignment, molecule, levels[-1] if levels else None, energy))
    return tuple(levels)
