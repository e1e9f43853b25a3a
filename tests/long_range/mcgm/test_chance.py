"""What is drawn for a structure is its own: not its batch mates', not that of the parts it is computed in."""

import numpy as np
import pytest
import torch

from mcgm import Batch, build
from mcgm.long_range.mcgm.chance import Chance, Draws
from mcgm.structure import Structure

CUTOFF = 3.0


def structures(count=6):
    generator = np.random.default_rng(0)
    made = []
    for k in range(count):
        size = 6 + 3 * k
        positions = 1.4 * np.arange(size)[:, None] * np.array([1.0, 0, 0]) + generator.normal(scale=0.2, size=(size, 3))
        made.append(Structure(generator.choice([1, 6, 7, 8, 9, 15, 16, 17], size=size), positions, name=f"s{k}"))
    return made


def energies(potential, chosen, seed):
    batch = Batch.from_structures(chosen, cutoff=CUTOFF, dtype=torch.float64)
    return potential(batch, forces=False, generator=torch.Generator().manual_seed(seed)).energy


@pytest.mark.parametrize("block", ["mcgm_paper", "mcgm_random"])
def test_structure_draws_the_same_in_any_batch(block):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        potential = build(backbone="schnet", long_range=block, cutoff=CUTOFF).double().eval()
    every = structures()
    with torch.no_grad():
        whole = energies(potential, every, seed=1)
        alone = torch.cat([energies(potential, [one], seed=1) for one in every])
        shuffled = energies(potential, every[::-1], seed=1).flip(0)
        other = energies(potential, every, seed=2)
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-9)
    torch.testing.assert_close(shuffled, whole, rtol=0, atol=1e-9)
    assert (other - whole).abs().max() > 1e-6


def test_structures_with_different_atoms_draw_independently():
    key = Chance.of(
        torch.Generator().manual_seed(0),
        batch := Batch.from_structures(structures(40), cutoff=CUTOFF),
        batch.molecule,
        batch.n_molecules,
    ).key
    assert len(torch.unique(key)) == 40


def test_draws_are_uniform_and_independent_of_places_and_groups():
    draws = Draws(torch.arange(400))
    values = draws.uniform(torch.arange(500))
    assert float(values.min()) >= 0
    assert float(values.max()) < 1
    share = torch.histc(values, bins=20, min=0, max=1) / values.numel()
    assert (share - 1 / 20).abs().max() < 5 * (0.05 * 0.95 / values.numel()) ** 0.5
    centred = values - 0.5
    for neighbour in (centred.roll(1, 0), centred.roll(1, 1)):
        assert abs(float((centred * neighbour).mean())) * 12 < 5 / values.numel() ** 0.5


def test_a_call_takes_one_number_whatever_is_drawn():
    used = []
    for groups in (1, 50):
        generator = torch.Generator().manual_seed(0)
        Chance(generator, torch.arange(groups)).draws().uniform(torch.arange(7))
        used.append(torch.rand(1, generator=generator))
    assert torch.equal(*used)
