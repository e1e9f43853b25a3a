"""K-means++ for many ragged groups at once, by tensor operations only.

The groups stand side by side in a padded array and go through the rounds together: a loop over seeding rounds and Lloyd
iterations, never over groups, points or clusters. A centre is a mean of points, so all distances follow from those of
the points from each other, which are computed once: memory grows with the square of the largest group.
On a processor, where looking at values does not wait for anything, groups are padded to the size of those like them
and leave when they have settled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mcgm.long_range.mcgm.assignment import Nodes
from mcgm.long_range.mcgm.chance import Chance, Draws
from mcgm.segments import segment_sum, take

MOST_TRIALS = 64
"""More than any group has candidates for a seed: makes one place of (round, candidate)."""

SMALL, SIZE_RATIO, SIZE_CLASSES = 32, 1.4, 4
"""Up to how many points groups are padded to one size; how the sizes fall above, and how many there are."""

LEFT = 0.6
"""Settled groups leave when no more than this share still moves."""


@torch.no_grad()
def kmeans(
    features: Float[Tensor, "node channel"],
    members: Nodes,
    clusters: Nodes,
    *,
    iterations: int,
    chance: Chance | None = None,
) -> Int[Tensor, "node"]:
    """Label of each node within its group, 0..k-1, after K-means++ seeding and at most `iterations` Lloyd steps.

    A group whose labels no longer change has stopped. An empty cluster restarts at the point farthest from its centre;
    where points coincide it may stay empty.

    Args:
        features: points of all groups.
        members: groups of the points.
        clusters: how many clusters each group gets.
        iterations: most Lloyd steps.
        chance: each seed is the best of 2 + log(k) points drawn by squared distance (the greedy variant of Arthur
            and Vassilvitskii 2007, as in scikit-learn); `None`: the farthest point, independent of the nodes' order.
    """
    draws = None if chance is None else chance.draws()
    if clusters.largest == 1:
        return torch.zeros_like(members.group)
    points = _centred(features if features.dtype == torch.float64 else features.float(), members)
    node = torch.full((members.groups, members.largest), members.total, device=members.group.device)
    node[members.group, members.rank] = torch.arange(members.total, device=node.device)
    label = torch.zeros_like(node)
    for group in _alike(members):
        count, wanted = members.count[group], clusters.count[group]
        width, most = (members.largest, clusters.largest) if group is ALL else (int(count.max()), int(wanted.max()))
        padded = take(points, node[group, :width].flatten()).view(-1, width, points.shape[1])
        problem = _Problem.of(padded, count, wanted, most)
        label[group, :width] = problem.settled(problem.seed(draws and Draws(draws.key[group])), iterations)
    return label[members.group, members.rank]


def _centred(features: Float[Tensor, "node channel"], members: Nodes) -> Float[Tensor, "node_and_nobody channel"]:
    """Points relative to the mean of their group, for the sake of rounding; the last one is nobody, at zero."""
    total = segment_sum(features, members.group, members.groups)
    mean = total / members.count.clamp(min=1)[:, None].to(features.dtype)
    points = features.new_empty(members.total + 1, features.shape[1])
    torch.sub(features, take(mean, members.group), out=points[:-1])
    points[-1] = 0
    return points


ALL = slice(None)


def _alike(members: Nodes) -> list[Int[Tensor, "group"] | slice]:
    """Groups of like size: on a processor; elsewhere asking would wait for the device, and padding costs little."""
    if members.count.device.type != "cpu" or members.largest <= SMALL:
        return [ALL]
    steps = (members.largest / members.count.clamp(min=1)).log() / math.log(SIZE_RATIO)
    size_class = steps.long().clamp(max=SIZE_CLASSES - 1)
    parts = [(size_class == one).nonzero()[:, 0] for one in range(SIZE_CLASSES)]
    return [part for part in parts if len(part)] if len(parts[0]) < members.groups else [ALL]


@dataclass(frozen=True, eq=False)
class _Centres:
    """Squared distances of points from centres, and the centres' keys."""

    distance: Float[Tensor, "group cluster point"]
    key: Float[Tensor, "group cluster"]


@dataclass(frozen=True, eq=False)
class _Problem:
    """Squared distances of padded points from each other and from their mean; none to a place where there is no point.

    Candidates whose distances differ by less than rounding can explain are told apart by a key, a projection of their
    features: not by their order. `bonus` is between zero and the tolerance, in the order of the keys.
    """

    distances: Float[Tensor, "group point point"]
    square: Float[Tensor, "group point"]
    present: Bool[Tensor, "group point"]
    wanted: Bool[Tensor, "group cluster"]
    tolerance: Float[Tensor, "group 1"]
    key: Float[Tensor, "group point"]
    bonus: Float[Tensor, "group point"]

    @classmethod
    def of(
        cls,
        points: Float[Tensor, "group point channel"],
        count: Int[Tensor, "group"],
        wanted: Int[Tensor, "group"],
        most: int,
    ) -> _Problem:
        """Of `count` points and `wanted` clusters in each group, at most as many."""
        present = torch.arange(points.shape[1], device=points.device) < count[:, None]
        square = torch.linalg.vecdot(points, points)
        distances = torch.addcmul(square[:, None], square[..., None], present[:, None].to(points.dtype))
        distances.baddbmm_(points, points.transpose(1, 2), alpha=-2).clamp_(min=0)
        distances.diagonal(dim1=1, dim2=2).zero_()
        few = torch.arange(most, device=points.device) < wanted[:, None]
        tolerance = torch.finfo(points.dtype).eps ** 0.7 * square.amax(1, keepdim=True)
        phase = torch.arange(1, points.shape[-1] + 1, device=points.device, dtype=points.dtype) * math.sqrt(2)
        key = points @ torch.cos(phase)
        return cls(distances, square, present, few, tolerance, key, _bonus(key, present, tolerance))

    def chosen(self, group: Int[Tensor, "group"]) -> _Problem:
        """Some of the groups."""
        return _Problem(**{field.name: getattr(self, field.name)[group] for field in fields(self)})

    def settled(self, centres: _Centres, iterations: int) -> Int[Tensor, "group point"]:
        """Labels after at most as many Lloyd steps."""
        problem = self
        label, distance = problem.nearest(centres)
        moving = torch.ones_like(label[:, 0], dtype=torch.bool)
        final, group = label, torch.arange(len(label), device=label.device)
        for _ in range(iterations):
            proposed, distance = problem.nearest(problem.means(label, distance))
            moving = moving & ((proposed != label) & problem.present).any(1)
            label = torch.where(moving[:, None], proposed, label)
            if label.device.type != "cpu":
                continue  # asking would wait for the device
            left = moving.nonzero()[:, 0]
            if len(left) <= LEFT * len(moving):
                final = final.index_copy(0, group, label)
                if not len(left):
                    return final
                problem, group, label = problem.chosen(left), group[left], label[left]
                distance, moving = distance[left], moving[left]
        return final.index_copy(0, group, label)

    def seed(self, draws: Draws | None) -> _Centres:
        """First centres: k rounds, each adding one point to every group."""
        groups, rounds = self.wanted.shape
        start = self.key.shape[1] * torch.arange(groups, device=self.key.device)[:, None]
        seeds = self._farthest(rounds, start) if draws is None else self._drawn(rounds, start, draws)
        point = start + torch.stack(seeds, 1)
        distance = take(self.distances.flatten(0, 1), point.flatten()).view(groups, rounds, -1)
        return _Centres(distance, take(self.key.flatten(), point.flatten()).view(groups, rounds))

    def _farthest(self, rounds: int, start: Int[Tensor, "group 1"]) -> list[Int[Tensor, "group"]]:
        """The point farthest from the mean, then always the one farthest from all before."""
        rows = self.distances.flatten(0, 1)
        seeds = [(self.square + self.bonus).argmax(1)]
        distance = take(rows, start[:, 0] + seeds[0])
        for _ in range(1, rounds):
            seeds.append((distance + self.bonus).argmax(1))
            distance = torch.minimum(distance, take(rows, start[:, 0] + seeds[-1]))
        return seeds

    def _drawn(self, rounds: int, start: Int[Tensor, "group 1"], draws: Draws) -> list[Int[Tensor, "group"]]:
        """Any point, then always the candidate that leaves the smallest sum of squared distances.

        Candidates are drawn in proportion to the squared distance, as many as the group would have by itself.
        """
        groups, width = self.key.shape
        trials = 2 + int(math.log(rounds))
        number = torch.arange(trials, device=start.device)
        place = MOST_TRIALS * torch.arange(rounds, device=start.device)[:, None] + number
        drawn = draws.uniform(place.flatten()).view(groups, rounds, trials)
        surplus = number >= 2 + self.wanted.sum(1, keepdim=True).clamp(min=1).double().log().long()
        offset = trials * torch.arange(groups, device=start.device)
        last = self.present.sum(1, keepdim=True) - 1
        anywhere = self.present.double()
        rows = self.distances.flatten(0, 1)
        seeds = [_in_proportion(anywhere, drawn[:, 0, :1], last)[:, 0]]
        distance = take(rows, start[:, 0] + seeds[0])
        for turn in range(1, rounds):
            weight = distance.double()
            weight = torch.where(weight.sum(1, keepdim=True) > 0, weight, anywhere)
            candidates = _in_proportion(weight, drawn[:, turn], last)
            left = take(rows, (start + candidates).flatten()).view(groups, trials, width)
            left = torch.minimum(distance[:, None], left)
            best = offset + left.sum(-1).masked_fill(surplus, torch.inf).argmin(1)
            seeds.append(take(candidates.flatten(), best))
            distance = take(left.flatten(0, 1), best)
        return seeds

    def nearest(self, centres: _Centres) -> tuple[Int[Tensor, "group point"], Float[Tensor, "group point"]]:
        """Nearest wanted centre of each point and the squared distance to it."""
        bonus = _bonus(centres.key, self.wanted, self.tolerance)
        distance, label = (centres.distance - bonus[..., None]).min(1)
        return label, distance

    def means(self, label: Int[Tensor, "group point"], distance: Float[Tensor, "group point"]) -> _Centres:
        """Mean of each cluster's points; the first empty one moves to the point that was farthest from its centre.

        A further one waits for its turn at no point: at the group's mean, as far as distances tell. The squared
        distance from a mean is the mean squared distance from its points, less half of that among them.
        """
        cluster = torch.arange(self.wanted.shape[1], device=label.device)[:, None]
        member = torch.where(self.present, label, -1)[:, None, :] == cluster
        size = member.sum(2)
        empty = (size == 0) & self.wanted
        if label.device.type != "cpu" or bool(empty.any()):  # asking a GPU would wait for it
            every = torch.arange(distance.shape[1], device=distance.device)
            farthest = every == (distance + self.bonus).argmax(1, keepdim=True)
            member = member | ((empty & (empty.cumsum(1) == 1))[..., None] & farthest[:, None, :])
        share = member / size[..., None].clamp(min=1).to(self.key.dtype)
        from_points = torch.bmm(share, self.distances)
        among = torch.linalg.vecdot(from_points, share)[..., None]
        return _Centres(torch.sub(from_points, among, alpha=0.5), torch.bmm(share, self.key[..., None])[..., 0])


def _in_proportion(
    weight: Float[Tensor, "group point"], drawn: Float[Tensor, "group trial"], last: Int[Tensor, "group 1"]
) -> Int[Tensor, "group trial"]:
    """Points drawn in proportion to their weight."""
    below = weight.cumsum(1)
    return torch.minimum(torch.searchsorted(below, drawn * below[:, -1:], right=True), last)


def _bonus(
    key: Float[Tensor, "group candidate"],
    real: Bool[Tensor, "group candidate"],
    tolerance: Float[Tensor, "group 1"],
) -> Float[Tensor, "group candidate"]:
    """Between zero and the tolerance, in the order of the keys; minus infinity where there is no candidate."""
    key = torch.where(real, key, key[:, :1])  # every group has a first candidate
    low, high = key.aminmax(dim=1, keepdim=True)
    spread = high - low
    bonus = tolerance * (key - low) / torch.where(spread > 0, spread, torch.ones_like(spread))
    return bonus.masked_fill(~real, -torch.inf)
