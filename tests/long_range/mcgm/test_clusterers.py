"""How many clusters there are, who is in them, and which options are refused."""

import math
from fractions import Fraction

import pytest
import torch

from mcgm.errors import ConfigError
from mcgm.long_range.mcgm.assignment import Nodes
from mcgm.long_range.mcgm.chance import Chance
from mcgm.long_range.mcgm.clusterers import ByElement, Everything, KMeansPlusPlus, Prototypes, Random, reduced

COUNTS = torch.tensor([1, 2, 3, 7, 12, 30])


def features(nodes, channels=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(nodes.total, channels, dtype=torch.float64, generator=generator)


def assign(rule, nodes, generator=None, values=None, module=None):
    clusters = rule.layout(nodes)
    values = features(nodes) if values is None else values
    chance = None if generator is None else Chance(generator, torch.arange(nodes.groups))
    known = rule.known(nodes, clusters, values.dtype)
    module = rule.build(values.shape[1]).to(values.dtype) if module is None else module
    return module(values, nodes, clusters, known, chance), clusters


@pytest.mark.parametrize("reduction", ["1.1", "1.2", "1.5", "2", "2.5", "3", "3.3", "10"])
def test_there_are_as_many_clusters_as_nodes_over_the_reduction_rounded_down_but_at_least_one(reduction):
    sizes = torch.arange(1, 400)
    expected = [max(1, math.floor(n / Fraction(reduction))) for n in sizes.tolist()]
    assert reduced(Nodes.counted(sizes), float(reduction)).count.tolist() == expected


@pytest.mark.parametrize(
    "rule",
    [KMeansPlusPlus(), KMeansPlusPlus(3.0), KMeansPlusPlus(sizes="kinds"), Random(), Prototypes(3), Everything()],
)
@pytest.mark.parametrize("seed", [None, 0])
def test_clusters_never_span_groups_and_weights_of_a_member_sum_to_one(rule, seed):
    group = torch.repeat_interleave(torch.arange(len(COUNTS)), COUNTS)
    group = group[torch.randperm(len(group), generator=torch.Generator().manual_seed(5))]  # groups interleave
    nodes = Nodes.grouped(group, len(COUNTS))
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    assignment, clusters = assign(rule, nodes, generator)
    assert torch.equal(clusters.group[assignment.cluster], nodes.group[assignment.member])
    total = torch.zeros(nodes.total, dtype=torch.float64).index_add(0, assignment.member, assignment.weight)
    torch.testing.assert_close(total, torch.ones_like(total))
    assert (assignment.members, assignment.clusters) == (nodes.total, clusters.total)


def test_element_clusters_are_the_elements_of_each_group():
    kind = torch.tensor([8, 1, 1, 6, 1, 92, 6])
    nodes = Nodes.grouped(torch.tensor([0, 0, 0, 1, 1, 1, 1]), 2, kind)
    assignment, clusters = assign(ByElement(), nodes)
    assert list(zip(clusters.group.tolist(), clusters.kind.tolist(), strict=True)) == [
        (0, 1),
        (0, 8),
        (1, 1),
        (1, 6),
        (1, 92),
    ]
    assert torch.equal(clusters.kind[assignment.labels], kind)


def test_kmeans_by_kinds_makes_as_many_clusters_of_a_group_as_it_has_kinds_without_looking_at_them():
    kind = torch.tensor([8, 1, 1, 6, 1, 92, 6])
    nodes = Nodes.grouped(torch.tensor([0, 0, 0, 1, 1, 1, 1]), 2, kind)
    values = torch.tensor([0.0, 0.1, 5.0, 0.0, 5.0, 5.1, 9.0])[:, None]
    assignment, clusters = assign(KMeansPlusPlus(sizes="kinds"), nodes, values=values)
    assert clusters.count.tolist() == [2, 3]
    label = assignment.labels.tolist()
    assert label[0] == label[1] != label[2]
    assert label[4] == label[5]
    assert len(set(label)) == 5


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_random_clusters_differ_in_size_by_one_at_most_and_none_is_empty(seed):
    nodes = Nodes.counted(COUNTS)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    assignment, clusters = assign(Random(2.5), nodes, generator)
    sizes = torch.bincount(assignment.labels, minlength=clusters.total)
    for group in range(nodes.groups):
        own = sizes[clusters.group == group]
        assert own.min() >= 1
        assert own.max() - own.min() <= 1


def test_random_clusters_follow_the_generator_alone():
    nodes = Nodes.counted(torch.tensor([40, 30]))

    def labels(seed, values):
        return assign(Random(), nodes, torch.Generator().manual_seed(seed), values)[0].labels

    one, other = features(nodes), features(nodes, seed=1)
    assert torch.equal(labels(0, one), labels(0, other))
    assert not torch.equal(labels(0, one), labels(1, one))


def test_random_clusters_without_a_generator_are_those_of_the_group_alone():
    nodes = Nodes.counted(COUNTS)
    together, clusters = assign(Random(), nodes)
    for group, count in enumerate(COUNTS):
        alone, _ = assign(Random(), Nodes.counted(count[None]))
        assert torch.equal(together.labels[nodes.group == group] - clusters.start[group], alone.labels)


def test_random_clusters_without_a_generator_are_not_in_the_order_of_the_nodes():
    labels = assign(Random(), Nodes.counted(torch.tensor([40])))[0].labels
    assert not torch.equal(labels, torch.arange(40) % 20)


def test_prototypes_are_reached_by_gradients_once_and_twice():
    nodes = Nodes.counted(torch.tensor([3, 1, 4]))
    rule = Prototypes(3, temperature=0.7)
    clusters = rule.layout(nodes)
    known = rule.known(nodes, clusters, torch.float64)
    module = rule.build(4).double()

    def update(values, prototypes):
        output = torch.func.functional_call(module, {"prototypes": prototypes}, (values, nodes, clusters, known, None))
        return output.broadcast(output.mean(values) ** 2)

    inputs = features(nodes, 4).requires_grad_(), module.prototypes.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(update, inputs)
    assert torch.autograd.gradgradcheck(update, inputs)
    assert torch.autograd.grad(update(*inputs).sum(), inputs[1])[0].abs().min() > 0


def test_prototype_weights_are_the_softmax_of_scaled_products():
    nodes = Nodes.counted(torch.tensor([5]))
    rule = Prototypes(3, temperature=0.5)
    module = rule.build(6).double()
    values = features(nodes)
    weight = assign(rule, nodes, values=values, module=module)[0].weight.reshape(5, 3)
    expected = torch.softmax(values @ module.prototypes.T / (0.5 * math.sqrt(6)), 1)
    torch.testing.assert_close(weight, expected)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: KMeansPlusPlus(1.0), "reduction"),
        (lambda: KMeansPlusPlus(float("nan")), "reduction"),
        (lambda: KMeansPlusPlus(iterations=0), "iterations"),
        (lambda: Random(0.5), "reduction"),
        (lambda: Prototypes(0), "count"),
        (lambda: Prototypes(temperature=0.0), "temperature"),
    ],
)
def test_impossible_options_are_refused_by_name(make, key):
    with pytest.raises(ConfigError, match=f"^{key} is "):
        make()
