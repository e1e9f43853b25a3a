"""Assignments against dense matrices, hard and soft by the same code."""

import dataclasses

import pytest
import torch

from mcgm.long_range.mcgm.assignment import Assignment, Nodes, join, split

MEMBERS, CLUSTERS, CHANNELS = 9, 4, 5


def dense(assignment):
    """Weights as a matrix (member, cluster)."""
    matrix = torch.zeros(assignment.members, assignment.clusters, dtype=assignment.weight.dtype)
    for member, cluster, weight in zip(assignment.member, assignment.cluster, assignment.weight, strict=True):
        matrix[member, cluster] += weight
    return matrix


def hard(seed=0, clusters=CLUSTERS):
    generator = torch.Generator().manual_seed(seed)
    return Assignment.hard(torch.randint(clusters, (MEMBERS,), generator=generator), clusters, torch.float64)


def soft(seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.rand((MEMBERS, CLUSTERS), generator=generator, dtype=torch.float64).softmax(1)
    member = torch.arange(MEMBERS).repeat_interleave(CLUSTERS)
    order = torch.randperm(MEMBERS * CLUSTERS, generator=generator)
    cluster = torch.arange(CLUSTERS).repeat(MEMBERS)
    return Assignment(member[order], cluster[order], weight.reshape(-1)[order], MEMBERS, CLUSTERS)


def by_group(*group, seed=0, uniform=False):
    """Soft in the two clusters of each member's group."""
    nodes = Nodes.grouped(torch.tensor(group), max(group) + 1)
    nodes = dataclasses.replace(nodes, is_uniform=uniform)
    rows = Assignment.soft(nodes, Nodes.uniform(nodes.groups, 2, nodes.count.device), torch.float64)
    scores = torch.rand((MEMBERS, 2), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rows.weighted(scores)


EXAMPLES = {
    "hard": hard(),
    "soft": soft(),
    "one cluster": hard(clusters=1),
    "with an empty cluster": hard(3, 12),
    "one group": by_group(0, 0, 0, 0, 0, 0, 0, 0, 0),
    "groups that interleave": by_group(0, 1, 0, 2, 2, 1, 2, 2, 0),
    "groups of one size": by_group(0, 0, 0, 1, 1, 1, 2, 2, 2, uniform=True),
    "most in one group": by_group(0, 1, 2, 3, 4, 5, 5, 5, 5),
    "too sparse for a table": by_group(0, 1, 2, 3, 4, 5, 6, 20, 20),
}


@pytest.fixture(params=EXAMPLES, ids=str)
def assignment(request):
    return EXAMPLES[request.param]


@pytest.fixture
def values():
    return torch.randn(
        MEMBERS, CHANNELS, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True
    )


def test_the_total_is_the_transposed_matrix_times_the_values(assignment, values):
    torch.testing.assert_close(assignment.total(values), dense(assignment).T @ values)
    torch.testing.assert_close(assignment.total(values[:, 0]), dense(assignment).T @ values[:, 0])


def test_the_mean_is_the_total_over_the_weight_and_zero_where_a_cluster_is_empty(assignment, values):
    matrix = dense(assignment)
    size = matrix.sum(0)
    mean = assignment.mean(values)
    for k in range(assignment.clusters):
        expected = matrix[:, k] @ values / size[k] if size[k] > 0 else torch.zeros(CHANNELS, dtype=torch.float64)
        torch.testing.assert_close(mean[k], expected)


def test_the_broadcast_is_the_matrix_times_the_values(assignment):
    values = torch.randn(assignment.clusters, CHANNELS, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(assignment.broadcast(values), dense(assignment) @ values)


def test_gradients_of_mean_and_broadcast_are_those_of_the_dense_matrices(assignment, values):
    def ours(x):
        return assignment.broadcast(assignment.mean(x)).square().sum()

    def theirs(x):
        matrix = dense(assignment)
        return (matrix @ (matrix.T @ x / matrix.sum(0).clamp(min=1e-300)[:, None])).square().sum()

    torch.testing.assert_close(torch.autograd.grad(ours(values), values), torch.autograd.grad(theirs(values), values))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_cluster_with_next_to_no_weight_has_its_mean_and_finite_second_derivatives(dtype):
    """Features far from all prototypes but one, as after a large step of training."""
    rows = torch.arange(3).repeat_interleave(2)
    features = torch.tensor([[1.0, 3.0], [2.0, 5.0], [4.0, 8.0]], dtype=dtype, requires_grad=True)
    for emptiness in (1.0, 30.0, 80.0, 88.0, 120.0, 1000.0):
        scores = torch.stack([features[:, 0], -emptiness + 0.1 * features[:, 1]], dim=1)
        weight = torch.softmax(scores, dim=1)
        soft = Assignment(rows, torch.arange(2).repeat(3), weight.flatten(), 3, 2)
        mean = soft.mean(features)
        (gradient,) = torch.autograd.grad(mean.square().sum(), features, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), features)
        assert all(torch.isfinite(values).all() for values in (mean, gradient, second))
        if weight.detach().double().min() > torch.finfo(dtype).tiny ** 0.4:
            exact = torch.softmax(scores.double(), dim=1)
            exact = (exact.T @ features.double()) / exact.sum(0)[:, None]
            torch.testing.assert_close(mean.double(), exact, rtol=20 * torch.finfo(dtype).eps, atol=0)


def test_a_table_is_made_where_it_is_not_sparse():
    assert EXAMPLES["most in one group"].matrix is not None
    assert EXAMPLES["too sparse for a table"].matrix is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_in_a_table_too_next_to_no_weight_has_finite_second_derivatives(dtype):
    nodes, clusters = Nodes.uniform(1, 3, torch.device("cpu")), Nodes.uniform(1, 2, torch.device("cpu"))
    rows = Assignment.soft(nodes, clusters, dtype)
    features = torch.randn(3, CHANNELS, dtype=dtype, generator=torch.Generator().manual_seed(1))
    for lowest in (-5.0, -40.0, -80.0, -200.0):
        scores = torch.tensor([[0.0, lowest], [0.0, lowest - 1], [0.0, lowest - 2]], dtype=dtype, requires_grad=True)
        mean = rows.weighted(scores).mean(features)
        (first,) = torch.autograd.grad(mean.square().sum(), scores, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), scores)
        assert torch.isfinite(first).all()
        assert torch.isfinite(second).all()


def test_broadcasting_a_constant_gives_the_constant(assignment):
    constant = torch.full((assignment.clusters, 1), 3.0, dtype=torch.float64)
    torch.testing.assert_close(assignment.broadcast(constant), torch.full((MEMBERS, 1), 3.0, dtype=torch.float64))


def test_broadcasting_onto_values_adds_to_them(assignment, values):
    received = torch.randn(assignment.clusters, CHANNELS, dtype=torch.float64)
    expected = values + dense(assignment) @ received
    torch.testing.assert_close(assignment.broadcast_onto(values, received), expected)


def test_the_label_is_the_cluster_of_largest_weight(assignment):
    assert torch.equal(assignment.labels, dense(assignment).argmax(1))


def test_of_equal_weights_the_first_cluster_is_the_label():
    tied = Assignment(torch.tensor([0, 0, 0, 1]), torch.tensor([2, 1, 0, 1]), torch.tensor([0.4, 0.4, 0.2, 1.0]), 2, 3)
    assert tied.labels.tolist() == [1, 1]


def parts():
    first, second = hard(1), soft(2)
    single = Assignment.hard(torch.zeros(1, dtype=torch.long), 1, torch.float64)
    return [first, single, second]


def test_split_undoes_join():
    whole = join(parts())
    assert (whole.members, whole.clusters) == (2 * MEMBERS + 1, 2 * CLUSTERS + 1)
    sizes = [torch.tensor([getattr(part, name) for part in parts()]) for name in ("members", "clusters")]
    for part, expected in zip(split(whole, *sizes), parts(), strict=True):
        assert (part.members, part.clusters) == (expected.members, expected.clusters)
        assert torch.equal(dense(part), dense(expected))


def test_joined_assignments_do_not_mix_molecules():
    matrix = dense(join(parts()))
    torch.testing.assert_close(matrix, torch.block_diag(*(dense(part) for part in parts())))


def test_padding_puts_each_group_side_by_side_even_where_groups_interleave():
    nodes = Nodes.grouped(torch.tensor([1, 0, 1, 2, 1]), 3)
    values = torch.arange(5.0)[:, None]
    padded = nodes.pad(values)[..., 0]
    assert padded.tolist() == [[1, 0, 0], [0, 2, 4], [3, 0, 0]]
    assert nodes.present.tolist() == [[True, False, False], [True, True, True], [True, False, False]]
    assert torch.equal(padded[nodes.group, nodes.rank], values[:, 0])
