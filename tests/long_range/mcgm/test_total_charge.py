"""Charge and spin of a structure reach its topmost clusters."""

import pytest
import torch
from ase.build import molecule

from mcgm import Batch, build
from mcgm.errors import ConfigError
from mcgm.long_range import MCGM


def make_potential(**options):
    torch.manual_seed(2)
    backbone_options = {"channels": 12, "filters": 12, "radial": 8, "layers": 2}
    potential = build(cutoff=4.0, backbone_options=backbone_options, long_range=MCGM(**options)).double().eval()
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return potential


def energies(potential, *ions):
    """Of ethanol with each charge and spin."""
    frames = []
    for charge, spin in ions:
        atoms = molecule("CH3CH2OH")
        atoms.info |= {"charge": charge, "spin": spin}
        frames.append(atoms)
    return potential(Batch.from_atoms(frames, cutoff=4.0, dtype=torch.float64)).energy


def test_charge_and_spin_change_the_energy():
    neutral, cation, anion, radical = energies(make_potential(), (0, 0), (1, 0), (-1, 0), (0, 1)).tolist()
    assert len({round(value, 5) for value in (neutral, cation, anion, radical)}) == 4


def test_neutral_closed_shells_are_as_if_charge_were_ignored():
    embedded, ignored = make_potential(), make_potential(total_charge="ignored")
    ignored.load_state_dict({k: v for k, v in embedded.state_dict().items() if "total_charge" not in k})
    assert torch.equal(energies(embedded, (0, 0)), energies(ignored, (0, 0)))
    assert torch.equal(energies(ignored, (0, 0)), energies(ignored, (1, 1)))


def test_copies_of_an_ion_have_its_energy_each():
    potential = make_potential()
    ion = molecule("CH3CH2OH")
    pair = ion.copy()
    pair.translate([60.0, 0, 0])
    pair += ion
    pair.info["charge"] = -2.0
    ion.info["charge"] = -1.0
    single, double = potential(Batch.from_atoms([ion, pair], cutoff=4.0, dtype=torch.float64)).energy
    assert float(double - 2 * single) == pytest.approx(0, abs=1e-10)


def test_the_published_mode_ignores_the_charge_and_molecules_within_a_structure_have_none():
    assert MCGM.paper().total_charge == "ignored"
    assert MCGM(scope="molecule").total_charge == "ignored"
    assert MCGM().total_charge == "embedded"
    with pytest.raises(ConfigError, match="scope='system'"):
        MCGM(scope="molecule", total_charge="embedded")
