"""How the features of members become those of their cluster, before its linear map."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mcgm.long_range.mcgm.assignment import Assignment

STEEPEST = 3.0
"""Scores stay between - and + of it: the heaviest member then counts e^6 times as much as the lightest."""

_FLOOR = 1e-3
"""Least weight of a cluster: it has e^-3 or more unless it is empty, and zero for a mean."""


class Mean(nn.Module):
    """The mean of the members (paper); no parameters."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(
        self, nodes: Float[Tensor, "member channel"], assignment: Assignment
    ) -> Float[Tensor, "cluster channel"]:
        """Features of the clusters."""
        return assignment.mean(nodes)


class Attention(nn.Module):
    """A mean weighted by the members themselves, in every channel by its own weights.

    w_ic = exp(s tanh(a_c · h_i / s)), h_kc = sum_i p_ik w_ic h_ic / sum_i p_ik w_ic, with the memberships p_ik: smooth,
    and the same for n copies of the members. Starts as the mean. Ours; after the attention without queries of
    arXiv:2105.14103.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = nn.Linear(channels, channels, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(
        self, nodes: Float[Tensor, "member channel"], assignment: Assignment
    ) -> Float[Tensor, "cluster channel"]:
        """Features of the clusters."""
        return attended_mean(nodes, self.score(nodes), assignment)


def attended_mean(
    values: Float[Tensor, "member *component channel"],
    score: Float[Tensor, "member channel"],
    assignment: Assignment,
) -> Float[Tensor, "cluster *component channel"]:
    """Mean over the members of each cluster, weighted by exp(s tanh(score / s)): each channel by its own, whatever
    number of components it has."""
    weight = torch.exp(STEEPEST * torch.tanh(score / STEEPEST))
    members, channels = score.shape
    weighted = values.view(members, -1, channels) * weight[:, None]
    mean = assignment.mean(weighted.flatten(1)).view(-1, weighted.shape[1], channels)
    attended = mean / assignment.mean(weight).clamp(min=_FLOOR)[:, None]
    return attended.view(attended.shape[0], *values.shape[1:])


AGGREGATIONS: dict[str, type[Mean] | type[Attention]] = {"mean": Mean, "attention": Attention}
"""By the name that specifications use."""
