"""K-means++ against scikit-learn, and the independence of its result from order, batch mates and the other groups."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch.utils._python_dispatch import TorchDispatchMode

from mcgm.long_range.mcgm.assignment import Nodes
from mcgm.long_range.mcgm.chance import Chance
from mcgm.long_range.mcgm.kmeans import kmeans

ITERATIONS = 50


def by_number(seed, groups):
    """Chance by the number of a group."""
    return Chance(torch.Generator().manual_seed(seed), torch.arange(groups))


def cluster(groups, counts, seed=None, iterations=ITERATIONS):
    """Labels of each group of points."""
    members = Nodes.counted(torch.tensor([len(points) for points in groups]))
    chance = None if seed is None else by_number(seed, len(groups))
    label = kmeans(
        torch.cat(groups), members, Nodes.counted(torch.tensor(counts)), iterations=iterations, chance=chance
    )
    return label.split([len(points) for points in groups])


def inertia(points, label):
    """Sum of squared distances to the means of the clusters."""
    points = points.double()
    return sum(
        float((points[label == k] - points[label == k].mean(0)).square().sum()) for k in torch.unique(label).tolist()
    )


def partition(label, order=None):
    """Sets of points, whatever the clusters are called."""
    order = range(len(label)) if order is None else order.tolist()
    sets = {}
    for point, k in zip(order, label.tolist(), strict=True):
        sets.setdefault(k, set()).add(point)
    return {frozenset(points) for points in sets.values()}


def ragged(dtype, sizes=(5, 8, 17, 30, 44, 61, 80, 100), channels=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, channels, generator=generator, dtype=torch.float64).to(dtype) for size in sizes]


def blobs(counts=(2, 3, 5), size=12, seed=0):
    """Groups of points around centres 20 apart, with the centre of each point."""
    generator = torch.Generator().manual_seed(seed)
    groups, truth = [], []
    for count in counts:
        label = torch.randperm(count * size, generator=generator) % count
        centres = 20 * torch.eye(count, 6, dtype=torch.float64)
        groups.append(centres[label] + 0.3 * torch.randn(len(label), 6, generator=generator, dtype=torch.float64))
        truth.append(label)
    return groups, list(counts), truth


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reduction", [2, 5, 10])
@pytest.mark.parametrize("seed", [None, 0])
def test_the_inertia_is_at_most_two_percent_above_scikit_learns(dtype, reduction, seed):
    ours, theirs = 0.0, 0.0
    for trial in range(3):
        groups = ragged(dtype, seed=trial)
        counts = [max(1, len(points) // reduction) for points in groups]
        for points, count, label in zip(groups, counts, cluster(groups, counts, seed), strict=True):
            assert len(torch.unique(label)) == count
            ours += inertia(points, label)
            oracle = KMeans(count, n_init=1, random_state=trial).fit_predict(points.numpy())
            theirs += inertia(points, torch.from_numpy(oracle))
    assert ours <= 1.02 * theirs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_separate_blobs_are_found_as_scikit_learn_finds_them(dtype):
    groups, counts, truth = blobs()
    groups = [points.to(dtype) for points in groups]
    for points, count, label, true in zip(groups, counts, cluster(groups, counts), truth, strict=True):
        oracle = KMeans(count, n_init=5, random_state=0).fit_predict(points.numpy())
        assert partition(label) == partition(torch.from_numpy(oracle)) == partition(true)


def test_a_drawn_result_is_a_function_of_the_seed():
    groups = ragged(torch.float32)
    counts = [len(points) // 3 for points in groups]
    first, again, other = (torch.cat(cluster(groups, counts, seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_drawing_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    cluster(ragged(torch.float32), [3] * 8, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_second_seed_is_drawn_in_proportion_to_the_squared_distance():
    # Points at 0, 1 and 4, the first seed even among them. Only the seeds 0 and 1 put the point 4 to 1 before the first
    # step, and they are a pair only if both candidates for the second seed are the near point: 4 is always better.
    points = torch.tensor([[0.0], [1.0], [4.0]], dtype=torch.float64)
    near_of_0, near_of_1 = 1 / (1 + 16), 1 / (1 + 9)
    expected = (near_of_0**2 + near_of_1**2) / 3
    draws = 20000
    members, clusters = Nodes.counted(torch.full((draws,), 3)), Nodes.counted(torch.full((draws,), 2))
    label = kmeans(points.repeat(draws, 1), members, clusters, iterations=0, chance=by_number(0, draws))
    label = label.reshape(draws, 3)
    share = float((label[:, 1] == label[:, 2]).double().mean())
    assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / draws)
    assert (label[:, 0] != label[:, 2]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_labels_do_not_depend_on_the_order_of_the_points(dtype):
    groups = ragged(dtype)
    counts = [max(1, len(points) // 2) for points in groups]
    plain = cluster(groups, counts)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        orders = [torch.randperm(len(points), generator=generator) for points in groups]
        shuffled = cluster([points[order] for points, order in zip(groups, orders, strict=True)], counts)
        for label, other, order in zip(plain, shuffled, orders, strict=True):
            assert partition(label) == partition(other, order)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_labels_do_not_depend_on_the_other_groups(dtype):
    groups = ragged(dtype)
    counts = [max(1, len(points) // 2) for points in groups]
    together = cluster(groups, counts)
    for points, count, label in zip(groups, counts, together, strict=True):
        assert partition(cluster([points], [count])[0]) == partition(label)
    larger = cluster([*groups, 100 * torch.ones(150, 8, dtype=dtype).cumsum(0)], [*counts, 75])
    assert all(partition(a) == partition(b) for a, b in zip(together, larger, strict=False))


@pytest.mark.parametrize("seed", [None, 0])
def test_sizes_far_apart_are_clustered_as_each_alone(seed):
    groups = ragged(torch.float64, sizes=(3, 33, 200, 60, 90, 120, 2, 150))
    counts = [max(1, len(points) // 8) for points in groups]
    for number, label in enumerate(cluster(groups, counts, seed)):
        members = Nodes.counted(torch.tensor([len(groups[number])]))
        chance = None if seed is None else Chance(torch.Generator().manual_seed(seed), torch.tensor([number]))
        alone = kmeans(
            groups[number], members, Nodes.counted(torch.tensor([counts[number]])), iterations=ITERATIONS, chance=chance
        )
        assert torch.equal(alone, label)


def symmetric():
    """Points with many equal distances."""
    square = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=2)), dtype=torch.float64)
    cube = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)), dtype=torch.float64)
    line = torch.arange(6.0, dtype=torch.float64)[:, None]
    pairs = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    return {"square": square, "cube": cube, "line": line, "coincident pairs": pairs}


@pytest.mark.parametrize("name", symmetric())
@pytest.mark.parametrize("count", [2, 3, 4])
def test_ties_are_broken_by_the_features_and_not_by_the_order(name, count):
    points = symmetric()[name]
    label = cluster([points], [count])[0]
    for seed in range(8):
        order = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))
        assert partition(cluster([points[order]], [count])[0], order) == partition(label)


@pytest.mark.parametrize("seed", [None, 0])
def test_coincident_points_share_a_cluster(seed):
    points = torch.ones(7, 3)
    label = cluster([points, ragged(torch.float32)[0][:, :3]], [3, 2], seed)[0]
    assert len(torch.unique(label)) == 1


@pytest.mark.parametrize("seed", [None, 0])
def test_as_many_clusters_as_points_hold_one_point_each(seed):
    points = ragged(torch.float64)[2]
    assert len(torch.unique(cluster([points], [len(points)], seed)[0])) == len(points)


@pytest.mark.parametrize("seed", [None, 0])
def test_one_cluster_and_one_point_are_answered(seed):
    groups = [torch.randn(1, 4), torch.randn(6, 4), torch.randn(1, 4)]
    assert torch.cat(cluster(groups, [1, 1, 1], seed)).tolist() == [0] * 8
    labels = cluster(groups, [1, 3, 1], seed)
    assert labels[0].tolist() == labels[2].tolist() == [0]
    assert len(torch.unique(labels[1])) == 3


@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_a_common_shift_of_the_features_does_not_matter(shift):
    groups, counts, truth = blobs()
    labels = cluster([(points + shift).float() for points in groups], counts)
    assert all(partition(label) == partition(true) for label, true in zip(labels, truth, strict=True))


def test_more_steps_never_raise_the_inertia():
    points = ragged(torch.float64)[-1]
    values = [inertia(points, cluster([points], [12], iterations=steps)[0]) for steps in range(1, 12)]
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in itertools.pairwise(values))


class Counted(TorchDispatchMode):
    """Counts the tensor operations."""

    operations = 0

    def __torch_dispatch__(self, function, kinds, arguments=(), options=None):
        self.operations += 1
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("seed", [None, 0])
def test_the_number_of_operations_does_not_grow_with_groups_or_points(seed):
    def operations(copies, points_per_group):
        points = torch.arange(float(points_per_group), dtype=torch.float64)[:, None].repeat(copies, 2) ** 2
        members = Nodes.counted(torch.full((copies,), points_per_group))
        clusters = Nodes.counted(torch.full((copies,), 3))
        chance = None if seed is None else by_number(seed, copies)
        with Counted() as counted:
            kmeans(points, members, clusters, iterations=1, chance=chance)
        return counted.operations

    counts = [operations(copies, points) for copies, points in ((2, 10), (40, 10), (2, 40), (40, 160))]
    assert max(counts) < 1.15 * min(counts)
