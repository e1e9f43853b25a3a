"""Crystals, slabs and wires: forces and stress are slopes of the energy, and supercells have the energies of cells."""

import copy
from functools import cache

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from mcgm import Batch, build
from mcgm.errors import StructureError
from mcgm.long_range.mcgm.fading import FadingMolecules
from mcgm.long_range.mcgm.scope import BondedMolecules
from mcgm.structure import Structure
from mcgm.testing import finite_differences, stress_finite_differences, supercell, zoo
from mcgm.testing.independence import repeated

CUTOFF = 5.0
SLOPE = 1e-6
"""eV/Å and eV/Å³, against central differences."""

PER_ATOM = 1e-6
"""eV per atom, eV/Å and eV/Å³, between a cell and its supercells."""

EDGES = {"channels": 8, "message_channels": 8, "triplet_channels": 4, "basis_channels": 3, "radial": 4, "degrees": 3}
WIDTHS = {
    "schnet": {"channels": 12, "radial": 8},
    "painn": {"channels": 12, "radial": 8},
    "visnet": {"channels": 8, "heads": 2, "radial": 8, "degree": 2},
    "dimenet++": EDGES,
    "gemnet-t": EDGES | {"bilinear_channels": 4},
}
BLOCKS = {
    "none": ("none", {}),
    "mcgm": ("mcgm", {}),
    "mcgm-molecule": ("mcgm", {"scope": "molecule"}),
    "paper": ("mcgm_paper", {}),
    "charges": ("charges", {}),
    "mcgm-charges": ("mcgm_charges", {"scope": "molecule"}),
}
SMOOTH = [name for name in BLOCKS if name != "paper"]


@cache
def make_potential(block, backbone="schnet", **more):
    name, options = BLOCKS[block]
    torch.manual_seed(2)
    potential = build(
        backbone=backbone,
        long_range=name,
        cutoff=CUTOFF,
        backbone_options=WIDTHS[backbone] | {"layers": 2},
        long_range_options=options | more,
    )
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    potential = potential.double().eval()
    if potential.has_charges:  # as large as in a salt, so that their sums count
        (output,) = (part for name, part in potential.long_range.named_modules() if name.endswith("output"))
        batch = Batch.from_structures(list(CRYSTALS.values()), cutoff=CUTOFF, dtype=torch.float64)
        with torch.no_grad():
            output.weight.mul_(0.8 / potential(batch).charges.abs().max())
    return potential


def structure(atoms, name, **labels):
    return Structure.from_atoms(atoms).replace(name=name, **labels)


def sheared(atoms, seed, shear=0.05, displacement=0.05):
    chance = np.random.default_rng(seed)
    moved = atoms.copy()
    moved.set_cell(atoms.cell @ (np.eye(3) + chance.normal(scale=shear, size=(3, 3))), scale_atoms=True)
    moved.positions += chance.normal(scale=displacement, size=(len(atoms), 3))
    return moved


def cells():
    """Cells smaller than the cutoff, and every mixture of boundary conditions."""
    skewed_vacuum = [[3.9, 0.2, 0.1], [0.3, 4.1, -0.1], [1.0, -0.7, 12.0]]
    slab = Atoms("NaClO", [[0, 0, 0], [1.9, 2.0, 0.3], [0.4, 0.1, 2.0]], cell=skewed_vacuum, pbc=(True, True, False))
    standing = Atoms("NaClO", slab.positions[:, [2, 0, 1]], cell=np.roll(skewed_vacuum, 1, axis=0)[:, [2, 0, 1]])
    standing.pbc = (False, True, True)
    standing.rotate(40, (1, 2, 3), rotate_cell=True)
    wire = Atoms("CO", [[0, 0, 0], [1.2, 0.3, 0.1]], cell=[[2.5, 0.2, 0.1], [0, 11, 1], [1, 0, 12]])
    wire.pbc = (True, False, False)
    animals = {
        "triclinic": sheared(bulk("SiC", "zincblende", 4.36), 0, shear=0.12),
        "one atom": sheared(bulk("Cu", "fcc", 3.6), 1, shear=0.12),
        "slab": slab,
        "standing slab": standing,
        "wire": wire,
    }
    return {name: structure(atoms, name) for name, atoms in animals.items()}


def crystals():
    """A network, a metal, an ionic and a molecular crystal; and one of which every bond is partial."""
    chain = Atoms("COCN", [[x, 0.1 * (-1) ** k, 0] for k, x in enumerate((0, 1.95, 3.9, 5.85))])
    chain.set_cell([7.75, 6, 6.5])
    chain.pbc = True
    animals = {
        "diamond": sheared(bulk("C", "diamond", 3.57), 2),
        "Cu": bulk("Cu", "fcc", 3.61),
        "NaCl": sheared(bulk("NaCl", "rocksalt", 5.64), 3),
        "partial bonds": chain,
    }
    return {name: structure(atoms, name) for name, atoms in animals.items()} | {"CO2": zoo()["solid CO2"]}


CELLS, CRYSTALS = cells(), crystals()
SUPERCELLS = {"2x1x1": (2, 1, 1), "2x2x2": (2, 2, 2), "not diagonal": ((1, 1, 0), (-1, 1, 0), (0, 1, 1))}


def possible(pairs):
    """Without charges in wires."""
    return [pair for pair in pairs if not ("charges" in pair[0] and pair[1] == "wire")]


@pytest.mark.parametrize(("block", "name"), possible((block, name) for block in BLOCKS for name in CELLS))
def test_forces_and_stress_are_slopes_of_the_energy(block, name):
    potential = make_potential(block)
    assert finite_differences(potential, CELLS[name], coordinates=4) < SLOPE
    assert stress_finite_differences(potential, CELLS[name]) < SLOPE


@pytest.mark.parametrize("backbone", [name for name in WIDTHS if name != "schnet"])
@pytest.mark.parametrize("name", ["triclinic", "slab"])
def test_stress_is_the_slope_of_the_energy_for_every_backbone(backbone, name):
    assert stress_finite_differences(make_potential("mcgm-molecule", backbone), CELLS[name]) < SLOPE


@pytest.mark.parametrize("block", ["charges", "mcgm-charges"])
def test_charges_in_wires_are_refused(block):
    batch = Batch.from_structures([CELLS["slab"], CELLS["wire"]], cutoff=CUTOFF, dtype=torch.float64)
    with pytest.raises(
        StructureError, match=r"structure 1 of the batch: pbc is \[True, False, False\].*three periodic"
    ):
        make_potential(block)(batch)


@pytest.mark.parametrize("block", SMOOTH)
@pytest.mark.parametrize("name", CRYSTALS)
def test_a_supercell_has_the_energy_per_atom_forces_and_stress_of_its_cell(block, name):
    chosen = SUPERCELLS if name == "NaCl" else ("not diagonal",)
    for repeats in map(SUPERCELLS.get, chosen):
        found = supercell(make_potential(block), CRYSTALS[name], repeats=repeats)
        assert max(found.energy, found.forces, found.stress) < PER_ATOM


@pytest.mark.parametrize("backbone", [name for name in WIDTHS if name != "schnet"])
def test_so_it_is_for_every_backbone(backbone):
    for name in ("diamond", "partial bonds"):
        found = supercell(make_potential("mcgm-molecule", backbone), CRYSTALS[name], repeats=SUPERCELLS["not diagonal"])
        assert max(found.energy, found.forces, found.stress) < PER_ATOM


REPEATS = {"slab": (2, 1, 1), "standing slab": (1, 1, 2), "wire": (2, 1, 1)}


@pytest.mark.parametrize(
    ("block", "name"), possible((block, name) for block in ("none", "mcgm-molecule", "charges") for name in REPEATS)
)
def test_so_it_is_for_slabs_and_wires(block, name):
    found = supercell(make_potential(block), CELLS[name], repeats=REPEATS[name])
    assert max(found.energy, found.forces, found.stress) < PER_ATOM


@pytest.mark.parametrize("block", ["mcgm", "charges"])
def test_so_it_is_for_charged_crystals(block):
    found = supercell(make_potential(block), CRYSTALS["NaCl"].replace(charge=0.5), repeats=(2, 2, 1))
    assert max(found.energy, found.forces, found.stress) < PER_ATOM


def test_energies_that_count_once_per_cluster_need_molecules_or_counting_per_atom():
    def deviation(name, **options):
        return supercell(make_potential("paper", **options), CRYSTALS[name], repeats=(2, 2, 2)).energy

    assert deviation("diamond") > 1e-3
    assert deviation("CO2") > 1e-3
    assert deviation("diamond", scope="molecule") > 1e-3
    assert deviation("CO2", scope="molecule") < PER_ATOM
    assert deviation("diamond", energy_per="atom") < PER_ATOM
    assert deviation("CO2", energy_per="atom") < PER_ATOM


def groups(scope, structures):
    return len(scope(Batch.from_structures(structures, cutoff=CUTOFF)).molecule)


def test_a_network_is_one_molecule_in_every_cell():
    for name in ("diamond", "Cu", "NaCl"):
        for repeats in SUPERCELLS.values():
            assert groups(FadingMolecules(), [repeated(CRYSTALS[name], repeats)[0]]) == 1


def test_chains_that_only_a_supercell_tells_apart_have_the_energy_of_the_one_in_the_cell():
    """Atoms are bonded along the sum of two lattice vectors: even and odd ones are chains of their own."""
    lattice = [[3.0, 0, 0], [-2.2, 1.2, 0], [0, 0.3, 5]]
    cell = structure(Atoms("C", cell=lattice, pbc=True), "chains")
    larger, _ = repeated(cell, (2, 2, 1))
    assert [groups(BondedMolecules(), [item]) for item in (cell, larger)] == [1, 2]
    assert supercell(make_potential("mcgm-molecule"), cell, repeats=(2, 2, 1)).energy < PER_ATOM


def test_stress_is_zero_without_a_third_vector_and_for_molecules_in_a_box():
    """There is no volume to refer it to; energies and forces are there all the same."""
    flat = CELLS["slab"].replace(cell=np.diag([1, 1, 0]) @ CELLS["slab"].cell)
    boxed = CELLS["slab"].replace(pbc=np.zeros(3, dtype=bool))
    lying = CELLS["standing slab"].cell.copy()
    lying[0] = 2.3 * lying[1] - 0.37 * lying[2]  # in the plane but for rounding
    lying = CELLS["standing slab"].replace(cell=lying)
    assert abs(np.linalg.det(lying.cell)) > 0
    batch = Batch.from_structures([flat, boxed, lying, CELLS["slab"]], cutoff=CUTOFF, dtype=torch.float64)
    single = copy.deepcopy(make_potential("mcgm")).float()
    for found in (make_potential("mcgm")(batch), single(batch.to(torch.float32))):
        assert not found.stress[:3].any()
        assert found.stress[3].any()
        torch.testing.assert_close(found.energy[[0, 2]], found.energy[[3, 3]], rtol=0, atol=1e-4)
    assert [s.volume > 0 for s in (flat, boxed, lying, CELLS["slab"])] == [False, False, False, True]
