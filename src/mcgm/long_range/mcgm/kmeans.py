"""K-means++ for many ragged groups at once, by tensor operations only.

The groups stand side by side in a padded array and go through the rounds together: a loop over seeding rounds and Lloyd
iterations, never over groups, points or clusters.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mcgm.long_range.mcgm.assignment import Nodes

PAIRS_UP_TO = 16
"""Points per cluster up to which the products of all pairs are computed at once."""


@torch.no_grad()
def kmeans(
    features: Float[Tensor, "node channel"],
    members: Nodes,
    clusters: Nodes,
    *,
    iterations: int,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "node"]:
    """Label of each node within its group, 0..k-1, after K-means++ seeding and at most `iterations` Lloyd steps.

    A group whose labels no longer change has stopped. An empty cluster restarts at the point farthest from its centre;
    where points coincide it may stay empty.

    Args:
        features: points of all groups.
        members: groups of the points.
        clusters: how many clusters each group gets.
        iterations: most Lloyd steps.
        generator: each seed is the best of 2 + log(k) points drawn by squared distance (the greedy variant of Arthur
            and Vassilvitskii 2007, as in scikit-learn); `None`: the farthest point, independent of the nodes' order.
    """
    if clusters.largest == 1:
        return torch.zeros_like(members.group)
    points = members.pad(features if features.dtype == torch.float64 else features.float())
    problem = _Problem(points, members, clusters)
    centers = problem.seed(generator)
    label, distance = problem.nearest(centers)
    moving = torch.ones_like(members.count, dtype=torch.bool)[:, None]
    for _ in range(iterations):
        centers = problem.recenter(label, distance)
        proposed, distance = problem.nearest(centers)
        moving = moving & ((proposed != label) & problem.present).any(1, keepdim=True)
        label = torch.where(moving, proposed, label)
        if label.device.type == "cpu" and not moving.any():
            break  # elsewhere asking would wait for the device; settled groups just stay as they are
    return label[members.group, members.rank]


class _Problem:
    """Padded points, relative to the mean of their group for the sake of rounding.

    Scores are squared distances up to what is the same for all candidates. Candidates whose scores differ by less than
    rounding can explain are told apart by a key, a projection of their features: not by their order.
    """

    def __init__(self, points: Float[Tensor, "group point channel"], members: Nodes, clusters: Nodes) -> None:
        self.present = members.present
        self.wanted: Bool[Tensor, "group cluster"] = clusters.present
        size = members.count[:, None, None].clamp(min=1)
        self.points = (points - points.sum(1, keepdim=True) / size) * self.present[..., None]
        self.square = self.points.square().sum(-1)
        rounding = torch.finfo(points.dtype).eps ** 0.7
        self.tolerance = rounding * self.square.amax(1, keepdim=True)
        phase = torch.arange(1, points.shape[-1] + 1, device=points.device, dtype=points.dtype) * math.sqrt(2)
        self.direction = torch.cos(phase)
        self.bonus = self._bonus(self.points, self.present)

    def _bonus(
        self, candidates: Float[Tensor, "group candidate channel"], real: Bool[Tensor, "group candidate"]
    ) -> Float[Tensor, "group candidate"]:
        """Between zero and the tolerance, in the order of the keys; minus infinity where there is no candidate."""
        key = candidates @ self.direction
        key = torch.where(real, key, key[:, :1])  # every group has a first candidate
        low, high = key.aminmax(dim=1, keepdim=True)
        spread = high - low
        bonus = self.tolerance * (key - low) / torch.where(spread > 0, spread, torch.ones_like(spread))
        return bonus.masked_fill(~real, -torch.inf)

    def seed(self, generator: torch.Generator | None) -> Float[Tensor, "group cluster channel"]:
        """First centres: k rounds, each adding one point to every group."""
        group = torch.arange(len(self.points), device=self.points.device)
        rounds = self.wanted.shape[1]
        trials = 1 if generator is None else 2 + int(math.log(rounds))
        products = self._products()
        distance = torch.full_like(self.square, torch.inf)
        candidates = self._draw(self.square, torch.ones_like(self.square), 1, generator)
        seeds = []
        for _ in range(rounds):
            square = self.square[group[:, None], candidates]
            new = self.square[:, None] - 2 * products(group[:, None], candidates) + square[..., None]
            new = torch.minimum(distance[:, None], new.clamp(min=0))
            best = self._least(new)
            distance = new[group, best]
            seeds.append(candidates[group, best])
            candidates = self._draw(distance, distance, trials, generator)
        return self.points[group[:, None], torch.stack(seeds, 1)]

    def _products(self) -> Callable[[Tensor, Tensor], Float[Tensor, "group trial point"]]:
        """Products of all points with some of each group: from one matrix of all pairs where that is less work."""
        if self.points.shape[1] > PAIRS_UP_TO * self.wanted.shape[1]:
            return lambda group, chosen: torch.bmm(self.points[group, chosen], self.points.transpose(1, 2))
        pairs = torch.bmm(self.points, self.points.transpose(1, 2))
        return lambda group, chosen: pairs[group, chosen]

    def _draw(
        self, score: Tensor, weight: Tensor, trials: int, generator: torch.Generator | None
    ) -> Int[Tensor, "group trial"]:
        """Points of each group: drawn in proportion to weight, or the one of highest score."""
        if generator is None:
            return (score + self.bonus).argmax(1, keepdim=True)
        weight = weight.masked_fill(~self.present, 0)
        weight = torch.where(weight.sum(1, keepdim=True) > 0, weight, self.present.to(weight.dtype))
        return torch.multinomial(weight, trials, replacement=True, generator=generator)

    def _least(self, distance: Float[Tensor, "group trial point"]) -> Int[Tensor, "group"]:
        """The candidate that leaves the smallest sum of squared distances."""
        if distance.shape[1] == 1:
            return torch.zeros_like(distance[:, 0, 0], dtype=torch.long)
        return (distance * self.present[:, None]).sum(-1).argmin(1)

    def nearest(
        self, centers: Float[Tensor, "group cluster channel"]
    ) -> tuple[Int[Tensor, "group point"], Float[Tensor, "group point"]]:
        """Nearest wanted centre of each point and the squared distance to it."""
        base = self._bonus(centers, self.wanted) - centers.square().sum(-1)
        score, label = torch.baddbmm(base[:, None, :], self.points, centers.transpose(1, 2), alpha=2).max(-1)
        return label, self.square - score

    def recenter(
        self, label: Int[Tensor, "group point"], distance: Float[Tensor, "group point"]
    ) -> Float[Tensor, "group cluster channel"]:
        """Mean of each cluster's points; an empty one moves to the point that was farthest from its centre."""
        cluster = torch.arange(self.wanted.shape[1], device=label.device)[:, None]
        member = ((label[:, None, :] == cluster) & self.present[:, None, :]).to(self.points.dtype)
        size = member.sum(2)
        mean = torch.bmm(member, self.points) / size[..., None].clamp(min=1)
        empty = (size == 0) & self.wanted
        most = min(mean.shape[1], label.shape[1])
        farthest = (distance + self.bonus).topk(most, dim=1).indices
        order = (empty.cumsum(1) - 1).clamp(min=0, max=most - 1)
        restart = self.points.gather(1, farthest.gather(1, order)[..., None].expand_as(mean))
        return torch.where(empty[..., None], restart, mean)
