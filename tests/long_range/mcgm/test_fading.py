"""A hierarchy per molecule stays smooth while bonds break, and knows nothing of molecules without a path of bonds."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.data import covalent_radii

from mcgm import Batch, build
from mcgm.long_range.mcgm.fading import BROKEN, FadingMolecules, bond_weight
from mcgm.long_range.mcgm.scope import BONDED, BondedMolecules
from mcgm.long_range.mcgm.specification import MCGM
from mcgm.structure import Structure
from mcgm.testing import DOUBLE, PhysicsSuite, unlike_apart, zoo

CUTOFF = 4.0
CARBON = 2 * covalent_radii[6]


def make_potential(backbone="schnet", **options):
    torch.manual_seed(3)
    potential = build(
        backbone=backbone,
        long_range="mcgm",
        cutoff=CUTOFF,
        backbone_options={"channels": 12, "radial": 8, "layers": 2},
        long_range_options={"scope": "molecule"} | options,
    )
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return potential.double().eval()


def batch_of(*atoms):
    return Batch.from_atoms(list(atoms), cutoff=CUTOFF, dtype=torch.float64)


def stretched(length):
    """Ethanol whose C-C bond is this long, Å: all beyond it moved along the bond."""
    atoms = molecule("CH3CH2OH")
    first, second = 0, 1
    axis = atoms.positions[second] - atoms.positions[first]
    moved = [k for k, x in enumerate(atoms.positions) if (x - atoms.positions[first]) @ axis > 0.5 * axis @ axis]
    distance = np.linalg.norm(axis)
    atoms.positions[moved] += axis / distance * (length - distance)
    return atoms


def along_dissociation(potential, lengths):
    """Energies, and forces projected on the way from each geometry to the next."""
    frames = [stretched(length) for length in lengths]
    parts = [potential(batch_of(*frames[k : k + 50])) for k in range(0, len(frames), 50)]
    energy = torch.cat([part.energy for part in parts]).numpy()
    forces = torch.cat([part.forces for part in parts]).numpy().reshape(len(frames), -1, 3)
    return energy, forces, np.stack([frame.positions for frame in frames])


def largest_step(energy, forces, positions):
    """Largest |dE + F dr| with the mean force of both ends."""
    work = np.einsum("fac,fac->f", (forces[1:] + forces[:-1]) / 2, np.diff(positions, axis=0))
    return np.abs(np.diff(energy) + work).max()


def presence(atoms):
    """How present each atom is in the group of atom 0."""
    batch = batch_of(atoms)
    found = FadingMolecules()(batch)
    values = (found.group == found.group[0]).double().numpy()
    if found.guests is not None:
        here = found.guests.group == found.group[0]
        values[found.guests.atom[here].numpy()] = found.guests.presence(batch).weight[here].numpy()
    return values


@pytest.mark.parametrize("backbone", ["schnet", "painn"])
def test_the_energy_has_no_step_while_a_bond_breaks(backbone):
    lengths = np.arange(0.95 * BONDED, 1.05 * BROKEN, 1e-3) * CARBON
    assert largest_step(*along_dissociation(make_potential(backbone), lengths)) < 1e-6


def test_hard_molecules_step_on_the_same_path():
    potential = make_potential()
    potential.long_range.scope = BondedMolecules()
    lengths = np.arange(0.95 * BONDED, 1.05 * BONDED, 1e-3) * CARBON
    assert largest_step(*along_dissociation(potential, lengths)) > 1e-3


@pytest.mark.parametrize("multiple", [BONDED, BROKEN])
def test_energy_force_and_its_slope_are_continuous_where_fragments_merge_and_part(multiple):
    potential = make_potential()
    offsets = np.array([-2e-5, -1e-5, 1e-5, 2e-5])
    energy, forces, _ = along_dissociation(potential, multiple * CARBON + offsets)
    slope = (forces[1] - forces[0], forces[3] - forces[2])
    assert abs((2 * energy[1] - energy[0]) - (2 * energy[2] - energy[3])) < 1e-7
    assert np.abs(forces[1] - forces[2]).max() < 1e-3
    assert np.abs(slope[0] - slope[1]).max() / 1e-5 < 0.1


def test_a_molecule_with_whole_bonds_has_the_energy_of_the_whole_system():
    ethanol = molecule("CH3CH2OH")
    options = {"total_charge": "ignored"}
    energies = [make_potential(scope=scope, **options)(batch_of(ethanol)).energy for scope in ("molecule", "system")]
    torch.testing.assert_close(*energies, rtol=0, atol=1e-12)


def test_fragments_without_a_bond_have_the_energies_of_two_systems():
    potential = make_potential()
    far = stretched(CARBON * BROKEN + 20.0)
    parts = BondedMolecules()(batch_of(far)).group.numpy()
    apart = [potential(batch_of(far[parts == k])).energy for k in range(parts.max() + 1)]
    torch.testing.assert_close(potential(batch_of(far)).energy, sum(apart), rtol=0, atol=1e-11)


def test_two_far_molecules_do_not_know_of_each_other():
    animals = zoo()
    assert unlike_apart(make_potential(), animals["caffeine"], animals["CH4"]) < 1e-11


def test_presence_of_an_atom_over_one_bond_is_the_weight_of_the_bond():
    length = 1.4 * CARBON
    pair = Atoms("C2", [[0, 0, 0], [length, 0, 0]])
    expected = float(bond_weight(*torch.tensor([[length], [BROKEN * CARBON]], dtype=torch.float64)))
    assert 0.1 < expected < 0.9
    assert presence(pair)[1] == pytest.approx(expected, abs=1e-7)


def test_presence_is_one_for_whole_bonds_zero_for_none_and_falls_along_a_chain_of_partial_ones():
    def chain(*multiples):
        return Atoms(f"C{len(multiples) + 1}", [[x, 0, 0] for x in np.cumsum([0, *multiples]) * CARBON])

    assert presence(chain(1.2, 1.7)).tolist() == [1, 1, 0]
    near, middle, end = presence(chain(1.4, 1.4, 1.4))[1:]
    assert 0 < end < middle < near < 1
    # atoms joined by a whole bond are present alike
    assert presence(chain(1.4, 1.2))[1] == presence(chain(1.4, 1.2))[2]


def test_presence_is_continuous_where_a_fragment_merges_with_one_of_several():
    def chain(multiple):
        return presence(Atoms("C4", [[x, 0, 0] for x in np.cumsum([0, 1.4, multiple, 1.35]) * CARBON]))

    np.testing.assert_allclose(chain(BONDED - 1e-6), chain(BONDED + 1e-6), atol=1e-6)
    np.testing.assert_allclose(chain(BROKEN - 1e-6), chain(BROKEN + 1e-6), atol=1e-6)


def test_two_ways_are_better_than_one():
    pair = CARBON * np.array([[0, 0, 0], [0, 1.2, 0]])
    side_by_side, in_a_row = (
        Atoms("C4", np.concatenate([pair, pair + CARBON * np.array(way)])) for way in ([1.4, 0, 0], [0, 2.6, 0])
    )
    assert presence(side_by_side)[2] > presence(in_a_row)[2] + 0.1 > 0.2


def test_bonds_through_the_boundary_fade_too():
    length = 1.4 * CARBON
    chain = Atoms("C2", [[0.2, 0, 0], [9.8, 0, 0]], cell=[9.6 + length, 15, 15], pbc=True)
    open_pair = Atoms("C2", [[0, 0, 0], [length, 0, 0]])
    assert presence(chain)[1] == pytest.approx(presence(open_pair)[1], abs=1e-9)


def test_an_element_is_as_present_as_its_most_likely_holder_is_near():
    """Two atoms of an element are not twice as present as one, or a crystal would depend on the size of its cell."""
    length = 1.4 * CARBON
    line = Atoms("NCCN", [[x * length, 0, 0] for x in range(4)])
    batch = batch_of(line)
    guests = FadingMolecules()(batch).guests
    presence = guests.presence(batch)

    def reach(group, atom):
        return float(presence.reach[(guests.group == group) & (guests.atom == atom)])

    assert reach(1, 0) == reach(1, 3) < 1
    assert float(presence.weight[(guests.group == 1) & (guests.atom == 3)]) < reach(1, 3)
    assert reach(1, 2) == 1


def test_only_what_is_smooth_says_so():
    assert MCGM.smooth(scope="molecule").is_smooth
    assert not MCGM.smooth(scope="molecule", energy_per="cluster").is_smooth
    assert not MCGM.paper(scope="molecule").is_smooth


def test_second_derivatives_exist_while_a_bond_is_partial():
    potential = make_potential().train()
    batch = batch_of(stretched(1.4 * CARBON), stretched(1.3 * CARBON), molecule("H2O"))
    loss = potential(batch).forces.square().sum()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in potential.parameters() if p.grad is not None)


class TestWhileBondsArePartial(PhysicsSuite):
    """Ethanol halfway through breaking, a chain of four fragments, and a cell of one."""

    count = 3

    def potential(self):
        return make_potential()

    def structures(self):
        chain = Atoms("COCN", [[x, 0.1 * x**2, 0] for x in (0, 1.95, 3.9, 5.9)])
        cell = Atoms("C2", [[0.2, 0, 0.1], [2.2, 0, 0]], cell=[[4.1, 0.3, 0], [0, 9, 0], [0, 0.5, 9]], pbc=True)
        frames = [stretched(1.4 * CARBON), chain, cell]
        return [
            Structure.from_atoms(atoms).replace(name=name)
            for atoms, name in zip(frames, ("ethanol", "chain", "cell"), strict=True)
        ]


def test_the_suite_meets_partial_bonds():
    for structure in TestWhileBondsArePartial().structures():
        atoms = Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)
        assert FadingMolecules()(batch_of(atoms)).guests is not None
    assert DOUBLE.path <= 1e-6


def test_a_partial_bond_is_as_partial_far_from_the_origin_in_single_precision():
    potential = make_potential().float()
    found = []
    for shift in (0.0, 1e5):
        atoms = stretched(1.45 * CARBON)
        atoms.positions += shift
        found.append(potential(batch_of(atoms).to(torch.float32)))
    torch.testing.assert_close(found[1].energy, found[0].energy, rtol=0, atol=1e-6)
    torch.testing.assert_close(found[1].forces, found[0].forces, rtol=0, atol=2e-6)
