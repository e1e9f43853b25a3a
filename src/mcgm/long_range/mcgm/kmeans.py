"""K-means++ for many ragged groups at once, by tensor operations only.

The groups stand side by side in a padded array and go through the rounds together: a loop over seeding rounds and Lloyd
iterations, never over groups, points or clusters. A centre is a mean of points, so all distances follow from the
products of the points with each other, which are computed once: memory grows with the square of the largest group.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mcgm.long_range.mcgm.assignment import Nodes
from mcgm.long_range.mcgm.chance import Chance, Draws

MOST_TRIALS = 64
"""More than any group has candidates for a seed: makes one place of (round, candidate)."""


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
    points = members.pad(features if features.dtype == torch.float64 else features.float())
    problem = _Problem(points, members, clusters)
    label, distance = problem.nearest(problem.seed(draws))
    moving = torch.ones_like(members.count, dtype=torch.bool)[:, None]
    for _ in range(iterations):
        proposed, distance = problem.nearest(problem.recenter(label, distance))
        moving = moving & ((proposed != label) & problem.present).any(1, keepdim=True)
        label = torch.where(moving, proposed, label)
        if label.device.type == "cpu" and not moving.any():
            break  # elsewhere asking would wait for the device; settled groups just stay as they are
    return label[members.group, members.rank]


class _Problem:
    """Products of padded points, taken relative to the mean of their group for the sake of rounding.

    A centre is given by the share that each point has in it. Candidates whose distances differ by less than rounding
    can explain are told apart by a key, a projection of their features: not by their order.
    """

    def __init__(self, points: Float[Tensor, "group point channel"], members: Nodes, clusters: Nodes) -> None:
        self.present = members.present
        self.wanted: Bool[Tensor, "group cluster"] = clusters.present
        self.count = members.count
        self.trials = 2 + clusters.count.clamp(min=1).double().log().long()
        size = members.count[:, None, None].clamp(min=1)
        centred = (points - points.sum(1, keepdim=True) / size) * self.present[..., None]
        self.pairs = torch.bmm(centred, centred.transpose(1, 2))
        self.square = self.pairs.diagonal(dim1=1, dim2=2)
        rounding = torch.finfo(points.dtype).eps ** 0.7
        self.tolerance = rounding * self.square.amax(1, keepdim=True)
        phase = torch.arange(1, points.shape[-1] + 1, device=points.device, dtype=points.dtype) * math.sqrt(2)
        self.key = centred @ torch.cos(phase)
        self.bonus = self._bonus(self.key, self.present)

    def _bonus(
        self, key: Float[Tensor, "group candidate"], real: Bool[Tensor, "group candidate"]
    ) -> Float[Tensor, "group candidate"]:
        """Between zero and the tolerance, in the order of the keys; minus infinity where there is no candidate."""
        key = torch.where(real, key, key[:, :1])  # every group has a first candidate
        low, high = key.aminmax(dim=1, keepdim=True)
        spread = high - low
        bonus = self.tolerance * (key - low) / torch.where(spread > 0, spread, torch.ones_like(spread))
        return bonus.masked_fill(~real, -torch.inf)

    def seed(self, draws: Draws | None) -> Float[Tensor, "group cluster point"]:
        """First centres: k rounds, each adding one point to every group."""
        group = torch.arange(len(self.square), device=self.square.device)
        rounds = self.wanted.shape[1]
        trials = 1 if draws is None else 2 + int(math.log(rounds))
        distance = torch.full_like(self.square, torch.inf)
        candidates = self._draw(self.square, torch.ones_like(self.square), draws, 0, 1)
        seeds = []
        for number in range(rounds):
            square = self.square[group[:, None], candidates]
            new = self.square[:, None] - 2 * self.pairs[group[:, None], candidates] + square[..., None]
            new = torch.minimum(distance[:, None], new.clamp(min=0))
            best = self._least(new)
            distance = new[group, best]
            seeds.append(candidates[group, best])
            candidates = self._draw(distance, distance, draws, number + 1, trials)
        return self._only(torch.stack(seeds, 1))

    def _only(self, point: Int[Tensor, "group cluster"]) -> Float[Tensor, "group cluster point"]:
        """Centres that are points."""
        every = torch.arange(self.present.shape[1], device=point.device)
        return (point[..., None] == every).to(self.square.dtype)

    def _draw(
        self, score: Tensor, weight: Tensor, draws: Draws | None, number: int, trials: int
    ) -> Int[Tensor, "group trial"]:
        """Points of each group: drawn in proportion to weight, or the one of highest score."""
        if draws is None:
            return (score + self.bonus).argmax(1, keepdim=True)
        weight = weight.masked_fill(~self.present, 0)
        weight = torch.where(weight.sum(1, keepdim=True) > 0, weight, self.present.to(weight.dtype))
        below = weight.double().cumsum(1)
        places = MOST_TRIALS * number + torch.arange(trials, device=weight.device)
        found = torch.searchsorted(below, draws.uniform(places) * below[:, -1:], right=True)
        return torch.minimum(found, self.count[:, None] - 1)

    def _least(self, distance: Float[Tensor, "group trial point"]) -> Int[Tensor, "group"]:
        """The candidate that leaves the smallest sum of squared distances."""
        if distance.shape[1] == 1:
            return torch.zeros_like(distance[:, 0, 0], dtype=torch.long)
        total = (distance * self.present[:, None]).sum(-1)
        # as many trials as the group would have by itself
        number = torch.arange(distance.shape[1], device=distance.device)
        return total.masked_fill(number >= self.trials[:, None], torch.inf).argmin(1)

    def nearest(
        self, share: Float[Tensor, "group cluster point"]
    ) -> tuple[Int[Tensor, "group point"], Float[Tensor, "group point"]]:
        """Nearest wanted centre of each point and the squared distance to it."""
        along = torch.bmm(share, self.pairs)
        own = (along * share).sum(-1)
        key = torch.bmm(share, self.key[..., None])[..., 0]
        score, label = (2 * along + (self._bonus(key, self.wanted) - own)[..., None]).max(1)
        return label, self.square - score

    def recenter(
        self, label: Int[Tensor, "group point"], distance: Float[Tensor, "group point"]
    ) -> Float[Tensor, "group cluster point"]:
        """Mean of each cluster's points; the first empty one moves to the point that was farthest from its centre.

        A further one waits at the group's mean for its turn.
        """
        cluster = torch.arange(self.wanted.shape[1], device=label.device)[:, None]
        member = (label[:, None, :] == cluster) & self.present[:, None, :]
        size = member.sum(2)
        empty = (size == 0) & self.wanted
        restart = (empty & (empty.cumsum(1) == 1))[..., None] & self._farthest(distance)[:, None, :]
        return (member | restart) / size[..., None].clamp(min=1).to(self.square.dtype)

    def _farthest(self, distance: Float[Tensor, "group point"]) -> Bool[Tensor, "group point"]:
        every = torch.arange(distance.shape[1], device=distance.device)
        return every == (distance + self.bonus).argmax(1, keepdim=True)
