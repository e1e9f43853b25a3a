"""K-means++ for many ragged groups at once, by tensor operations only.

The groups stand side by side in a padded array and go through the rounds together: a loop over seeding rounds and Lloyd
iterations, never over groups, points or clusters.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mcgm.long_range.mcgm.assignment import Nodes


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
        generator: seeds are drawn by squared distance; `None`: the farthest point, independent of the nodes' order.
    """
    if clusters.largest == 1:
        return torch.zeros_like(members.group)
    points = members.pad(features if features.dtype == torch.float64 else features.float())
    problem = _Problem(points, members, clusters)
    centers = problem.seed(generator)
    label = problem.nearest(centers)[0]
    for _ in range(iterations):
        centers = problem.recenter(label, centers)
        previous, (label, _) = label, problem.nearest(centers)
        if label.device.type == "cpu" and torch.equal(label, previous):
            break  # elsewhere asking would wait for the device; settled groups just stay as they are
    return label[members.group, members.rank]


class _Problem:
    """Padded points, relative to the mean of their group for the sake of rounding."""

    def __init__(self, points: Float[Tensor, "group point channel"], members: Nodes, clusters: Nodes) -> None:
        self.present = members.present
        size = members.count[:, None, None].clamp(min=1)
        self.points = (points - points.sum(1, keepdim=True) / size) * self.present[..., None]
        self.square = self.points.square().sum(-1)
        self.wanted: Bool[Tensor, "group cluster"] = clusters.present
        # scores within this of the best count as ties, which the key then decides
        rounding = torch.finfo(points.dtype).eps ** 0.7
        self.tolerance = rounding * self.square.amax(1, keepdim=True)
        phase = torch.arange(1, points.shape[-1] + 1, device=points.device, dtype=points.dtype) * math.sqrt(2)
        self.direction = torch.cos(phase)
        self.key = self.points @ self.direction

    def seed(self, generator: torch.Generator | None) -> Float[Tensor, "group cluster channel"]:
        """First centres: k rounds, each adding one point to every group."""
        group = torch.arange(len(self.points), device=self.points.device)
        chosen = self._pick(self.present.to(self.square.dtype), self.square, generator)
        distance = torch.full_like(self.square, torch.inf)
        centers = []
        for _ in range(self.wanted.shape[1]):
            center = self.points[group, chosen]
            centers.append(center)
            distance = torch.minimum(distance, self._distance(center[:, None, :])[..., 0])
            chosen = self._pick(distance, distance, generator)
        return torch.stack(centers, 1)

    def _pick(self, weight: Tensor, score: Tensor, generator: torch.Generator | None) -> Int[Tensor, "group"]:
        """One present point per group: drawn in proportion to weight, or the one of highest score."""
        if generator is None:
            score = score.masked_fill(~self.present, -torch.inf)
            return _best(score, self.key, self.tolerance)
        # the smallest of exponential waiting times with rates w falls on each point with probability w / sum(w)
        waiting = torch.empty_like(weight).exponential_(generator=generator)
        rate = weight.clamp(min=torch.finfo(weight.dtype).tiny)
        return (waiting / rate).masked_fill(~self.present, torch.inf).argmin(1)

    def _distance(self, centers: Float[Tensor, "group cluster channel"]) -> Float[Tensor, "group point cluster"]:
        square = self.square[..., None] + centers.square().sum(-1)[:, None, :]
        return torch.baddbmm(square, self.points, centers.transpose(1, 2), alpha=-2).clamp(min=0)

    def nearest(
        self, centers: Float[Tensor, "group cluster channel"]
    ) -> tuple[Int[Tensor, "group point"], Float[Tensor, "group point"]]:
        """Nearest wanted centre of each point and the squared distance to it."""
        distance = self._distance(centers).masked_fill(~self.wanted[:, None, :], torch.inf)
        key = (centers @ self.direction)[:, None, :].expand_as(distance)
        label = _best(-distance, key, self.tolerance[..., None])
        return label, distance.gather(2, label[..., None])[..., 0]

    def recenter(
        self, label: Int[Tensor, "group point"], centers: Float[Tensor, "group cluster channel"]
    ) -> Float[Tensor, "group cluster channel"]:
        """Mean of each cluster's points; an empty one moves to the point farthest from its own centre."""
        member = torch.nn.functional.one_hot(label, centers.shape[1]) * self.present[..., None]
        size = member.sum(1)
        mean = torch.bmm(member.to(centers.dtype).transpose(1, 2), self.points) / size[..., None].clamp(min=1)
        empty = (size == 0) & self.wanted
        own = mean.gather(1, label[..., None].expand_as(self.points))
        away = (self.points - own).square().sum(-1).masked_fill(~self.present, -torch.inf)
        most = min(centers.shape[1], away.shape[1])
        farthest = away.topk(most, dim=1).indices
        order = (empty.cumsum(1) - 1).clamp(min=0, max=most - 1)
        restart = self.points.gather(1, farthest.gather(1, order)[..., None].expand_as(centers))
        return torch.where(empty[..., None], restart, mean)


def _best(score: Tensor, key: Tensor, tolerance: Tensor) -> Int[Tensor, "..."]:
    """Index of the highest score along the last axis; among scores tied within the tolerance the highest key."""
    tied = score >= score.amax(-1, keepdim=True) - tolerance
    return key.masked_fill(~tied, -torch.inf).argmax(-1)
