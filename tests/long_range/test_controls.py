"""The control without exchange."""

import pytest
import torch
from ase.build import molecule

from mcgm import Batch
from mcgm.errors import ConfigError
from mcgm.long_range import AtomWise

CHANNELS = 8


def updates(block, scalars):
    """Of two water molecules, in both layers."""
    torch.manual_seed(0)
    module = block.build(CHANNELS, 2).double()
    batch = Batch.from_atoms([molecule("H2O")] * 2, cutoff=4.0, dtype=torch.float64)
    state = module.begin(batch, module.index(batch), clusters=None, generator=None)
    return [module.exchange(layer, scalars, state)[0] for layer in range(2)]


def test_it_adds_to_the_features_or_takes_their_place():
    scalars = torch.randn(6, CHANNELS, dtype=torch.float64)
    for new, replacing in zip(updates(AtomWise(), scalars), updates(AtomWise(update="replace"), scalars), strict=True):
        torch.testing.assert_close(scalars + replacing, new)


def test_an_atom_does_not_know_of_another_one():
    scalars = torch.randn(6, CHANNELS, dtype=torch.float64)
    changed = scalars.clone()
    changed[2] += 1.0
    for before, after in zip(updates(AtomWise(), scalars), updates(AtomWise(), changed), strict=True):
        same = (before == after).all(1)
        assert same.tolist() == [True, True, False, True, True, True]


def test_an_unknown_way_is_refused():
    with pytest.raises(ConfigError, match="update"):
        AtomWise(update="subtract")
