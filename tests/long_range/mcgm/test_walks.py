"""Walks that die on the way: expected times and arrivals against linear algebra, simulation and lumping."""

import numpy as np
import pytest
import torch

from mcgm.long_range.mcgm import walks
from mcgm.long_range.mcgm.walks import arrivals, expected_times


def network(size=7, count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rates = torch.rand(count, size, size, generator=generator, dtype=torch.float64)
    deaths = 1 + torch.rand(count, size, generator=generator, dtype=torch.float64)
    return (rates + rates.mT) * (1 - torch.eye(size, dtype=torch.float64)), deaths


def laplacian(rates):
    return torch.diag_embed(rates.sum(-1)) - rates


def test_expected_times_are_the_inverse():
    rates, deaths = network()
    expected = torch.linalg.inv(torch.diag_embed(deaths) + laplacian(rates))
    torch.testing.assert_close(expected_times(rates, deaths), expected, rtol=1e-12, atol=1e-14)


def test_walkers_that_are_simulated_arrive_as_often():
    rates, deaths = network(size=5, count=1)
    goal = torch.tensor([[False, True, False, True, False]])
    chance = np.random.default_rng(0)
    step = np.concatenate([rates[0].numpy(), deaths[0].numpy()[:, None]], axis=1)
    step /= step.sum(1, keepdims=True)
    arrived = 0
    for _ in range(4000):
        node = 0
        while node < 5 and not goal[0, node]:
            node = chance.choice(6, p=step[node])
        arrived += node < 5
    found = arrivals(rates, deaths, goal)[0]
    assert float(found[0]) == pytest.approx(arrived / 4000, abs=0.03)
    assert found[goal[0]].tolist() == [1, 1]


def test_times_at_a_node_tell_who_arrives_there():
    rates, deaths = network()
    times = expected_times(rates, deaths)
    goal = torch.zeros(3, 7, dtype=torch.bool)
    goal[:, 2] = True
    torch.testing.assert_close(arrivals(rates, deaths, goal), times[:, :, 2] / times[:, 2, 2, None])


def test_copies_of_a_network_joined_as_a_crystal_may_be_taken_as_one():
    """Three nodes in a cell, with steps within it (upper) and to the next (lower), against a ring of four cells."""
    rates, deaths = network(size=3, count=1)
    within, across = torch.triu(rates[0]), torch.tril(rates[0])
    ring = torch.zeros(12, 12, dtype=torch.float64)
    for cell in range(4):
        here, there = slice(3 * cell, 3 * cell + 3), torch.arange(3) + 3 * ((cell + 1) % 4)
        ring[here, here] += within
        ring[here, there] += across
    ring = ring + ring.T
    single = within + within.T + across + across.T
    of_ring = expected_times(ring[None], deaths.repeat(1, 4))[0, :3].reshape(3, 4, 3).sum(1)
    torch.testing.assert_close(of_ring, expected_times(single[None], deaths)[0])
    goal = torch.tensor([[False, False, True]])
    torch.testing.assert_close(
        arrivals(ring[None], deaths.repeat(1, 4), goal.repeat(1, 4))[0, :3], arrivals(single[None], deaths, goal)[0]
    )


def test_fast_and_slow_steps_side_by_side_cost_no_digits():
    rates = torch.diag_embed(torch.tensor([1e9, 1e-9, 1e9], dtype=torch.float64), 1)[None]
    found = expected_times(rates + rates.mT, torch.ones(1, 4, dtype=torch.float64))[0]
    half, step = 1 / (2 + 1e-9), 1e-9
    assert float(found[0, 0] - found[0, 1]) == pytest.approx(half * 1e-9, rel=1e-6)
    assert float(found[0, 3]) == pytest.approx(step / 4, rel=1e-8)


def test_large_networks_are_solved_too(monkeypatch):
    rates, deaths = network()
    expected = expected_times(rates, deaths)
    monkeypatch.setattr(walks, "ELIMINATED", 3)
    torch.testing.assert_close(expected_times(rates, deaths), expected, rtol=1e-12, atol=1e-14)


def test_second_derivatives_are_right():
    rates, deaths = network(size=4, count=2)
    rates.requires_grad_()
    assert torch.autograd.gradgradcheck(expected_times, (rates, deaths))
    goal = torch.tensor([[True, False, False, False], [False, False, True, True]])
    assert torch.autograd.gradgradcheck(lambda r: arrivals(r, deaths, goal), (rates,))
