"""Bases of distance and direction, and sums over pairs of edges against sums over triplets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from scipy.special import eval_legendre, spherical_jn
from torch import Tensor
from torch.autograd import gradgradcheck

from mcgm.backbones.angular import SphericalHarmonics
from mcgm.backbones.atom_pairs import AtomPairs, reverse_edges, times_pair, turned_round
from mcgm.backbones.bessel import LearnedBesselBasis, SphericalBesselBasis, spherical_bessel_roots
from mcgm.backbones.directional import EdgeTable, convolve_pairs, expand_pairs
from mcgm.batch import Batch

CUTOFF = 4.0


def unit_vectors(count: int) -> Tensor:
    vectors = torch.randn(count, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    poles = torch.cat([torch.eye(3), -torch.eye(3)]).double()
    return torch.cat([vectors / vectors.norm(dim=1, keepdim=True), poles])


def mixed_batch() -> Batch:
    crystal, atom = bulk("NaCl", "rocksalt", 5.0), molecule("H")
    return Batch.from_atoms([molecule("HCN"), crystal, atom, molecule("C2H6")], cutoff=CUTOFF, dtype=torch.float64)


def partners(batch: Batch) -> list[tuple[int, int]]:
    """Pairs of different edges with the same target, one by one."""
    target = batch.neighbors.target.tolist()
    count = len(target)
    return [(e, p) for e in range(count) for p in range(count) if target[e] == target[p] and e != p]


@pytest.mark.parametrize("degrees", [1, 2, 7])
def test_products_of_harmonics_sum_to_legendre_polynomials(degrees):
    directions = unit_vectors(20)
    values = SphericalHarmonics(degrees).double()(directions)
    assert values.shape[1] == degrees**2
    cosine = (directions @ directions.T).numpy()
    for degree in range(degrees):
        part = values[:, degree**2 : (degree + 1) ** 2]
        np.testing.assert_allclose((part @ part.T).numpy(), eval_legendre(degree, cosine), atol=1e-12)


def test_harmonics_in_float32_keep_their_accuracy():
    directions = unit_vectors(200)
    exact = SphericalHarmonics(7)(directions)
    assert (SphericalHarmonics(7)(directions.float()) - exact).abs().max() < 2e-6


def test_casting_a_module_back_and_forth_loses_no_digits():
    directions = unit_vectors(5)
    expected = SphericalHarmonics(4)(directions)
    assert torch.equal(SphericalHarmonics(4).float().double()(directions), expected)


def test_harmonics_are_twice_differentiable_at_the_poles():
    assert gradgradcheck(SphericalHarmonics(4), unit_vectors(1).requires_grad_())


def test_spherical_bessel_functions_equal_those_of_scipy_and_vanish_at_their_roots():
    basis = SphericalBesselBasis(CUTOFF, degrees=7, size=6)
    length = torch.linspace(0.5, CUTOFF, 50, dtype=torch.float64)
    roots = spherical_bessel_roots(7, 6)
    x = length.numpy()[:, None] / CUTOFF
    for degree, values in enumerate(basis(length)):
        norm = np.sqrt((2 * degree + 1) / (2 * np.pi)) / abs(spherical_jn(degree + 1, roots[degree]))
        np.testing.assert_allclose(values, norm * spherical_jn(degree, x * roots[degree]), atol=1e-9)
        assert values[-1].abs().max() < 1e-9


def test_spherical_bessel_functions_are_accurate_in_float32_at_short_distance():
    basis = SphericalBesselBasis(6.0, degrees=7, size=6)
    length = torch.tensor([0.5, 1.0, 1.5])
    assert (basis(length) - basis(length.double())).abs().max() < 1e-5


def test_spherical_basis_is_orthonormal_on_the_unit_ball():
    basis = SphericalBesselBasis(1.0, degrees=3, size=4)
    nodes, weights = (torch.from_numpy(array) for array in np.polynomial.legendre.leggauss(60))
    r, weight = (nodes + 1) / 2, weights / 2
    for degree, values in enumerate(basis(r)):
        gram = torch.einsum("rn,rm,r->nm", values, values, weight * r**2) * 4 * np.pi / (2 * degree + 1)
        torch.testing.assert_close(gram, torch.eye(4, dtype=torch.float64), atol=1e-10, rtol=0)


def test_radial_basis_starts_with_nodes_at_the_cutoff():
    basis = LearnedBesselBasis(CUTOFF, 5).double()
    assert basis(torch.tensor([CUTOFF], dtype=torch.float64)).abs().max() < 1e-5


def test_reverse_edges_swap_ends_and_image():
    batch = mixed_batch()
    neighbors = batch.neighbors
    reverse = reverse_edges(neighbors, batch.n_atoms)
    assert torch.equal(neighbors.source[reverse], neighbors.target)
    assert torch.equal(neighbors.target[reverse], neighbors.source)
    assert torch.equal(neighbors.image[reverse], -neighbors.image)
    assert len(neighbors.crossing) > 0


def test_every_edge_stands_half_way_from_its_opposite():
    batch = mixed_batch()
    edges, pairs = batch.edges, AtomPairs.from_neighbors(batch.neighbors, batch.n_atoms)
    assert torch.equal(pairs.row.sort().values, torch.arange(len(pairs.row)))
    opposite = turned_round(pairs.row.double()).long()
    assert torch.equal(opposite, reverse_edges(batch.neighbors, batch.n_atoms)[pairs.row])
    direction = (edges.vector / edges.length[:, None])[pairs.row]
    torch.testing.assert_close(pairs.direction(edges), direction)
    torch.testing.assert_close(pairs.length(edges).repeat(2), edges.length[pairs.row])
    ones = torch.ones(len(direction), 1, dtype=torch.float64)
    assert torch.equal(times_pair(ones, pairs.length(edges)[:, None])[:, 0], pairs.length(edges).repeat(2))


def test_sums_over_pairs_equal_sums_over_triplets():
    batch = mixed_batch()
    edges, table = batch.edges, EdgeTable.from_neighbors(batch.neighbors, batch.n_atoms)
    direction = table.pairs.direction(edges)
    harmonics = table.slots.spread(SphericalHarmonics(4)(direction))
    values = torch.randn(4, len(direction), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    convolved = torch.zeros(len(direction), 3, dtype=torch.float64)
    expanded = torch.zeros(len(direction), 4, 3, dtype=torch.float64)
    place = torch.argsort(table.pairs.row)
    edge, partner = place[torch.tensor(partners(batch)).T]
    cosine = (direction[edge] * direction[partner]).sum(dim=1).numpy()
    for degree in range(4):
        legendre = torch.from_numpy(eval_legendre(degree, cosine))[:, None]
        convolved.index_add_(0, edge, legendre * values[degree, partner])
        expanded[:, degree].index_add_(0, edge, legendre * values[0, partner])
    torch.testing.assert_close(convolve_pairs(table.slots, harmonics, values), convolved, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(expand_pairs(table.slots, harmonics, values[0], 4), expanded, atol=1e-10, rtol=1e-10)
