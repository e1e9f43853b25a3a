"""Flips of hard clusters: counted where they are, and only they make the energy step."""

import dataclasses

import numpy as np
import pytest
import torch

from mcgm import build
from mcgm.data import Dataset
from mcgm.long_range import MCGM
from mcgm.long_range.mcgm.assignment import Assignment, Nodes
from mcgm.long_range.mcgm.clusterers import KMeansPlusPlus
from mcgm.testing import flip_scan, path_scan, zoo
from mcgm.testing.flips import _company, _relative_margin, cluster_margin

OVER_ATOMS = MCGM(levels=1, clusterers=(KMeansPlusPlus(2.0),), energy_per="cluster")
TWICE_OVER_ATOMS = MCGM(levels=2, clusterers=(KMeansPlusPlus(4.0), KMeansPlusPlus(2.0)), energy_per="cluster")
DIPEPTIDE = zoo()["alanine dipeptide"]


def make_potential(long_range, **options):
    torch.manual_seed(0)
    return build(long_range=long_range, cutoff=4.0, backbone_options={"layers": 2}, **options).double().eval()


@pytest.mark.parametrize("long_range", [OVER_ATOMS, TWICE_OVER_ATOMS], ids=["one level", "two levels"])
@pytest.mark.parametrize("structure", [DIPEPTIDE, Dataset.open("sample")[0]], ids=["dipeptide", "of the sample"])
def test_kmeans_over_atoms_flips_and_every_energy_step_is_at_a_flip(long_range, structure):
    scan = flip_scan(make_potential(long_range), structure, steps=100, step=1e-2)
    assert scan.flips_per_angstrom > 0
    assert scan.largest_step >= scan.mean_step > 1e-4
    assert scan.largest_elsewhere < 1e-3 * scan.largest_step
    assert 0 <= scan.smallest_margin < scan.margin < 1


@pytest.mark.parametrize("structure", [DIPEPTIDE, Dataset.open("sample")[0]], ids=["dipeptide", "of the sample"])
def test_the_papers_hierarchy_over_elements_does_not_flip_here_and_has_a_margin(structure):
    scan = flip_scan(make_potential("mcgm_paper"), structure, steps=60, step=1e-2)
    assert scan.flips_per_angstrom == scan.largest_step == 0
    assert 0.05 < scan.smallest_margin <= scan.margin < 1


@pytest.mark.parametrize("long_range", ["none", "mcgm"])
def test_without_hard_clusters_nothing_flips(long_range):
    scan = flip_scan(make_potential(long_range), DIPEPTIDE, steps=20, step=1e-2)
    assert scan.flips_per_angstrom == 0
    assert scan.margin == scan.smallest_margin == 1


def test_residuals_are_those_of_the_path_scan_and_leave_no_trace():
    potential, options = make_potential(OVER_ATOMS), {"steps": 40, "step": 2e-2, "seed": 3}
    scan = flip_scan(potential, DIPEPTIDE, **options)
    np.testing.assert_allclose(scan.residual, path_scan(potential, DIPEPTIDE, **options).residual, rtol=0, atol=1e-10)
    assert not any(module._forward_hooks for module in potential.modules())


def hard(*labels):
    return [Assignment.hard(torch.tensor(label), max(label) + 1, torch.float64) for label in labels]


def test_other_numbers_for_the_same_clusters_are_no_flip_and_a_node_that_moves_is_one():
    together = _company(hard([0, 1, 1, 2], [0, 1, 0]))
    assert _company(hard([2, 0, 0, 1], [1, 0, 0])) == together
    assert _company(hard([0, 1, 1, 2], [0, 0, 1])) != together
    assert _company(hard([0, 1, 1, 1], [0, 1])) != together


def test_the_margin_does_not_depend_on_the_order_of_atoms():
    potential = make_potential(TWICE_OVER_ATOMS)
    order = np.random.default_rng(0).permutation(len(DIPEPTIDE))
    shuffled = DIPEPTIDE.replace(numbers=DIPEPTIDE.numbers[order], positions=DIPEPTIDE.positions[order])
    assert cluster_margin(potential, shuffled) == pytest.approx(cluster_margin(potential, DIPEPTIDE), abs=1e-9)


def test_the_margin_falls_to_zero_half_way_between_two_centroids_and_is_one_without_a_second():
    features = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    members = Nodes.counted(torch.tensor([3]))
    for place in (1.0, 1.5, 2.0):
        features[1] = place
        found = _relative_margin(features, members, Nodes.counted(torch.tensor([2])), *hard([0, 0, 1]))
        # the pair's centroid is half way between its two
        assert float(found.min()) == pytest.approx(max(0.0, 1 - (place / 2) / (3 - place)), abs=1e-12)
    alone = _relative_margin(features, members, Nodes.counted(torch.tensor([1])), *hard([0, 0, 0]))
    assert alone.tolist() == [1, 1, 1]


def test_a_scan_prints_as_one_line_and_cannot_be_changed():
    scan = flip_scan(make_potential(OVER_ATOMS), DIPEPTIDE, steps=5, step=1e-2)
    assert "\n" not in str(scan)
    assert all(word in str(scan) for word in ("flips/Å", "meV mean", "meV largest", "margin"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        scan.length = 2.0
