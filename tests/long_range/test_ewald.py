"""Ewald message passing: its sums against slow ones and torch-pme, and what it promises and does not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torchpme
from ase import Atoms
from ase.build import molecule
from torchpme.prefactors import eV_A

from mcgm import Batch, attach, build, load
from mcgm.backbones import BACKBONES
from mcgm.errors import ConfigError, StructureError
from mcgm.long_range import EwaldMessages
from mcgm.long_range import reciprocal as reciprocal_module
from mcgm.long_range.ewald import PUBLISHED, voxel_window
from mcgm.long_range.frame import Eigenvectors, principal_axes
from mcgm.long_range.reciprocal import ball
from mcgm.structure import Structure
from mcgm.testing import (
    DOUBLE,
    InvarianceSuite,
    PhysicsSuite,
    copies_apart,
    degenerate,
    path_scan,
    reflection,
    rotation,
    supercell,
    translation,
    zoo,
)
from mcgm.testing.predict import energies, predict

CUTOFF = 4.0
CHANNELS = 6


def batch_of(*atoms, dtype=torch.float64):
    return Batch.from_atoms(list(atoms), cutoff=CUTOFF, dtype=dtype)


def skewed(seed=0):
    cell = [[5.1, 0.2, 0.0], [0.9, 6.0, 0.3], [-0.4, 0.7, 5.5]]
    scaled = np.random.default_rng(seed).random((5, 3))
    return Atoms("CNOSC", scaled_positions=scaled, cell=cell, pbc=True)


def rattled_methane(seed=0):
    methane = zoo()["CH4"]
    noise = np.random.default_rng(seed).normal(scale=0.1, size=methane.positions.shape)
    return methane.replace(positions=methane.positions + noise)


def make_block(**options):
    torch.manual_seed(3)
    block = EwaldMessages(**({"k_cutoff": 1.6, "k_spacing": 0.4, "radial": 8, "bottleneck": 4} | options))
    return block.build(CHANNELS, 2).double()


def make_potential(backbone="schnet", **options):
    torch.manual_seed(5)
    potential = build(
        backbone=backbone,
        long_range="ewald",
        long_range_options={"k_cutoff": 1.6, "k_spacing": 0.4, "radial": 8, "bottleneck": 4} | options,
        cutoff=CUTOFF,
        backbone_options={"channels": 12, "radial": 8, "layers": 2}
        if backbone in ("schnet", "painn")
        else {"layers": 1},
    )
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return potential.double().eval()


def begin(block, batch):
    return block.begin(batch, block.index(batch), clusters=None, generator=None)


def features(batch):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch.n_atoms, CHANNELS, generator=generator, dtype=torch.float64)


# --- the sums, one by one


def slow_messages(positions, hidden, waves, weights, window):
    """sum over the whole space of F(k) exp(i k x_i) sum_j h_j exp(-i k x_j), in complex numbers."""
    found = np.zeros_like(hidden, dtype=complex)
    for k, weight in zip(waves, weights, strict=True):
        for sign in (1, -1) if np.any(k) else (1,):
            factor = sum(h * w * np.exp(-1j * sign * k @ x) for x, h, w in zip(positions, hidden, window, strict=True))
            for i, x in enumerate(positions):
                found[i] += weight * window[i] * np.exp(1j * sign * k @ x) * factor
    assert np.abs(found.imag).max() < 1e-10
    return found.real


def slow_filter(block, layer, length):
    center, width = block.radial.basis.centers.numpy(), 1.6 / 7
    basis = np.exp(-(((length[:, None] - center) / width) ** 2) / 2)
    return basis @ block.radial.down.weight.detach().numpy().T @ block.up[layer].weight.detach().numpy().T


def test_messages_of_a_ragged_batch_equal_slow_sums_over_the_whole_grid():
    structures = [molecule("CH3CH2OH"), skewed(), molecule("H2O"), Atoms("He")]
    block, batch = make_block(), batch_of(*structures)
    state, hidden = begin(block, batch), features(batch)
    found = sum(part.waves.messages(hidden, block.up[1](part.narrow)) for part in state.parts).detach()
    for k, atoms in enumerate(structures):
        own = (batch.molecule == k).numpy()
        if k == 1:
            reciprocal = 2 * np.pi * np.linalg.inv(atoms.cell).T
            numbers = np.array(list(np.ndindex(9, 9, 9))) - 4
            waves = numbers @ reciprocal
            half = [tuple(n) >= (0, 0, 0) for n in numbers]
            waves = waves[half & (np.linalg.norm(waves, axis=1) <= 1.6)]
            length = np.linalg.norm(waves, axis=1)
            weights = slow_filter(block, 1, length) * block.crystals.envelope(torch.tensor(length)).numpy()[:, None]
            weights *= (2 * np.pi / 0.4) ** 3 / atoms.get_volume() / block.voxels
            positions, window = atoms.positions, np.ones(len(atoms))
        else:
            arm = atoms.positions - atoms.positions.mean(0)
            _, axes = np.linalg.eigh(arm.T @ arm)
            positions = arm @ axes
            waves = np.array(list(np.ndindex(9, 9, 9))) - 4
            waves = 0.4 * waves[(np.linalg.norm(waves, axis=1) <= 4) & [tuple(n) >= (0, 0, 0) for n in waves]]
            weights = slow_filter(block, 1, np.linalg.norm(waves, axis=1)) / block.voxels
            window = np.sinc(0.2 / np.pi * positions).prod(1)
        expected = slow_messages(positions, hidden[own].numpy(), waves, weights, window)
        np.testing.assert_allclose(found[own].numpy(), expected, rtol=0, atol=1e-12)
        assert np.abs(expected).max() > 1e-3


def test_the_grid_is_a_ball_of_voxels():
    assert [2 * len(ball(radius)) - 1 for radius in (0, 1, 2, 3, 5)] == [1, 7, 33, 123, 515]


def test_the_window_is_the_mean_over_a_voxel_and_its_derivatives_keep_their_digits():
    place = torch.tensor([[0.0, 1e-9, 3.0], [1.5, -1.6, 20.0]], dtype=torch.float64)
    offset = (torch.arange(400, dtype=torch.float64) + 0.5) / 400 - 0.5
    mean = torch.cos(0.4 * offset[:, None, None] * place).mean(0).prod(-1, keepdim=True)
    torch.testing.assert_close(voxel_window(place, 0.4), mean, rtol=0, atol=1e-5)
    assert torch.autograd.gradgradcheck(lambda x: voxel_window(x, 0.4), place[0].requires_grad_())


def test_with_the_coulomb_kernel_as_filter_an_exchange_is_the_reciprocal_sum_of_torchpme():
    """Twice its potential, and the self term, which belongs to a charge and not to k."""
    width, atoms = 1.0, skewed()
    block = make_block(k_cutoff=6.0, k_spacing=3.0, bottleneck=1)
    batch = batch_of(atoms)
    charges = torch.linspace(-1, 1, 5, dtype=torch.float64)
    state = begin(block, batch)
    lattice = block.index(batch).lattice
    squares = lattice.vectors(batch.cell).square().sum(-1)
    kernel = 4 * torch.pi * torch.exp(-squares * width**2 / 2) / torch.where(squares > 0, squares, torch.inf)
    narrow = (lattice.times * kernel * eV_A / atoms.get_volume())[..., None]
    block.up[0] = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(block.up[0].weight)
    block.before[0] = block.update[0] = torch.nn.Identity()
    state = replace(state, parts=(replace(state.parts[0], narrow=narrow),))
    found, _ = block.double().exchange(0, charges[:, None], state)
    potential = torchpme.CoulombPotential(smearing=width, prefactor=eV_A)
    no_pairs = torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, dtype=torch.float64)
    calculator = torchpme.EwaldCalculator(potential, lr_wavelength=width / 2.5)
    values = calculator(charges[:, None], batch.cell[0], batch.positions, *no_pairs)
    expected = 2 * values[:, 0] + potential.self_contribution() * charges
    torch.testing.assert_close(found[:, 0], expected, rtol=0, atol=1e-6)


# --- crystals


def test_a_crystal_may_be_given_by_other_vectors_another_origin_or_a_larger_cell():
    potential = make_potential()
    atoms = skewed()
    other = atoms.copy()
    other.set_cell(np.array([[1, 0, 0], [1, 1, 0], [0, -1, 1]]) @ atoms.cell.array)
    moved = atoms.copy()
    moved.translate([0.3, -1.7, 2.9])
    moved.wrap()
    structures = [Structure.from_atoms(item) for item in (atoms, other, moved, atoms.repeat((1, 2, 1)))]
    found = energies(potential, structures) / [1, 1, 1, 2]
    np.testing.assert_allclose(found, found[0], rtol=0, atol=1e-12)
    assert abs(energies(make_potential(radial=2), structures)[0] - found[0]) > 1e-3
    tabulated = energies(make_potential(lattice=(1, 1, 1)), structures)
    assert abs(tabulated[1] - tabulated[0]) > 1e-6
    assert tabulated[2] == pytest.approx(tabulated[0], abs=1e-12)


def test_no_strain_steps_where_a_wave_vector_leaves():
    """2 pi / 3.92699 Å is the cutoff; a step of the filter there would be a step of the energy."""
    potential = make_potential()
    edge = 2 * np.pi / 1.6
    cells = [
        Structure(numbers=[6, 8], positions=[[0, 0, 0], [1.2, 0.3, 0]], cell=np.diag([a, 6.0, 7.0]), pbc=True)
        for a in edge * (1 + np.array([-2e-6, -1e-6, 1e-6, 2e-6]))
    ]
    counts = [len(potential.long_range.index(batch_of(cell.to_atoms())).lattice.number) for cell in cells]
    assert counts[0] < counts[-1]
    found = energies(potential, cells)
    slope = np.diff(found) / np.array([1, 2, 1])
    assert np.ptp(slope) < 1e-9 < abs(slope).max()


def test_more_waves_than_memory_holds_are_refused(monkeypatch):
    monkeypatch.setattr(reciprocal_module, "MOST_PHASES", 20)
    with pytest.raises(StructureError, match="Use a smaller k_cutoff"):
        make_block().index(batch_of(skewed()))


# --- molecules


def test_axes_turn_with_the_molecule_mirror_with_it_and_have_two_derivatives():
    generator = torch.Generator().manual_seed(0)
    arm = torch.randn(4, 9, 3, generator=generator, dtype=torch.float64) * torch.tensor([3.0, 2.0, 1.0])
    arm = arm - arm.mean(1, keepdim=True)
    present = torch.ones(4, 9, dtype=torch.bool)
    turn, _ = torch.linalg.qr(torch.randn(4, 3, 3, generator=generator, dtype=torch.float64))
    turn[::2] *= -1
    place = arm @ principal_axes(arm, present)
    assert {round(float(d)) for d in torch.linalg.det(turn)} == {-1, 1}
    torch.testing.assert_close(arm @ turn @ principal_axes(arm @ turn, present), place)
    spread = place.square().sum(1)
    assert (spread[:, :-1] > spread[:, 1:]).all()
    matrix = (arm[0].mT @ arm[0])[None].requires_grad_()
    assert torch.autograd.gradgradcheck(lambda m: Eigenvectors.apply(0.5 * (m + m.mT)), matrix)


def test_the_axes_of_a_symmetric_molecule_do_not_depend_on_rounding():
    potential = make_potential()
    for name in ("CH4", "benzene", "SF6"):
        structure = zoo()[name]
        order = np.random.default_rng(0).permutation(len(structure))
        shuffled = structure.replace(numbers=structure.numbers[order], positions=structure.positions[order] + 1e-15)
        first, second = predict(potential, [structure, shuffled])
        assert abs(first.energy - second.energy) < 1e-11
        np.testing.assert_allclose(first.forces[order], second.forces, rtol=0, atol=1e-10)


# --- what it promises


class EwaldClaims:
    count = 2

    def structures(self):
        crystal = Structure.from_atoms(skewed(), name="skewed cell")
        return [zoo()["HCN"], rattled_methane(), zoo()["alanine dipeptide"], crystal]

    def not_promised(self):
        """Structures without symmetry: only what never holds."""
        assert {"copies", "isolation"} < set(self.potential().not_promised)
        return dict.fromkeys(("copies", "isolation"), "declared")

    def test_the_energy_changes_by_the_work_of_the_forces_where_axes_are_apart(self):
        assert path_scan(self.potential(), zoo()["alanine dipeptide"], steps=60, step=2e-3).largest < 10 * DOUBLE.path


class TestEwald(EwaldClaims, PhysicsSuite):
    def potential(self):
        return make_potential()

    # numerical in all coordinates; the check of the Hessian along one direction says the same
    test_gradgradcheck_accepts_positions_and_cell = None


class TestInSingle(EwaldClaims, InvarianceSuite):
    def potential(self):
        return make_potential("painn", lattice=(1, 2, 1), k_cutoff=0.8, k_spacing=0.2).float()

    test_the_energy_changes_by_the_work_of_the_forces_where_axes_are_apart = None


class TestInTheLaboratoryFrame(PhysicsSuite):
    count = 2

    def potential(self):
        return make_potential(frame="laboratory")

    test_gradgradcheck_accepts_positions_and_cell = None


# --- what it does not


def test_molecules_in_the_laboratory_frame_do_not_turn_but_crystals_do():
    potential = make_potential(frame="laboratory")
    assert potential.is_smooth
    assert {"rotation", "reflection"} < set(potential.not_promised)
    for check in (rotation, reflection):
        assert check(potential, zoo()["alanine dipeptide"], count=3).energy > 1e6 * DOUBLE.energy
        assert check(potential, Structure.from_atoms(skewed()), count=3).energy < DOUBLE.energy
    assert translation(potential, zoo()["alanine dipeptide"], count=3).energy < DOUBLE.energy


def test_symmetric_molecules_have_no_axes_and_the_energy_jumps_there():
    potential = make_potential()
    assert {"smooth", "derivatives", "rotation", "reflection"} < set(potential.not_promised)
    assert not potential.is_smooth
    assert rotation(potential, zoo()["CH4"], count=3).energy > 1e3 * DOUBLE.energy
    spread = []
    for step in (1e-3, 1e-6):
        moved = [rattled_methane(seed) for seed in range(4)]
        methane = zoo()["CH4"].positions
        moved = [item.replace(positions=methane + step * (item.positions - methane)) for item in moved]
        spread.append(np.ptp(energies(potential, moved)))
    local = build(long_range="none", cutoff=CUTOFF).double()
    assert spread[1] > 0.3 * spread[0] > 1e-5
    assert np.ptp(energies(local, moved)) < 1e-6


def test_copies_and_lone_atoms_feel_what_is_far():
    potential = make_potential()
    assert copies_apart(potential, zoo()["HCN"]) > 1e3 * DOUBLE.copies
    assert 1e-6 < degenerate(potential) < 10.0
    cell = Structure.from_atoms(skewed())
    assert supercell(potential, cell).energy < DOUBLE.energy
    tabulated = make_potential(lattice=(1, 1, 1))
    assert supercell(tabulated, cell).energy > 1e3 * DOUBLE.energy
    assert "supercell" in tabulated.not_promised
    assert "supercell" not in potential.not_promised


# --- in its slot


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_takes_it_and_a_file_keeps_it(backbone, tmp_path):
    potential = make_potential(backbone, lattice=(1, 0, 2))
    structures = [zoo()["HCN"], zoo()["CH4"]]
    potential.save(tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert again.specification == potential.specification
    for before, after in zip(predict(potential, structures), predict(again, structures), strict=True):
        assert before.energy == after.energy
        assert np.isfinite(before.forces).all()


def test_it_can_be_attached(bare_network):
    batch = batch_of(molecule("CH3OH"), molecule("H2O"), dtype=torch.float32)
    inputs = batch.numbers, batch.positions, batch.molecule
    torch.manual_seed(0)
    model = bare_network()
    before = model(*inputs)
    attach(model, "ewald", layers=list(model.layers), channels=6)
    assert (model(*inputs) - before).abs().min() > 1e-4


def test_published_sizes_are_those_of_each_backbone():
    block = EwaldMessages.paper("gemnet-t")
    assert (block.k_cutoff, block.k_spacing, block.radial, block.bottleneck, block.residuals) == (1.0, 0.2, 128, 16, 3)
    assert set(PUBLISHED) <= set(BACKBONES)
    assert build(long_range="ewald", long_range_options={"size": "painn"}).specification == EwaldMessages.paper("painn")
    assert EwaldMessages.of_size(size="schnet", residuals=0).residuals == 0


@pytest.mark.parametrize(
    "options",
    [
        {"k_cutoff": 0.0},
        {"k_spacing": "0.2"},
        {"k_spacing": 1.0},
        {"radial": 1},
        {"bottleneck": 0},
        {"residuals": -1},
        {"lattice": (1, 1)},
        {"lattice": (1, -1, 1)},
        {"frame": "body"},
        {"activation": "relu"},
    ],
    ids=str,
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigError, match=r"required|choice"):
        EwaldMessages(**options)


def test_an_unknown_size_names_the_known():
    with pytest.raises(ConfigError, match="Did you mean 'schnet'"):
        EwaldMessages.of_size(size="shnet")
