"""Latent charges: their Coulomb sums against direct sums, Madelung and torch-pme, and what the block promises."""

import numpy as np
import pytest
import torch
import torchpme
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from torchpme.prefactors import eV_A

from mcgm import Batch, build, load
from mcgm.errors import ConfigError, StructureError
from mcgm.long_range import MCGM, LatentCharges, NoLongRange, Together
from mcgm.long_range.coulomb import Ewald, OpenPairs, ParticleMesh, coulomb_potential
from mcgm.long_range.selection import Selection
from mcgm.splitting import part_of
from mcgm.testing import DOUBLE, InvarianceSuite, PhysicsSuite, copies_apart, unlike_apart, zoo
from mcgm.testing.limits import degenerate

CUTOFF = 4.0


def batch_of(*atoms):
    return Batch.from_atoms(list(atoms), cutoff=CUTOFF, dtype=torch.float64)


def charges_of(batch, *, neutral=True):
    generator = torch.Generator().manual_seed(1)
    charges = torch.rand(batch.n_atoms, generator=generator, dtype=torch.float64) - 0.5
    if neutral:
        mean = torch.zeros(batch.n_molecules, dtype=torch.float64).index_add(0, batch.molecule, charges)
        charges = charges - (mean / torch.bincount(batch.molecule))[batch.molecule]
    return charges


def periodic_energies(batch, charges, way, width=1.0):
    structures = Selection.lattices(batch)
    energies = way(batch, structures, way.index(batch, structures), charges, coulomb_potential(width))
    return torch.zeros(batch.n_molecules, dtype=torch.float64).index_add(0, batch.molecule, energies)


def torchpme_energy(atoms, charges, width=1.0):
    calculator = torchpme.EwaldCalculator(coulomb_potential(width), lr_wavelength=width / 2.5)
    values = calculator(
        charges[:, None],
        torch.tensor(np.array(atoms.cell)),
        torch.tensor(atoms.positions),
        torch.zeros(0, 2, dtype=torch.int64),
        torch.zeros(0, dtype=torch.float64),
        torch.tensor(atoms.pbc),
    )
    return float(charges @ values[:, 0])


def skewed(seed=0):
    cell = [[5.1, 0.2, 0.0], [0.9, 6.0, 0.3], [-0.4, 0.7, 5.5]]
    scaled = np.random.default_rng(seed).random((5, 3))
    return Atoms("CNOSi2", scaled_positions=scaled, cell=cell, pbc=True)


def slab():
    atoms = fcc111("Cu", (1, 1, 2), a=3.6, vacuum=6.0)
    atoms.pbc = (True, True, False)
    return atoms


def test_open_structures_are_summed_over_all_pairs():
    batch = batch_of(molecule("CH3CH2OH"), skewed(), molecule("H2O"), Atoms("He"))
    charges = charges_of(batch)
    potential = coulomb_potential(1.0)
    found = OpenPairs.of(batch).energies(batch, charges, potential)
    for k in (0, 2, 3):
        own = torch.nonzero(batch.molecule == k).flatten()
        distance = torch.cdist(batch.positions[own], batch.positions[own])
        kernel = eV_A * torch.erf(distance / 2**0.5) / distance
        kernel.fill_diagonal_(0)
        expected = 0.5 * charges[own] @ kernel @ charges[own]
        assert float(found[own].sum()) == pytest.approx(float(expected), abs=1e-12)
    assert not found[batch.molecule == 1].any()


def test_far_charges_interact_as_points():
    batch = batch_of(Atoms("NaCl", [[0, 0, 0], [20.0, 0, 0]]))
    charges = torch.tensor([1.0, -1.0], dtype=torch.float64)
    energy = OpenPairs.of(batch).energies(batch, charges, coulomb_potential(1.0)).sum()
    assert float(energy) == pytest.approx(-14.399645 / 20.0, rel=1e-7)


@pytest.mark.parametrize("way", ["ewald", "pme"])
def test_single_precision_keeps_coulomb_energies_and_dipoles_far_from_the_origin(way):
    """Float32 resolves 0.008 Å at 10^5 Å, which moves forces by 0.01 eV/Å unless what the cast takes is kept."""
    torch.manual_seed(0)
    potential = build(long_range="charges", cutoff=CUTOFF, long_range_options={"periodic_sum": way}).double().eval()
    with torch.no_grad():
        potential.long_range.output.weight.mul_(3)
    apart = molecule("CH3CH2OH")
    apart.positions[3:] += 9e4  # within one structure
    near = [molecule("CH3CH2OH"), apart, skewed(), flake()]
    far = [atoms.copy() for atoms in near]
    for atoms in far:
        atoms.positions += [1e5, -7e4, 3e4]
        atoms.positions += np.random.default_rng(0).integers(-500, 500, (len(atoms), 3)) * atoms.pbc @ atoms.cell[:]
    expected = potential(batch_of(*near))
    single = potential.float()
    batch = Batch.from_atoms(far, cutoff=CUTOFF)
    assert float(expected.electrostatic_energy.abs().min()) > 0.1
    found = single(batch)
    torch.testing.assert_close(found.electrostatic_energy, expected.electrostatic_energy, rtol=2e-6, atol=1e-5)
    torch.testing.assert_close(found.forces.double(), expected.forces, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.dipole[0].double(), expected.dipole[0], rtol=0, atol=1e-5)
    parts = [single(part_of(batch, k, k + 1)).energy for k in range(len(far))]
    torch.testing.assert_close(torch.cat(parts), found.energy, rtol=0, atol=1e-5)


@pytest.mark.parametrize("neutral", [True, False], ids=["neutral", "charged"])
def test_ewald_sums_of_a_batch_equal_those_of_torchpme_one_by_one(neutral):
    structures = [skewed(0), molecule("H2O"), bulk("NaCl", "rocksalt", 5.6), slab()]
    batch = batch_of(*structures)
    charges = charges_of(batch, neutral=neutral)
    found = periodic_energies(batch, charges, Ewald(1.0))
    assert float(found[1]) == 0
    for k in (0, 2, 3):
        assert float(found[k]) == pytest.approx(torchpme_energy(structures[k], charges[batch.molecule == k]), abs=2e-7)


def flake(vacuum=(0.0, 0.0, 30.0)):
    """Four atoms in the plane and above it, with this third vector, Å."""
    positions = [[0, 0, 0], [1.9, 2.1, 0.3], [0.4, 0.1, 2.0], [2.2, 0.6, 1.4]]
    return Atoms("NaClOH", positions, cell=[[4.1, 0, 0], [0.7, 3.9, 0], vacuum], pbc=(True, True, False))


@pytest.mark.parametrize("way", [Ewald, ParticleMesh])
@pytest.mark.parametrize("neutral", [True, False], ids=["neutral", "charged"])
def test_a_slab_may_stand_anyhow_and_its_vacuum_does_not_matter(way, neutral):
    turned = flake()
    turned.rotate(50, (1, 2, 3), rotate_cell=True)
    reordered = flake()
    reordered.set_cell(flake().cell[[2, 0, 1]])
    reordered.pbc = (False, True, True)
    variants = [flake(), turned, reordered, flake((3.0, -2.0, 30.0)), flake((0.0, 0.0, 45.0))]
    charges = charges_of(batch_of(flake()), neutral=neutral).repeat(len(variants))
    found = periodic_energies(batch_of(*variants), charges, way(1.0))
    torch.testing.assert_close(found, found[:1].expand(len(found)), rtol=0, atol=1e-6 if way is Ewald else 1e-4)


@pytest.mark.parametrize("way", ["ewald", "pme"])
def test_a_slab_that_touches_its_images_is_refused(way):
    potential = build(long_range="charges", cutoff=CUTOFF, long_range_options={"periodic_sum": way}).double().eval()
    short, wrapped = flake((1.0, 2.0, 3.9)), flake()
    wrapped.positions[0] += wrapped.cell[2]
    for atoms, height in ((short, "3.9"), (wrapped, "30")):
        turned = atoms.copy()
        turned.rotate(50, (1, 2, 3), rotate_cell=True)
        for each in (atoms, turned):
            with pytest.raises(StructureError, match=f"structure 1 of the batch: .* after {height} Å.*longer"):
                potential(batch_of(flake(), each))
    assert potential(batch_of(flake(), flake((1.0, 2.0, 4.1)))).energy.isfinite().all()


def test_the_field_outside_a_slab_with_a_dipole_is_none():
    """Two layers of opposite charge are a capacitor: the potential between them falls by 4 pi times the dipole."""
    layers = Atoms("NaCl", [[0, 0, 0], [0, 0, 6.0]], cell=[3, 3, 40], pbc=(True, True, False))
    charges = torch.tensor([0.1, -0.1], dtype=torch.float64)
    apart = Atoms("NaCl", [[0, 0, 0], [0, 0, 8.0]], cell=[3, 3, 40], pbc=(True, True, False))
    near, far = periodic_energies(batch_of(layers, apart), charges.repeat(2), Ewald(1.0))
    assert float(far - near) == pytest.approx(2 * torch.pi * eV_A * 0.1**2 / 9 * 2.0, rel=1e-4)


def test_narrow_charges_have_the_madelung_energy():
    # what Gaussians lack to points at the nearest neighbours is below 1e-5 at this width
    spacing, width = 5.64, 0.6
    batch = batch_of(bulk("NaCl", "rocksalt", spacing))
    energy = periodic_energies(batch, torch.tensor([1.0, -1.0], dtype=torch.float64), Ewald(width), width)
    assert float(energy[0]) == pytest.approx(-1.7475646 * eV_A / (spacing / 2), rel=2e-5)


def test_a_mesh_gives_the_ewald_sum():
    batch = batch_of(skewed(0), skewed(1), molecule("H2O"))
    charges = charges_of(batch)
    mesh, ewald = (periodic_energies(batch, charges, way(1.0)) for way in (ParticleMesh, Ewald))
    torch.testing.assert_close(mesh, ewald, rtol=0, atol=1e-4)


def test_a_supercell_has_a_multiple_of_the_energy():
    cell = skewed()
    single, double = batch_of(cell), batch_of(cell.repeat((2, 1, 2)))
    charges = charges_of(single)
    energies = [
        periodic_energies(batch, q, Ewald(1.0)) for batch, q in ((single, charges), (double, charges.repeat(4)))
    ]
    torch.testing.assert_close(4 * energies[0], energies[1], rtol=0, atol=1e-6)


def test_a_cell_too_large_for_an_ewald_sum_is_refused_with_what_would_fit():
    batch = batch_of(Atoms("NaCl", [[0, 0, 0], [3.0, 0, 0]], cell=[300.0] * 3, pbc=True))
    with pytest.raises(StructureError, match=r"needs too much memory.*periodic_sum='pme'"):
        Ewald(1.0).index(batch, Selection.lattices(batch))


@pytest.mark.parametrize(
    ("pbc", "cell"), [((True, False, False), [9, 9, 9]), ((True, True, False), [[4, 0, 0], [0, 4, 0], [0, 0, 0]])]
)
def test_wires_and_slabs_without_vacuum_are_refused(pbc, cell):
    with pytest.raises(StructureError, match=r"structure 1 of the batch.*three periodic axes"):
        Selection.lattices(batch_of(molecule("H2O"), Atoms("Cu", cell=cell, pbc=pbc)))


def make_potential(block="charges", backbone="schnet", **options):
    torch.manual_seed(5)
    potential = build(
        backbone=backbone,
        long_range=block,
        cutoff=CUTOFF,
        backbone_options={"channels": 12, "radial": 8, "layers": 2},
        long_range_options=options,
    )
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return potential.double().eval()


@pytest.mark.parametrize("block", ["charges", "mcgm_charges", "mcgm_oriented_charges"])
def test_charges_sum_to_the_total_charge(block):
    ion = molecule("CH3CH2OH")
    ion.info["charge"] = -1.0
    batch = batch_of(molecule("C6H6"), ion, skewed())
    prediction = make_potential(block)(batch)
    total = torch.zeros(3, dtype=torch.float64).index_add(0, batch.molecule, prediction.charges)
    torch.testing.assert_close(total, torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-12)
    assert prediction.charges.std() > 1e-3


def test_parts_of_the_energy_add_up():
    prediction = make_potential("mcgm_charges")(batch_of(molecule("C6H6"), molecule("CH3SH")))
    assert (prediction.electrostatic_energy.abs() > 1e-4).all()
    atoms = torch.stack([part.sum() for part in prediction.atom_energy.split([12, 6])])
    total = atoms + prediction.cluster_energy + prediction.electrostatic_energy
    torch.testing.assert_close(prediction.energy, total)


def test_two_ions_feel_each_other_far_beyond_the_cutoff_as_one_over_distance():
    potential = make_potential(constraint="none")

    def interaction(distance):
        pair = molecule("CH3SH") + molecule("H2O")
        pair.positions[6:] += [distance, 0, 0]
        apart = potential(batch_of(molecule("CH3SH"), molecule("H2O"))).energy.sum()
        return float(potential(batch_of(pair)).energy[0] - apart)

    q = potential(batch_of(molecule("CH3SH"), molecule("H2O"))).charges
    total = float(q[:6].sum() * q[6:].sum())
    assert abs(interaction(50.0)) > 1e-4
    assert interaction(400.0) * 400.0 == pytest.approx(eV_A * total, rel=0.01)


def test_without_a_constraint_far_molecules_do_not_exchange_charge():
    animals = zoo()
    pair = animals["caffeine"], animals["CH4"]

    def charges(*structures):
        potential = make_potential(constraint="none")
        return potential(Batch.from_structures(list(structures), cutoff=CUTOFF, dtype=torch.float64)).charges

    both = charges(*pair)
    torch.testing.assert_close(both, torch.cat([charges(one) for one in pair]), rtol=0, atol=1e-12)
    # what is left over 60 Å is the Coulomb energy itself
    assert 0 < unlike_apart(make_potential(constraint="none"), *pair) < 1.0


@pytest.mark.parametrize("block", ["charges", "mcgm_charges", "mcgm_oriented_charges"])
def test_saved_and_loaded_it_predicts_the_same(tmp_path, block):
    potential = make_potential(block)
    potential.save(tmp_path / "model.safetensors")
    batch = batch_of(molecule("C6H6"), skewed())
    assert torch.equal(potential(batch).energy, load(tmp_path / "model.safetensors").eval()(batch).energy)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LatentCharges(width=0.0),
        lambda: LatentCharges(constraint="sum"),
        lambda: LatentCharges(periodic_sum="fmm"),
        lambda: Together((MCGM(),)),
        lambda: Together((MCGM(), MCGM.paper())),
    ],
)
def test_wrong_options_are_refused(make):
    with pytest.raises(ConfigError, match=r"required|choice"):
        make()


def test_together_is_smooth_when_all_its_parts_are():
    assert Together((MCGM(), LatentCharges())).is_smooth
    assert not Together((MCGM.paper(), LatentCharges())).is_smooth
    assert Together((NoLongRange(), LatentCharges())).recluster == "forward"


class ChargeClaims:
    count = 3

    def structures(self):
        animals = zoo()
        return [animals[name] for name in ("HCN", "alanine dipeptide", "NaCl cell")]

    def test_copies_far_apart_interact_as_declared(self):
        """As dipoles, above the limit of local and mean-field blocks."""
        figure = copies_apart(self.potential().double(), zoo()["HCN"])
        assert DOUBLE.copies < figure < 1e-2
        assert "copies" in self.potential().not_promised

    def test_an_atom_without_neighbours_feels_charges_as_declared(self):
        assert 0 < degenerate(self.potential()) < 1.0
        assert "isolation" in self.potential().not_promised


class TestCharges(ChargeClaims, PhysicsSuite):
    def potential(self):
        return make_potential("charges")


class TestChargesWithMCGM(ChargeClaims, PhysicsSuite):
    def potential(self):
        return make_potential("mcgm_charges", backbone="painn")


class TestInSingle(ChargeClaims, InvarianceSuite):
    def potential(self):
        return make_potential("mcgm_charges").float()
