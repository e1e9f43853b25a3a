"""The physics suite over backbones, long-range blocks and precisions, on weights that make every block speak."""

from functools import cache

import pytest
import torch

from mcgm import build
from mcgm.testing import DOUBLE, InvarianceSuite, PhysicsSuite, cutoff_step, unlike_apart, zoo
from mcgm.testing.predict import energies

BACKBONES = ("schnet", "painn")
BLOCKS = ("none", "global_mean", "element_mean", "mcgm", "mcgm_paper")


@cache
def make_potential(backbone, block, dtype):
    torch.manual_seed(7)
    potential = build(
        backbone=backbone, long_range=block, cutoff=5.0, backbone_options={"channels": 16, "radial": 12, "layers": 2}
    )
    # fresh weights leave biases and some outputs at zero, where a defect could hide
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return potential.to(dtype).eval()


CHOICES = [(backbone, block) for backbone in BACKBONES for block in BLOCKS]


class TestInDouble(PhysicsSuite):
    count = 3

    @pytest.fixture(autouse=True, params=CHOICES, ids="-".join)
    def chosen(self, request):
        self.choice = (*request.param, torch.float64)

    def potential(self):
        return make_potential(*self.choice)


class TestInSingle(InvarianceSuite):
    count = 3

    @pytest.fixture(autouse=True, params=CHOICES, ids="-".join)
    def chosen(self, request):
        self.choice = (*request.param, torch.float32)

    def potential(self):
        return make_potential(*self.choice)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("block", BLOCKS)
def test_the_long_range_block_changes_the_energy(backbone, block):
    structure = zoo()["alanine dipeptide"]
    with_block = energies(make_potential(backbone, block, torch.float64), [structure])[0]
    without = energies(make_potential(backbone, "none", torch.float64), [structure])[0]
    assert (abs(with_block - without) > 1e-3) == (block != "none")


def test_the_published_cosine_cutoff_steps_in_the_slope_of_the_force_and_the_polynomial_does_not():
    steps = {}
    for envelope in ("cosine", "polynomial"):
        torch.manual_seed(0)
        steps[envelope] = cutoff_step(build(long_range="none", backbone_options={"envelope": envelope}).eval())
    assert steps["cosine"].slope > 1e-6
    assert steps["polynomial"].largest < DOUBLE.cutoff


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_hierarchy_per_molecule_does_not_feel_a_far_unlike_molecule(backbone):
    torch.manual_seed(0)
    options = {"backbone": backbone, "long_range": "mcgm", "cutoff": 5.0}
    animals = zoo()
    pair = animals["caffeine"], animals["CH4"]
    by_molecule = build(**options, long_range_options={"scope": "molecule"}).double().eval()
    assert unlike_apart(by_molecule, *pair) < 1e-11
    assert unlike_apart(build(**options).double().eval(), *pair) > 1e-3
