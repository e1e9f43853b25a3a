"""The options of MCGM."""

import dataclasses

import pytest

from mcgm.errors import ConfigError
from mcgm.long_range import BLOCKS, MCGM
from mcgm.long_range.mcgm.clusterers import ByElement, KMeansPlusPlus, Prototypes, Random
from mcgm.registry import build, describe_block, restore_block


def test_the_smooth_preset_is_the_default_and_halves_the_prototypes_at_each_level():
    rules = (ByElement(), Prototypes(4), Prototypes(2), Prototypes(1), Prototypes(1))
    assert MCGM(levels=5) == MCGM.smooth(levels=5)
    assert MCGM(levels=5).rules == rules
    assert BLOCKS["mcgm"]() == MCGM()
    assert MCGM().is_smooth
    assert MCGM().energy_per == "atom"


def test_the_paper_preset_is_kmeans_above_the_elements_with_each_cluster_once():
    block = MCGM.paper(levels=3, reduction=4)
    assert block.rules == (ByElement(), KMeansPlusPlus(4), KMeansPlusPlus(4))
    assert block.energy_per == "cluster"
    assert not block.is_smooth


def test_the_mixing_preset_differs_from_the_smooth_one_in_ways_up_and_down_alone():
    mixing = MCGM.mixing(levels=2)
    assert mixing.is_smooth
    plain = dataclasses.replace(mixing, aggregation="mean", dissemination="broadcast", update="add")
    assert plain == MCGM.smooth(levels=2)
    added = MCGM.mixing(dissemination="mixing", update="add")
    assert added == MCGM.smooth(aggregation="attention", dissemination="mixing")


def test_the_random_preset_differs_from_the_paper_in_the_rules_alone():
    block = MCGM.random(levels=3, reduction=3)
    assert block.rules == (ByElement(), Random(3), Random(3))
    assert block.energy_per == "cluster"


def test_kmeans_over_atoms_has_as_many_first_clusters_as_elements_or_a_share_of_the_atoms():
    block = MCGM.kmeans(levels=2, reduction=3)
    assert block.rules == (KMeansPlusPlus(3, sizes="kinds"), KMeansPlusPlus(3))
    assert MCGM.kmeans(levels=1, first="reduction", recluster="epoch").rules == (KMeansPlusPlus(2.0),)
    assert restore_block(describe_block(block)) == block


def test_one_level_is_elements_alone_in_every_preset():
    for preset in (MCGM.smooth, MCGM.paper, MCGM.random):
        assert preset(levels=1).rules == (ByElement(),)
        assert preset(levels=1).is_smooth


@pytest.mark.parametrize(
    "options",
    [
        {"levels": 0},
        {"levels": 2.5},
        {"reduction": 1},
        {"reduction": "2"},
        {"activation": "relu"},
        {"recluster": "never"},
        {"scope": "crystal"},
        {"energy_per": "bond"},
        {"update": "none"},
        {"update": "replace"},
        {"clusterers": (ByElement(),)},
        {"clusterers": ("by_element", "random", "random")},
    ],
    ids=str,
)
def test_a_wrong_option_is_an_error_that_names_its_key(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        MCGM(**options)


def test_a_near_miss_is_told():
    with pytest.raises(ConfigError, match="Did you mean 'molecule'"):
        MCGM(scope="molecules")


@pytest.mark.parametrize("name", BLOCKS)
def test_an_unknown_option_of_a_block_names_the_nearest(name):
    with pytest.raises(ConfigError, match="unknown option 'level'"):
        build(long_range=name, long_range_options={"level": 2})


@pytest.mark.parametrize(
    "block",
    [MCGM.smooth(scope="molecule"), MCGM.paper(levels=2, recluster="epoch"), MCGM.random(reduction=2.5)]
    + [BLOCKS[name]() for name in BLOCKS],
    ids=str,
)
def test_a_block_is_described_by_plain_values_and_restored(block):
    assert restore_block(describe_block(block)) == block
