"""Rules that say which nodes belong together; each returns an `Assignment`.

A rule is a frozen dataclass of plain values. It fixes how many clusters there are from the composition alone
(`layout`, done once where batches are made), and who belongs where from the features (the module of `build`).
The K-means++ rule itself is in `kmeans.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from mcgm.errors import ConfigError, unknown_name
from mcgm.long_range.mcgm.assignment import Assignment, Nodes
from mcgm.long_range.mcgm.chance import Chance
from mcgm.long_range.mcgm.kmeans import kmeans


class ClusterModule(nn.Module, ABC):
    """A rule at work at one level of one layer."""

    @abstractmethod
    def forward(
        self,
        features: Float[Tensor, "node channel"],
        members: Nodes,
        clusters: Nodes,
        known: Assignment | None,
        chance: Chance | None,
    ) -> Assignment:
        """Assign the members. With chance the rule may draw; without it is a function of its inputs.

        `known` is what the rule's `known` said of the same nodes.
        """


class Clusterer(ABC):
    """A clustering rule."""

    is_smooth = False
    """Whether weights are smooth functions of the features (or do not depend on them)."""

    @abstractmethod
    def layout(self, members: Nodes) -> Nodes:
        """The clusters of these members, from their number and kind only."""

    def known(self, members: Nodes, clusters: Nodes, dtype: torch.dtype) -> Assignment | None:
        """What the composition alone tells of the assignment, made once per batch; default: nothing.

        For rules that never look at features all of it; for soft ones the rows, with weights to be replaced.
        """
        return None

    @abstractmethod
    def build(self, channels: int) -> ClusterModule:
        """The module for features of this width."""


def reduced(members: Nodes, reduction: float) -> Nodes:
    """max(1, floor(n / reduction)) clusters for a group of n nodes (arXiv:2509.22028)."""
    # 1.2 means six fifths, whatever its nearest binary number: 18 nodes then have 15 clusters
    count = (members.count.double() / reduction * (1 + 1e-12)).floor().long()
    return Nodes.counted(count.clamp(min=1))


def _check_reduction(rule: KMeansPlusPlus | Random) -> None:
    if not rule.reduction > 1:
        raise ConfigError(f"reduction is {rule.reduction}; required: a number above 1 (each level must get smaller).")


@dataclass(frozen=True)
class ByElement(Clusterer):
    """One cluster per element present in the group (paper, level 1). Does not depend on geometry: smooth."""

    is_smooth = True

    def layout(self, members: Nodes) -> Nodes:
        """One node per (group, element), in the order of atomic numbers."""
        pair = torch.unique(members.group * _KINDS + members.kind)
        return Nodes.grouped(pair // _KINDS, members.groups, pair % _KINDS)

    def known(self, members: Nodes, clusters: Nodes, dtype: torch.dtype) -> Assignment:
        """All of it."""
        pair = clusters.group * _KINDS + clusters.kind
        cluster = torch.searchsorted(pair, members.group * _KINDS + members.kind)
        return Assignment.hard(cluster, clusters.total, dtype)

    def build(self, channels: int) -> ClusterModule:
        """No parameters."""
        return _Known()


_KINDS = 128
"""More than there are elements: makes one number of (group, element)."""


class _Known(ClusterModule):
    def forward(
        self,
        features: Float[Tensor, "node channel"],
        members: Nodes,
        clusters: Nodes,
        known: Assignment | None,
        chance: Chance | None,
    ) -> Assignment:
        assert known is not None, "made once per batch, where the rule is indexed."
        return known


@dataclass(frozen=True)
class Everything(Clusterer):
    """One cluster per group: the global mean, the simplest control."""

    is_smooth = True

    def layout(self, members: Nodes) -> Nodes:
        """One node per group."""
        return Nodes.counted(torch.ones_like(members.count))

    def known(self, members: Nodes, clusters: Nodes, dtype: torch.dtype) -> Assignment:
        """All of it."""
        return Assignment.hard(members.group, clusters.total, dtype)

    def build(self, channels: int) -> ClusterModule:
        """No parameters."""
        return _Known()


@dataclass(frozen=True)
class ByAtom(Clusterer):
    """Every node a cluster by itself: nothing is exchanged, the control that has all else in common."""

    is_smooth = True

    def layout(self, members: Nodes) -> Nodes:
        """The same nodes."""
        return Nodes.grouped(members.group, members.groups, members.kind)

    def known(self, members: Nodes, clusters: Nodes, dtype: torch.dtype) -> Assignment:
        """All of it."""
        return Assignment.hard(torch.arange(members.total, device=members.group.device), clusters.total, dtype)

    def build(self, channels: int) -> ClusterModule:
        """No parameters."""
        return _Known()


@dataclass(frozen=True)
class KMeansPlusPlus(Clusterer):
    """K-means++ on the current features, max(1, floor(n / reduction)) clusters per group (paper, levels above 1).

    With chance seeds are drawn in proportion to the squared distance (Arthur and Vassilvitskii 2007); without, the
    farthest point is the next seed, ties broken by feature values, so that labels depend neither on the order of
    atoms nor on batch mates. Carries no gradient. Labels flip as atoms move: not smooth.
    `sizes="kinds"`: as many clusters as there are kinds of nodes (of atoms: elements), whatever the reduction.
    """

    reduction: float = 2.0
    iterations: int = 10
    sizes: Literal["reduction", "kinds"] = "reduction"

    def __post_init__(self) -> None:
        _check_reduction(self)
        if self.sizes not in ("reduction", "kinds"):
            raise ConfigError("sizes: " + unknown_name("choice", self.sizes, ("reduction", "kinds")))
        if self.iterations < 1:
            raise ConfigError(f"iterations is {self.iterations}; required: at least 1.")

    def layout(self, members: Nodes) -> Nodes:
        """max(1, floor(n / reduction)) nodes per group, or one per kind; they have no kind themselves."""
        if self.sizes == "kinds":
            return Nodes.counted(ByElement().layout(members).count)
        return reduced(members, self.reduction)

    def build(self, channels: int) -> ClusterModule:
        """No parameters."""
        return _KMeans(self.iterations)


class _KMeans(ClusterModule):
    def __init__(self, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations

    def forward(
        self,
        features: Float[Tensor, "node channel"],
        members: Nodes,
        clusters: Nodes,
        known: Assignment | None,
        chance: Chance | None,
    ) -> Assignment:
        label = kmeans(features.detach(), members, clusters, iterations=self.iterations, chance=chance)
        return Assignment.hard(clusters.start[members.group] + label, clusters.total, features.dtype)


@dataclass(frozen=True)
class Random(Clusterer):
    """As many clusters as `KMeansPlusPlus`, none empty, filled without looking at features (paper, ablation).

    With chance they are drawn anew at each call. Without, they are a fixed pseudo-random function of the
    node's position within its group (for element clusters: the rank of the element).
    """

    reduction: float = 2.0

    def __post_init__(self) -> None:
        _check_reduction(self)

    def layout(self, members: Nodes) -> Nodes:
        """max(1, floor(n / reduction)) nodes per group."""
        return reduced(members, self.reduction)

    def build(self, channels: int) -> ClusterModule:
        """No parameters."""
        return _Shuffle()


class _Shuffle(ClusterModule):
    def forward(
        self,
        features: Float[Tensor, "node channel"],
        members: Nodes,
        clusters: Nodes,
        known: Assignment | None,
        chance: Chance | None,
    ) -> Assignment:
        size = members.count[members.group]
        if chance is None:
            key = ((members.rank + 1) * 2654435761 + size * 2246822519) % 4294967291
        else:
            key = chance.draws().integers(members.group, members.rank)
        # nodes of each group in the order of their keys; the r-th goes to cluster r modulo k
        order = torch.argsort(key, stable=True)
        order = order[torch.argsort(members.group[order], stable=True)]
        position = torch.empty_like(order)
        position[order] = torch.arange(len(order), device=order.device)
        label = (position - members.start[members.group]) % clusters.count[members.group]
        return Assignment.hard(clusters.start[members.group] + label, clusters.total, features.dtype)


@dataclass(frozen=True)
class Prototypes(Clusterer):
    """Soft clusters: each node belongs to `count` learned prototypes with softmax weights.

    weight(i, k) = softmax_k(h_i · p_k / (temperature sqrt(channels))): smooth, differentiable, deterministic, and
    independent of order and batch mates. Ours: the learnable clustering that arXiv:2509.22028 leaves open.
    """

    count: int = 4
    temperature: float = 1.0

    is_smooth = True

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"count is {self.count}; required: at least 1 prototype.")
        if not self.temperature > 0:
            raise ConfigError(f"temperature is {self.temperature}; required: above 0.")

    def layout(self, members: Nodes) -> Nodes:
        """`count` nodes per group."""
        return Nodes.uniform(members.groups, self.count, members.count.device)

    def known(self, members: Nodes, clusters: Nodes, dtype: torch.dtype) -> Assignment:
        """The rows: every node with all prototypes of its group."""
        return Assignment.soft(members, clusters, dtype)

    def build(self, channels: int) -> ClusterModule:
        """Holds the prototypes, (count, channels)."""
        return _SoftMembership(self.count, channels, self.temperature)


class _SoftMembership(ClusterModule):
    def __init__(self, count: int, channels: int, temperature: float) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.empty(count, channels))
        nn.init.orthogonal_(self.prototypes, gain=channels**0.5)
        self.scale = 1 / (temperature * channels**0.5)

    def forward(
        self,
        features: Float[Tensor, "node channel"],
        members: Nodes,
        clusters: Nodes,
        known: Assignment | None,
        chance: Chance | None,
    ) -> Assignment:
        assert known is not None, "made once per batch, where the rule is indexed."
        return known.weighted(linear(features, self.prototypes * self.scale))


CLUSTERERS: dict[str, type[Clusterer]] = {
    "by_atom": ByAtom,
    "by_element": ByElement,
    "everything": Everything,
    "kmeans++": KMeansPlusPlus,
    "random": Random,
    "prototypes": Prototypes,
}
"""Rules by the name that model files and configurations use."""
