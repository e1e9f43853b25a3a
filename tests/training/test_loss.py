"""Loss and metrics against what they are defined to be."""

import dataclasses

import numpy as np
import pytest
import torch

from mcgm import build
from mcgm.errors import DataError
from mcgm.structure import Structure
from mcgm.training.batches import Collate
from mcgm.training.config import LossConfig
from mcgm.training.loss import elementwise, loss_terms
from mcgm.training.metrics import ErrorSums


def structures(seed=0, forces=(True, False, True)):
    generator = np.random.default_rng(seed)
    made = []
    for size, known in zip((2, 3, 4), forces, strict=True):
        positions = 1.5 * np.arange(size)[:, None] * np.ones(3)
        labels = {"forces": generator.normal(size=(size, 3)) if known else None, "energy": float(generator.normal())}
        made.append(Structure(np.ones(size), positions, name=f"s{size}", **labels))
    return made


@pytest.fixture(scope="module")
def collate():
    options = {"channels": 8, "filters": 8, "radial": 8, "layers": 1}
    return Collate(build(backbone="schnet", long_range="none", cutoff=3.0, backbone_options=options), torch.float32)


def predicted(data, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(data), generator=generator), torch.randn(len(data.forces), 3, generator=generator)


@pytest.mark.parametrize("kind", ["l1", "l2", "huber"])
@pytest.mark.parametrize("per", ["molecule", "atom"])
def test_loss_is_the_weighted_sum_of_mean_energy_and_force_losses(collate, kind, per):
    data = collate(structures())
    energy, forces = predicted(data)
    config = LossConfig(kind=kind, energy_weight=0.3, force_weight=7.0, energy_per=per)
    error = energy.double() - data.energy
    error = error / data.sizes if per == "atom" else error
    known = torch.tensor([True] * 2 + [False] * 3 + [True] * 4)
    difference = (forces.double() - data.forces)[known]
    function = {
        "l1": torch.nn.functional.l1_loss,
        "l2": torch.nn.functional.mse_loss,
        "huber": lambda a, b: torch.nn.functional.smooth_l1_loss(a, b, beta=config.huber_delta),
    }[kind]
    zero = torch.zeros_like
    expected = 0.3 * function(error, zero(error)) + 7.0 * function(difference, zero(difference))
    torch.testing.assert_close(loss_terms(energy, forces, data, config).mean(config), expected)


def test_huber_is_smooth_where_its_pieces_meet():
    config = LossConfig(kind="huber", huber_delta=0.5)
    error = torch.tensor([0.5 - 1e-9, 0.5 + 1e-9], dtype=torch.float64, requires_grad=True)
    value = elementwise(error, config)
    (slope,) = torch.autograd.grad(value.sum(), error)
    torch.testing.assert_close(value[0], value[1])
    torch.testing.assert_close(slope, torch.ones_like(slope))


def test_shares_of_a_batch_add_up_to_the_whole(collate):
    config = LossConfig()
    every = structures()
    whole = collate(every)
    energy, forces = predicted(whole)
    total = loss_terms(energy, forces, whole, config)
    parts = [
        loss_terms(energy[:1], forces[:2], collate(every[:1]), config),
        loss_terms(energy[1:], forces[2:], collate(every[1:]), config),
    ]
    counts = parts[0].counts + parts[1].counts
    torch.testing.assert_close(counts, total.counts)
    torch.testing.assert_close(sum(part.mean(config, counts) for part in parts), total.mean(config))


def test_loss_without_forces_has_no_force_term(collate):
    data = collate(structures(forces=(False, False, False)))
    energy, forces = predicted(data)
    config = LossConfig()
    torch.testing.assert_close(
        loss_terms(energy, forces, data, config).mean(config), (energy - data.energy).abs().mean()
    )


def test_errors_do_not_depend_on_batches(collate):
    every = structures()
    whole, once, pieces = collate(every), ErrorSums(), ErrorSums()
    energy, forces = predicted(whole)
    once.add(energy, forces, whole)
    for k, rows in enumerate((slice(0, 2), slice(2, 5), slice(5, 9))):
        pieces.add(energy[k : k + 1], forces[rows], collate(every[k : k + 1]))
    found, expected = dataclasses.asdict(pieces.metrics()), dataclasses.asdict(once.metrics())
    assert found.pop("charge_mae_me") is expected.pop("charge_mae_me") is None
    assert found.pop("dipole_mae_meA") is expected.pop("dipole_mae_meA") is None
    assert found.pop("stress_mae_mev_per_A3") is expected.pop("stress_mae_mev_per_A3") is None
    assert found == pytest.approx(expected, rel=1e-12)
    error = (energy.double() - whole.energy).abs()
    assert found["energy_mae_mev"] == pytest.approx(1000 * float(error.mean()))
    assert found["energy_mae_mev_per_atom"] == pytest.approx(1000 * float((error / whole.sizes).mean()))


def test_structure_without_energy_is_an_error_that_names_it(collate):
    lacking = [*structures()[:1], Structure(np.ones(1), np.zeros((1, 3)), name="bare")]
    with pytest.raises(DataError, match="'bare' has no energy"):
        collate(lacking)
