"""Neural P3M: exchange with the mesh and Fourier layers against slow sums, and what the block promises and does not."""

import itertools

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from mcgm import Batch, attach, build, load
from mcgm.backbones import BACKBONES
from mcgm.errors import ConfigError, StructureError
from mcgm.long_range import NeuralP3M
from mcgm.long_range.fourier import FourierLayer
from mcgm.long_range.p3m import SOFTENING
from mcgm.radial import PolynomialEnvelope
from mcgm.structure import Structure
from mcgm.testing import (
    DOUBLE,
    InvarianceSuite,
    PhysicsSuite,
    copies_apart,
    finite_differences,
    reflection,
    rotation,
    stress_finite_differences,
    supercell,
    translation,
    unlike_apart,
    zoo,
)
from mcgm.testing.predict import energies, predict

CUTOFF = 4.0
CHANNELS = 6
MESH = (4, 3, 2)


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
    return NeuralP3M(**({"mesh": MESH, "radial": 6, "filters": 5} | options)).build(CHANNELS, 2).double()


def make_potential(backbone="schnet", **options):
    torch.manual_seed(5)
    small = {"channels": 12, "radial": 8, "layers": 2} if backbone in ("schnet", "painn") else {"layers": 1}
    options = {"mesh": MESH, "radial": 8, "filters": 8} | options
    potential = build(
        backbone=backbone,
        long_range="neural_p3m",
        long_range_options=options,
        cutoff=CUTOFF,
        backbone_options=small,
    )
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return potential.double().eval()


# --- the mesh, its pairs and its convolution, one by one


def slow_points(atoms, margin=1.0):
    """Mesh points with their number, images apart, and the atoms' places, by loops."""
    if atoms.pbc.all():
        place, origin, edges = atoms.positions, np.zeros(3), atoms.cell.array
        images = list(itertools.product(range(-1, 2), repeat=3))
    else:
        arm = atoms.positions - atoms.positions.mean(0)
        values, axes = np.linalg.eigh(arm.T @ arm)
        axes = axes[:, np.argsort(-values)]
        axes = axes * np.where(((arm @ axes) ** 3).sum(0) < -1e-9, -1, 1)
        low, high = (arm @ axes).min(0) - margin, (arm @ axes).max(0) + margin
        place, origin, edges, images = arm, axes @ low, (high - low)[:, None] * axes.T, [(0, 0, 0)]
    points = []
    for image in images:
        for number, index in enumerate(itertools.product(*map(range, MESH))):
            fraction = (np.array(index) + 0.5) / MESH + image
            points.append((number, origin + fraction @ edges))
    return place, points


def slow_convolution(convolution, block, features, place, points, to_mesh):
    """Sums over all atoms, points and images in reach, filters evaluated one at a time."""
    count = np.prod(MESH) if to_mesh else len(place)
    summed = torch.zeros(count, 5, dtype=torch.float64)
    envelope = PolynomialEnvelope(4.0)
    for atom, x in enumerate(place):
        for number, y in points:
            if np.linalg.norm(x - y) >= 4.0:
                continue
            length = torch.tensor([np.sqrt(np.sum((x - y) ** 2) + SOFTENING**2)])
            weight = convolution.filter(block.basis(length))[0] * envelope(length)
            source, target = (atom, number) if to_mesh else (number, atom)
            summed[target] += weight * convolution.source(features[source])
    return convolution.output(summed)


def slow_fourier(layer, points):
    """The convolution as a sum over frequencies and points, each in complex numbers."""
    grid, count = np.array(list(itertools.product(*map(range, MESH)))), np.prod(MESH)
    half = MESH[2] // 2 + 1
    kept = {int(mode): row for row, mode in enumerate(layer.modes)}
    factor = torch.view_as_complex(layer.mixing.factor).numpy()
    found = np.zeros(points.shape, dtype=complex)
    for f in grid:
        mirror = (-f) % MESH
        mode, conjugate = (f, False) if f[2] < half else (mirror, True)
        place = int((mode[0] * MESH[1] + mode[1]) * half + mode[2])
        if place not in kept:
            continue
        g = factor[kept[place]]
        g = g.conj() if conjugate else g
        if f[2] == mirror[2]:  # planes that hold a frequency and its mirror image: the real part of the transform
            other = factor[kept[int((mirror[0] * MESH[1] + mirror[1]) * half + mirror[2])]]
            g = (g + other.conj()) / 2
        phases = np.exp(-2j * np.pi * (grid / MESH) @ f)
        found += phases.conj()[:, None] * g * (phases[:, None] * points).sum(0) / count
    assert np.abs(found.imag).max() < 1e-12
    return found.real


def test_exchanges_of_a_ragged_batch_equal_slow_sums():
    structures = [molecule("CH3CH2OH"), skewed(), molecule("CH3SH"), Atoms("He")]
    batch, block = batch_of(*structures), make_block().requires_grad_(False)
    scalars = torch.randn(batch.n_atoms, CHANNELS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    state, found = block.begin(batch, block.index(batch), clusters=None, generator=None), []
    for layer in range(2):
        update, state = block.exchange(layer, scalars, state)
        found.append(update)
    sizes = [len(atoms) for atoms in structures]
    parts = zip(structures, scalars.split(sizes), *(update.split(sizes) for update in found), strict=True)
    energy = block.contribution(scalars, state)
    assert energy.molecule.tolist() == sorted(list(range(4)) * 24)
    for k, (atoms, own, *updates) in enumerate(parts):
        place, points = slow_points(atoms)
        mesh = torch.zeros(24, CHANNELS, dtype=torch.float64)
        for layer, update in enumerate(updates):
            mesh = mesh + slow_convolution(block.to_mesh[layer], block, own, place, points, to_mesh=True)
            fourier = block.fourier[layer]
            reach = torch.from_numpy(slow_fourier(fourier, mesh.numpy()))
            mesh = mesh + torch.nn.functional.silu(fourier.pointwise(mesh) + reach)
            expected = slow_convolution(block.to_atoms[layer], block, mesh, place, points, to_mesh=False)
            torch.testing.assert_close(update, expected, rtol=1e-10, atol=1e-11)
        torch.testing.assert_close(energy.energy[energy.molecule == k], block.heads[0](mesh), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("mixing", ["channelwise", "full"])
def test_a_fourier_layer_is_a_convolution_that_frequencies_left_out_do_not_enter(mixing):
    torch.manual_seed(0)
    layer = FourierLayer(2, (5, 4, 3), (1, 0, 1), mixing, torch.nn.SiLU).double()
    grid = torch.randn(1, 5, 4, 3, 2, dtype=torch.float64)

    def convolved(values):
        return layer.convolve(values.reshape(-1, 2)).reshape(grid.shape)

    shifted = torch.roll(grid, (2, 1, 1), dims=(1, 2, 3))
    torch.testing.assert_close(convolved(shifted), torch.roll(convolved(grid), (2, 1, 1), dims=(1, 2, 3)))
    x, y = torch.arange(5, dtype=torch.float64), torch.arange(4, dtype=torch.float64)
    high = torch.cos(4 * torch.pi * x / 5)[:, None, None, None] + torch.cos(torch.pi * y / 2)[:, None, None]
    torch.testing.assert_close(convolved(grid + high), convolved(grid))
    low = torch.cos(2 * torch.pi * x / 5)[:, None, None, None]
    assert (convolved(grid + low) - convolved(grid)).abs().max() > 1e-2


def test_published_width_has_about_the_published_parameters():
    """ViSNet of MD22 (128 wide) gets 0.15 million per layer; full matrices would need four times that."""
    sizes = [
        sum(
            p.numel()
            for p in NeuralP3M.of_size(size="nanotube", mesh=(3, 3, 3), mixing=mixing).build(128, 1).parameters()
        )
        for mixing in ("channelwise", "full")
    ]
    assert 5e4 < sizes[0] < 1.5e5 < 6e5 < sizes[1]


# --- crystals


def test_a_crystal_may_move_by_mesh_spacings_and_its_atoms_by_lattice_vectors_and_no_less():
    potential, atoms = make_potential(), skewed()
    images = np.random.default_rng(0).integers(-2, 3, (5, 3))

    def moved(fractions):
        return Structure.from_atoms(Atoms(atoms, positions=atoms.positions + fractions @ atoms.cell.array))

    steps = [np.zeros(3), images, [0.25, 0, 0], [0.5, 1 / 3, 0.5], [0.1, 0, 0]]
    found = energies(potential, [moved(np.asarray(step)) for step in steps])
    np.testing.assert_allclose(found[1:4], found[0], rtol=0, atol=1e-12)
    assert abs(found[4] - found[0]) > 1e-4


def test_wires_are_refused():
    with pytest.raises(StructureError, match="three periodic axes"):
        make_block().index(batch_of(Atoms("Cu", cell=[3, 9, 9], pbc=(True, False, False))))


# --- what it promises


class P3MClaims:
    count = 2

    def structures(self):
        crystal = Structure.from_atoms(skewed(), name="skewed cell")
        return [rattled_methane(), zoo()["alanine dipeptide"], crystal]

    def not_promised(self):
        """Structures without symmetry and without ties: only what never holds."""
        never = ("translation", "copies", "isolation")
        assert set(never) < set(self.potential().not_promised)
        return dict.fromkeys(never, "declared")

    def test_molecules_may_be_anywhere(self):
        for structure in self.structures()[:2]:
            self._equal(translation(self.potential(), structure, count=2), structure)

    # numerical in all coordinates; the check of the Hessian along one direction says the same
    test_gradgradcheck_accepts_positions_and_cell = None
    # a hydrogen at the cutoff is the outermost atom
    test_nothing_steps_at_the_cutoff = None


class TestP3M(P3MClaims, PhysicsSuite):
    def potential(self):
        return make_potential()


class TestInSingle(P3MClaims, InvarianceSuite):
    def potential(self):
        return make_potential("painn", mixing="full", modes=(1, 1, 1), energy_from="atoms").float()


# --- what it does not


def test_the_force_jumps_where_another_atom_becomes_the_outermost():
    """Continuous energy, broken slope: two atoms that reach equally far along an axis."""
    potential = make_potential(frame="laboratory")
    assert not potential.is_smooth
    structure = zoo()["alanine dipeptide"]
    tied = structure.positions.copy()
    first, second = np.argsort(tied[:, 0])[-2:]
    tied[first, 0] = tied[second, 0]
    changes = []
    for step in (1e-3, 1e-5):
        moves = [np.zeros_like(tied), np.zeros_like(tied)]
        moves[0][first, 0], moves[1][first, 0] = -step, step
        inside, outside = predict(potential, [structure.replace(positions=tied + move) for move in moves])
        changes.append((abs(inside.energy - outside.energy), np.abs(inside.forces - outside.forces).max()))
    assert changes[1][0] < 0.1 * changes[0][0]
    assert changes[1][1] > 0.5 * changes[0][1] > 1e-4


def test_what_is_not_promised_does_not_hold():
    potential, animals, crystal = make_potential(), zoo(), Structure.from_atoms(skewed())
    left_out = potential.not_promised
    for check in (rotation, reflection):
        assert check(potential, animals["CH4"], count=3).energy > 1e3 * DOUBLE.energy
        assert check(potential, crystal, count=3).energy < DOUBLE.energy
        fixed = make_potential(frame="laboratory")
        assert check(fixed, animals["alanine dipeptide"], count=3).energy > 1e3 * DOUBLE.energy
    assert finite_differences(potential, animals["HCN"]) > DOUBLE.difference
    assert stress_finite_differences(potential, crystal) < DOUBLE.difference
    assert translation(potential, crystal, count=3).energy > 1e3 * DOUBLE.energy
    assert supercell(potential, crystal).energy > 1e3 * DOUBLE.energy
    assert copies_apart(potential, animals["HCN"]) > 1e3 * DOUBLE.copies
    assert unlike_apart(potential, animals["HCN"], animals["CH4"]) > 1e-3
    names = {"smooth", "derivatives", "rotation", "reflection", "translation", "supercell", "copies", "isolation"}
    assert set(left_out) == names


# --- in its slot


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_takes_it_and_a_file_keeps_it(backbone, tmp_path):
    potential = make_potential(backbone, modes=(1, 1, 0))
    structures = [zoo()["HCN"], rattled_methane()]
    potential.save(tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert again.specification == potential.specification
    for before, after in zip(predict(potential, structures), predict(again, structures), strict=True):
        assert before.energy == after.energy
        assert np.isfinite(before.forces).all()


def test_mesh_points_have_energies_unless_told_otherwise():
    batch = batch_of(molecule("CH3OH"), skewed())
    assert make_potential()(batch).cluster_energy.abs().min() > 1e-3
    assert not make_potential(energy_from="atoms")(batch).cluster_energy.any()


def test_it_can_be_attached(bare_network):
    batch = batch_of(molecule("CH3OH"), molecule("H2O"), dtype=torch.float32)
    inputs = batch.numbers, batch.positions, batch.molecule
    torch.manual_seed(0)
    model = bare_network()
    before = model(*inputs)
    attach(model, "neural_p3m", layers=list(model.layers), channels=6)
    assert (model(*inputs) - before).abs().min() > 1e-4


def test_published_sizes():
    block = NeuralP3M.paper()
    assert (block.mesh, block.cutoff, block.margin, block.radial, block.filters) == ((3, 3, 3), 4.0, 1.0, 200, 256)
    assert build(long_range="neural_p3m", long_range_options={"size": "ag"}).specification.mesh == (3, 3, 2)


@pytest.mark.parametrize(
    "options",
    [
        {"mesh": (3, 3)},
        {"mesh": (3, 0, 3)},
        {"cutoff": -1.0},
        {"margin": 0.0},
        {"radial": 1},
        {"filters": 0},
        {"modes": 2},
        {"mixing": "diagonal"},
        {"energy_from": "mesh"},
        {"frame": "body"},
        {"activation": "relu"},
    ],
    ids=str,
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigError, match=r"required|choice"):
        NeuralP3M(**options)
