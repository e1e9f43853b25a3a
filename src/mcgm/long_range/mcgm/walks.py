"""Random walks on networks that die on the way: how surely one node is reached from another.

A walker at node a dies at the rate d_a and steps to node b at the rate g_ab. With G the inverse of diag(d + g 1) - g:
the mean time that a walker from a spends at b is G_ab, and G_ab / G_bb is the probability that it ever comes to b.
Nodes that are copies of each other may be taken as one without changing such probabilities, so a crystal and its
supercell have the same. All is found by elimination without a subtraction, so that rates of very different size cost
no digits: Grassmann, Taksar and Heyman, Oper. Res. 33, 1107 (1985); Alfa, Xue and Ye, Math. Comp. 71, 217 (2002).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

ELIMINATED = 64
"""Largest network that is solved node by node; larger ones by factors, which lose digits where rates differ much."""


def expected_times(
    rates: Float[Tensor, "network node node"], deaths: Float[Tensor, "network node"]
) -> Float[Tensor, "network node node"]:
    """G: the mean time that a walker from the first node spends at the second."""
    own = torch.eye(rates.shape[-1], dtype=rates.dtype, device=rates.device)
    return solve_walk(rates, deaths, own.expand_as(rates))


def arrivals(
    rates: Float[Tensor, "network node node"], deaths: Float[Tensor, "network node"], goal: Bool[Tensor, "network node"]
) -> Float[Tensor, "network node"]:
    """Probability that a walker from each node ever comes to a goal; 1 at the goals themselves."""
    reached = goal.to(rates.dtype)
    away = (1 - reached)[..., None]
    found = solve_walk(rates * away, torch.where(goal, 1.0, deaths), reached[..., None])
    return found[..., 0]


def solve_walk(
    rates: Float[Tensor, "network node node"],
    deaths: Float[Tensor, "network node"],
    income: Float[Tensor, "network node kind"],
) -> Float[Tensor, "network node kind"]:
    """The x of (d_a + sum_b g_ab) x_a = sum_b g_ab x_b + income_a; rates on the diagonal are not looked at."""
    size = rates.shape[-1]
    rates = rates * (1 - torch.eye(size, dtype=rates.dtype, device=rates.device))
    if size > ELIMINATED:
        return torch.linalg.solve(torch.diag_embed(deaths + rates.sum(-1)) - rates, income)
    rows, results = [], []
    for node in range(size):
        onwards = rates[:, 0, 1:]
        total = deaths[:, :1] + onwards.sum(-1, keepdim=True)
        row, death, result = onwards / total, deaths[:, :1] / total, income[:, 0] / total
        rows.append(pad(row, (node + 1, 0)))
        results.append(result)
        back = rates[:, 1:, 0]
        rates = rates[:, 1:, 1:] + back[..., None] * row[:, None]
        rates = rates * (1 - torch.eye(rates.shape[-1], dtype=rates.dtype, device=rates.device))
        deaths = deaths[:, 1:] + back * death
        income = income[:, 1:] + back[..., None] * result[:, None]
    unit = torch.eye(size, dtype=rates.dtype, device=rates.device)
    upper = unit - torch.stack(rows, dim=-2)
    return torch.linalg.solve_triangular(upper, torch.stack(results, dim=-2), upper=True, unitriangular=True)
