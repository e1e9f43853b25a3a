"""The physics suite over backbones, long-range blocks and precisions, on fresh and on briefly trained weights.

Tiny networks, few structures, few transformations: `mcgm check` runs the whole table on a model of any size.
"""

import os
from functools import cache

import pytest
import torch

from mcgm import build
from mcgm.backbones import BACKBONES
from mcgm.checkpoint import load
from mcgm.data import Dataset, fit_references
from mcgm.testing import DOUBLE, InvarianceSuite, PhysicsSuite, cutoff_step, train_briefly, unlike_apart, zoo
from mcgm.testing.predict import energies, predict

ON_EDGES = {"channels": 8, "message_channels": 8, "triplet_channels": 4, "basis_channels": 3, "radial": 4, "degrees": 3}
WIDTHS = {
    "schnet": {"channels": 16, "radial": 12},
    "painn": {"channels": 16, "radial": 12},
    "visnet": {"channels": 8, "heads": 2, "radial": 8, "degree": 2},
    "dimenet++": ON_EDGES,
    "gemnet-t": ON_EDGES | {"bilinear_channels": 4},
}
BLOCKS = ("none", "mcgm", "mcgm_paper")
CHOICES = [(backbone, block) for backbone in WIDTHS for block in BLOCKS]
CONTROLS = [("schnet", "global_mean"), ("painn", "element_mean"), ("schnet", "atom_wise"), ("painn", "mcgm_mixing")]
COSTLY = ("visnet", "dimenet++", "gemnet-t")
ORDINARY_FORCE = 2.0
"""eV/Å; for forces of this size the limits are meant."""


def make_untrained(backbone, block, references=None):
    torch.manual_seed(7)
    options = {"backbone_options": WIDTHS[backbone] | {"layers": 2}, "cutoff": 5.0, "references": references}
    return build(backbone=backbone, long_range=block, **options).eval()


@cache
def make_fresh(backbone, block, dtype):
    potential = make_untrained(backbone, block)
    # fresh weights leave biases and some outputs at zero, where a defect could hide
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        # such weights have no unit: limits would measure float32 at 80 eV/Å, and nothing at all at 0.01
        (labelled,) = predict(potential, [zoo()["alanine dipeptide"]])
        potential.scale.mul_(ORDINARY_FORCE / abs(labelled.forces).max())
    return potential.to(dtype)


@cache
def make_trained(backbone, block, dtype, folder):
    """Trained once per test run, by the worker that needs it first; the same weights in both precisions."""
    path = folder / f"{backbone}-{block}.safetensors"
    if not path.exists():
        dataset = Dataset.open("sample")[::50]
        potential = make_untrained(backbone, block, fit_references(dataset))
        train_briefly(potential, dataset, steps=30, batch=1).save(path)
    return load(path).to(dtype).eval()


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Shared by the workers of one test run, and by no other run."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    return (
        tmp_path_factory.mktemp("trained") if run is None else tmp_path_factory.getbasetemp().parent / f"trained-{run}"
    )


class Fresh:
    """Perturbed initial weights."""

    count = 3

    @pytest.fixture(autouse=True, params=CHOICES + CONTROLS, ids="-".join)
    def choose(self, request):
        self.chosen = make_fresh(*request.param, self.dtype)
        self.is_costly = request.param[0] in COSTLY

    def potential(self):
        return self.chosen

    def structures(self):
        names = ("HCN", "CH4", "NaCl cell") if self.is_costly else ("HCN", "CH4", "alanine dipeptide", "NaCl cell")
        return [zoo()[name] for name in names]


class Trained:
    """30 steps on energies and forces of the sample."""

    count = 2

    @pytest.fixture(autouse=True, params=CHOICES, ids="-".join)
    def choose(self, request, folder):
        self.chosen = make_trained(*request.param, self.dtype, folder)

    def potential(self):
        return self.chosen

    def structures(self):
        return [zoo()[name] for name in ("HCN", "benzene", "NaCl cell")]

    def small(self):
        return zoo()["CH4"]

    # numerical in all coordinates; on these weights the check of the Hessian along one direction says the same
    test_gradgradcheck_accepts_positions_and_cell = None


class TestFreshInDouble(Fresh, PhysicsSuite):
    dtype = torch.float64


class TestFreshInSingle(Fresh, InvarianceSuite):
    dtype = torch.float32


class TestTrainedInDouble(Trained, PhysicsSuite):
    dtype = torch.float64


class TestTrainedInSingle(Trained, InvarianceSuite):
    dtype = torch.float32


def test_every_backbone_is_tested_here():
    assert set(WIDTHS) == set(BACKBONES)


@pytest.mark.parametrize("backbone", WIDTHS)
@pytest.mark.parametrize("block", [*BLOCKS, "global_mean", "element_mean"])
def test_the_long_range_block_changes_the_energy(backbone, block):
    structure = zoo()["alanine dipeptide"]
    with_block = energies(make_fresh(backbone, block, torch.float64), [structure])[0]
    without = energies(make_fresh(backbone, "none", torch.float64), [structure])[0]
    assert (abs(with_block - without) > 1e-3) == (block != "none")


@pytest.mark.parametrize("backbone", WIDTHS)
def test_a_brief_training_lowers_the_errors(backbone, folder):
    """Otherwise the trained weights are no other subject than the fresh ones."""
    dataset = Dataset.open("sample")[::50]
    before = make_untrained(backbone, "mcgm_paper", fit_references(dataset)).double()
    after = make_trained(backbone, "mcgm_paper", torch.float64, folder)
    errors = [weighted_error(potential, list(dataset[:10])) for potential in (before, after)]
    assert errors[1] < 0.8 * errors[0]


def weighted_error(potential, structures):
    """As in training: eV, and ten times eV/Å."""
    pairs = list(zip(predict(potential, structures), structures, strict=True))
    force = sum(abs(found.forces - given.forces).mean() for found, given in pairs)
    return sum(abs(found.energy - given.energy) for found, given in pairs) + 10 * force


def test_the_published_cosine_cutoff_steps_in_the_slope_of_the_force_and_the_polynomial_does_not():
    steps = {}
    for envelope in ("cosine", "polynomial"):
        torch.manual_seed(0)
        steps[envelope] = cutoff_step(build(long_range="none", backbone_options={"envelope": envelope}).eval())
    assert steps["cosine"].slope > 1e-6
    assert steps["polynomial"].largest < DOUBLE.cutoff


@pytest.mark.parametrize("backbone", WIDTHS)
def test_a_hierarchy_per_molecule_does_not_feel_a_far_unlike_molecule(backbone):
    torch.manual_seed(0)
    options = {"backbone": backbone, "long_range": "mcgm", "cutoff": 5.0}
    animals = zoo()
    pair = animals["caffeine"], animals["CH4"]
    by_molecule = build(**options, long_range_options={"scope": "molecule"}).double().eval()
    assert unlike_apart(by_molecule, *pair) < 1e-11
    assert unlike_apart(build(**options).double().eval(), *pair) > 1e-6
