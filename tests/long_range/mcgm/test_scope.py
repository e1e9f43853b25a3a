"""Which atoms share a hierarchy."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from mcgm import Batch, build
from mcgm.long_range.mcgm.scope import BondedMolecules, WholeSystem


def two_waters(distance=4.0):
    second = molecule("H2O")
    second.translate([0.0, 0.0, distance])
    return molecule("H2O") + second


def groups(scope, atoms, cutoff=3.0):
    found = scope(Batch.from_atoms(atoms, cutoff=cutoff))
    return found.group.tolist(), found.molecule.tolist()


def test_a_whole_system_is_one_group():
    assert groups(WholeSystem(), [two_waters(), molecule("OH")]) == ([0] * 6 + [1] * 2, [0, 1])


def test_molecules_of_a_structure_are_groups_of_their_own():
    assert groups(BondedMolecules(), [two_waters(), molecule("OH")]) == ([0, 0, 0, 1, 1, 1, 2, 2], [0, 0, 1])


def test_atoms_of_different_molecules_may_stand_in_any_order():
    order = [3, 0, 4, 1, 5, 2]
    assert groups(BondedMolecules(), [molecule("OH"), two_waters()[order]])[0] == [0, 0, 1, 2, 1, 2, 1, 2]


def test_single_atoms_are_molecules():
    assert groups(BondedMolecules(), [Atoms("He2", [[0, 0, 0], [2.5, 0, 0]])]) == ([0, 1], [0, 0])


def test_a_chain_bonded_through_the_boundary_is_one_molecule():
    # two halves of C2 at the ends of a cell 5 Å long: 1.3 Å apart through the boundary, 3.7 Å inside; helium between
    chain = Atoms("CHeC", [[0.0, 0, 0], [1.85, 2.5, 0], [3.7, 0, 0]], cell=[5.0, 12.0, 12.0])
    chain.pbc = (True, False, False)
    assert groups(BondedMolecules(), [chain])[0] == [0, 1, 0]
    chain.pbc = False
    assert groups(BondedMolecules(), [chain])[0] == [0, 1, 2]


def test_a_periodic_carbon_chain_is_one_molecule_and_its_copies_are_others():
    chain = Atoms("C2", [[0.0, 0, 0], [1.3, 0, 0]], cell=[2.6, 12.0, 12.0], pbc=True)
    second = chain.copy()
    second.translate([0, 6.0, 0])
    assert groups(BondedMolecules(), [chain + second])[0] == [0, 0, 1, 1]


@pytest.mark.parametrize("long_range", ["mcgm", "mcgm_paper", "mcgm_random"])
def test_energies_of_far_molecules_add_up_exactly_with_a_hierarchy_per_molecule(long_range):
    def energy(atoms, scope):
        torch.manual_seed(0)
        potential = build(
            backbone_options={"channels": 12, "filters": 12, "radial": 8, "layers": 2},
            cutoff=4.0,
            long_range=long_range,
            long_range_options={"scope": scope},
        )
        potential = potential.double().eval()
        return float(potential(Batch.from_atoms([atoms], cutoff=4.0, dtype=torch.float64)).energy)

    first, second = molecule("CH3CH2OH"), molecule("CH3SH")
    second.translate([60.0, 0.0, 0.0])
    apart = {
        scope: energy(first + second, scope) - energy(first, scope) - energy(second, scope)
        for scope in ("system", "molecule")
    }
    assert abs(apart["molecule"]) < 1e-12
    assert abs(apart["system"]) > 1e-4


def test_the_split_into_molecules_leaves_gradients_alone():
    potential = build(cutoff=4.0, long_range_options={"scope": "molecule"}).double().eval()
    prediction = potential(Batch.from_atoms([two_waters()], cutoff=4.0, dtype=torch.float64))
    assert np.isfinite(prediction.forces.numpy()).all()
