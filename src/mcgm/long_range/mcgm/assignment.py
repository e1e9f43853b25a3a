"""Who belongs to which cluster: the one type all clustering rules return, and what is done with it.

| paper (arXiv:2509.22028) | here |
|---|---|
| membership of node i in cluster k | one row (member, cluster, weight) |
| aggregation, mean of the members | `Assignment.mean` |
| dissemination, broadcast to the members | `Assignment.broadcast` |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mcgm.segments import rank_after, segment_count, segment_sum, take


@dataclass(frozen=True, eq=False)
class Nodes:
    """The nodes of one level, each in one group; groups never exchange anything.

    `kind` is the atomic number for atoms and element clusters, 0 above; `rank` is the position within the group;
    `largest` the size of the largest group, known before any forward pass so that none waits for it. `is_uniform`:
    every group has `largest` nodes, whatever the batch, and nodes stand group after group.
    """

    group: Int[Tensor, "node"]
    rank: Int[Tensor, "node"]
    kind: Int[Tensor, "node"]
    count: Int[Tensor, "group"]
    start: Int[Tensor, "group"]
    largest: int
    is_uniform: bool = False

    @classmethod
    def uniform(cls, groups: int, count: int, device: torch.device) -> Nodes:
        """Equally many nodes in each group."""
        group, rank = torch.arange(groups, device=device), torch.arange(count, device=device)
        node = group.repeat_interleave(count)
        counts = torch.full_like(group, count)
        return cls(node, rank.repeat(groups), torch.zeros_like(node), counts, group * count, count, is_uniform=True)

    @classmethod
    def grouped(cls, group: Int[Tensor, "node"], groups: int, kind: Int[Tensor, "node"] | None = None) -> Nodes:
        """From the group of each node."""
        count = segment_count(group, groups)
        start = torch.cumsum(count, 0) - count
        return cls(
            group=group,
            rank=rank_after(group, start),
            kind=torch.zeros_like(group) if kind is None else kind,
            count=count,
            start=start,
            largest=int(count.max()),
        )

    @classmethod
    def counted(cls, count: Int[Tensor, "group"]) -> Nodes:
        """From the number of nodes in each group, numbered group after group."""
        return cls.grouped(torch.repeat_interleave(torch.arange(len(count), device=count.device), count), len(count))

    @property
    def total(self) -> int:
        """Number of nodes."""
        return self.group.shape[0]

    @property
    def groups(self) -> int:
        """Number of groups."""
        return self.count.shape[0]

    def pad(self, values: Float[Tensor, "node channel"]) -> Float[Tensor, "group largest channel"]:
        """Values of each group side by side, zeros where a group is smaller."""
        padded = values.new_zeros((self.groups * self.largest, values.shape[1]))
        slot = self.group * self.largest + self.rank
        return padded.index_copy(0, slot, values).reshape(self.groups, self.largest, -1)

    def unpad(self, padded: Float[Tensor, "group largest channel"]) -> Float[Tensor, "node channel"]:
        """Values of the nodes: undoes `pad`."""
        return take(padded.flatten(0, 1), self.group * self.largest + self.rank)

    @property
    def present(self) -> Bool[Tensor, "group largest"]:
        """Where a padded array holds a node."""
        return torch.arange(self.largest, device=self.count.device) < self.count[:, None]


@dataclass(frozen=True, eq=False)
class Table:
    """Nodes with equally many slots for every group, so that soft weights are a matrix for each group.

    `node` is who stands in a slot; where nobody does, some other node of the group, and `barrier` is minus infinity,
    else zero. `is_full`: nobody is missing, and nodes stand in the order of the slots.
    """

    node: Int[Tensor, "row"]
    slot: Int[Tensor, "node"]
    barrier: Float[Tensor, "group width 1"]
    groups: int
    width: int
    is_full: bool

    @classmethod
    def of(cls, nodes: Nodes, dtype: torch.dtype) -> Table | None:
        """Made once, where batches are made; `None` where most slots would be empty."""
        groups, width = nodes.groups, nodes.largest
        if groups * width > SPARSEST * nodes.total:
            return None
        slot = nodes.group * width + nodes.rank
        place = torch.arange(nodes.total, device=slot.device)
        present = nodes.present
        if nodes.is_uniform or groups == 1:
            return cls(place, slot, torch.zeros_like(present, dtype=dtype)[..., None], groups, width, True)
        node = torch.zeros_like(present, dtype=torch.long).flatten().index_copy(0, slot, place).view(groups, width)
        node = torch.where(present, node, node[:, :1]).flatten()
        barrier = torch.zeros_like(present, dtype=dtype).masked_fill(~present, -torch.inf)
        return cls(node, slot, barrier[..., None], groups, width, False)

    def spread(self, values: Float[Tensor, "node channel"]) -> Float[Tensor, "group width channel"]:
        """Values of the nodes in their slots; of some other node of the group where nobody stands."""
        table = values if self.is_full else take(values, self.node)
        return table.view(self.groups, self.width, values.shape[1])

    def collect(self, table: Float[Tensor, "group width channel"]) -> Float[Tensor, "node channel"]:
        """Nodes back from their slots."""
        return table.flatten(0, 1) if self.is_full else take(table.flatten(0, 1), self.slot)


SPARSEST = 4
"""Slots for each node up to which a table pays."""


@dataclass(frozen=True, eq=False)
class Assignment:
    """Rows of (member, cluster, weight): one per member where clusters are hard, several where they are soft.

    The weights of a member sum to one. A cluster may be empty: its mean is zero, and its energy does not count.
    `is_hard` says that the rows are the members in their order, all of weight one: then fewer operations do, and `size`
    holds the number of members of each cluster, at least 1. Where every group has equally many clusters, `table` may
    hold its members, `matrix` their weights and `share` each one's share in the mean of a cluster: matrix products then
    do what sums over rows would.
    """

    member: Int[Tensor, "row"]
    cluster: Int[Tensor, "row"]
    weight: Float[Tensor, "row"]
    members: int
    clusters: int
    is_hard: bool = False
    size: Float[Tensor, "cluster"] | None = None
    table: Table | None = None
    matrix: Float[Tensor, "group width choice"] | None = None
    share: Float[Tensor, "group width choice"] | None = None

    @classmethod
    def hard(cls, cluster: Int[Tensor, "member"], clusters: int, dtype: torch.dtype) -> Assignment:
        """Every member in exactly one cluster."""
        member = torch.arange(cluster.shape[0], device=cluster.device)
        weight = torch.ones(cluster.shape[0], dtype=dtype, device=cluster.device)
        size = segment_sum(weight, cluster, clusters).clamp(min=1)
        return cls(member, cluster, weight, cluster.shape[0], clusters, is_hard=True, size=size)

    @classmethod
    def soft(cls, nodes: Nodes, clusters: Nodes, dtype: torch.dtype) -> Assignment:
        """Every node in equal parts in all clusters of its group: rows for `weighted`. Groups have equally many."""
        choices = clusters.largest
        choice = torch.arange(choices, device=clusters.start.device)
        cluster = (clusters.start[nodes.group][:, None] + choice).reshape(-1)
        member = torch.arange(nodes.total, device=cluster.device).repeat_interleave(choices)
        equal = torch.full((nodes.total, choices), 1 / choices, dtype=dtype, device=cluster.device)
        return cls(member, cluster, equal.reshape(-1), nodes.total, clusters.total, table=Table.of(nodes, dtype))

    def weighted(self, scores: Float[Tensor, "member choice"]) -> Assignment:
        """Weights by a softmax of each member's scores, for rules that give all equally many rows, one after another.

        Shares in the mean of a cluster are a softmax over its members of the logarithms of their weights: no cluster is
        too light for it.
        """
        scores = torch.log_softmax(scores, dim=-1)
        weight = scores.exp()
        if self.table is None:
            return replace(self, weight=weight.reshape(-1))
        if self.table.is_full:
            matrix, scores = self.table.spread(weight), self.table.spread(scores)
        else:
            scores = self.table.spread(scores) + self.table.barrier
            matrix = scores.exp()
        return replace(self, weight=weight.reshape(-1), matrix=matrix, share=torch.softmax(scores, dim=1))

    def total(self, values: Float[Tensor, "member *rest"]) -> Float[Tensor, "cluster *rest"]:
        """Weighted sum over the members of each cluster."""
        if self.table is not None and self.matrix is not None:
            columns = self.table.spread(values.reshape(values.shape[0], -1))
            return torch.bmm(self.matrix.transpose(1, 2), columns).view(self.clusters, *values.shape[1:])
        if not self.is_hard:
            values = take(values, self.member) * self.weight.reshape(-1, *[1] * (values.dim() - 1))
        return segment_sum(values, self.cluster, self.clusters)

    def mean(self, values: Float[Tensor, "member channel"]) -> Float[Tensor, "cluster channel"]:
        """Weighted mean over the members of each cluster, zero where it is empty.

        A soft cluster may have next to no weight, and the derivatives of a quotient overflow where its denominator is
        tiny. In rows, weights are taken relative to the largest one of their cluster, which changes no mean; below the
        root of the smallest number the mean goes to zero smoothly.
        """
        if self.size is not None:
            return self.total(values) / self.size[:, None]
        if self.table is not None and self.share is not None:
            columns = self.table.spread(values)
            return torch.bmm(self.share.transpose(1, 2), columns).view(self.clusters, values.shape[1])
        least = torch.finfo(self.weight.dtype).tiny ** 0.5
        largest = self.weight.new_full((self.clusters,), least)
        largest = largest.scatter_reduce(0, self.cluster, self.weight.detach(), "amax")
        relative = replace(self, weight=self.weight / take(largest, self.cluster))
        size = segment_sum(relative.weight, self.cluster, self.clusters) + least / largest
        return relative.total(values) / size[:, None]

    def broadcast(self, values: Float[Tensor, "cluster channel"]) -> Float[Tensor, "member channel"]:
        """Weighted sum over the clusters of each member."""
        if self.table is not None and self.matrix is not None:
            chosen = values.view(self.table.groups, self.matrix.shape[2], values.shape[1])
            return self.table.collect(torch.bmm(self.matrix, chosen))
        rows = take(values, self.cluster)
        return rows if self.is_hard else segment_sum(rows * self.weight[:, None], self.member, self.members)

    def broadcast_onto(
        self, own: Float[Tensor, "member channel"], values: Float[Tensor, "cluster channel"]
    ) -> Float[Tensor, "member channel"]:
        """What the members have, plus `broadcast`."""
        if self.table is not None and self.matrix is not None and self.table.is_full:
            chosen = values.view(self.table.groups, self.matrix.shape[2], values.shape[1])
            return torch.baddbmm(self.table.spread(own), self.matrix, chosen).flatten(0, 1)
        return own + self.broadcast(values)

    def faded(self, presence: Float[Tensor, "member"]) -> Assignment:
        """With every weight multiplied by the member's presence: weights of a member then sum to less than one."""
        weight = self.weight * take(presence, self.member)
        return replace(self, weight=weight, is_hard=False, size=None, table=None, matrix=None, share=None)

    def first(self, members: int) -> Assignment:
        """Of the first members alone, for rules that give every member equally many rows, member after member."""
        end = self.member.shape[0] // self.members * members
        member, cluster, weight = self.member[:end], self.cluster[:end], self.weight[:end]
        if self.is_hard:
            return Assignment.hard(cluster, self.clusters, weight.dtype)
        return Assignment(member, cluster, weight, members, self.clusters)

    @property
    def labels(self) -> Int[Tensor, "member"]:
        """The cluster of each member, where soft: the one of largest weight (the first of equal ones)."""
        best = self.weight.new_full((self.members,), -torch.inf)
        best = best.scatter_reduce(0, self.member, self.weight, "amax")
        is_best = self.weight == best[self.member]
        label = torch.full_like(self.member[: self.members], self.clusters)
        candidate = torch.where(is_best, self.cluster, torch.full_like(self.cluster, self.clusters))
        return label.scatter_reduce(0, self.member, candidate, "amin")


def split(
    assignment: Assignment, members: Int[Tensor, "molecule"], clusters: Int[Tensor, "molecule"]
) -> list[Assignment]:
    """One assignment per molecule, numbered from zero; `members` and `clusters` count those of each molecule.

    For members and clusters that are numbered molecule after molecule, as everywhere in this package.
    """
    owner = torch.repeat_interleave(torch.arange(len(members), device=members.device), members)[assignment.member]
    order = torch.argsort(owner, stable=True)
    rows = segment_count(owner, len(members)).tolist()
    first_member = torch.cumsum(members, 0) - members
    first_cluster = torch.cumsum(clusters, 0) - clusters
    member = (assignment.member - first_member[owner])[order].split(rows)
    cluster = (assignment.cluster - first_cluster[owner])[order].split(rows)
    weight = assignment.weight[order].split(rows)
    counts = members.tolist(), clusters.tolist()
    sizes = [None] * len(members) if assignment.size is None else assignment.size.split(counts[1])
    return [
        Assignment(m, c, w, *count, is_hard=assignment.is_hard, size=size)
        for m, c, w, *count, size in zip(member, cluster, weight, *counts, sizes, strict=True)
    ]


def join(parts: Sequence[Assignment]) -> Assignment:
    """One assignment for molecules side by side: undoes `split`."""
    members = [0]
    clusters = [0]
    for part in parts:
        members.append(members[-1] + part.members)
        clusters.append(clusters[-1] + part.clusters)
    sizes = [part.size for part in parts if part.size is not None]
    return Assignment(
        member=torch.cat([part.member + offset for part, offset in zip(parts, members, strict=False)]),
        cluster=torch.cat([part.cluster + offset for part, offset in zip(parts, clusters, strict=False)]),
        weight=torch.cat([part.weight for part in parts]),
        members=members[-1],
        clusters=clusters[-1],
        is_hard=len(sizes) == len(parts),
        size=torch.cat(sizes) if len(sizes) == len(parts) else None,
    )
