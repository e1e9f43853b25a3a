"""What holds for every network: symmetries, smoothness, edge cases; and for those on edges both ways of updates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from mcgm.backbones import BACKBONES, backbone_class, backbone_sizes
from mcgm.backbones.base import Backbone
from mcgm.batch import Batch
from mcgm.errors import ConfigError

CUTOFF = 4.0
SF6 = Atoms("SF6", np.concatenate([np.zeros((1, 3)), 1.56 * np.eye(3), -1.56 * np.eye(3)]))
WIDTHS = {"channels": 8, "message_channels": 8, "triplet_channels": 4, "basis_channels": 3, "radial": 3, "degrees": 3}
OPTIONS = {
    "schnet": {"channels": 8, "filters": 8, "radial": 6},
    "painn": {"channels": 8, "radial": 4},
    "visnet": {"channels": 8, "heads": 2, "radial": 4, "degree": 2},
    "dimenet++": WIDTHS,
    "gemnet-t": WIDTHS | {"bilinear_channels": 4},
}
WAYS = ["edges", "atom_stream"]
CHOICES = ["schnet", "painn", "visnet", *(f"{name}, {way}" for name in ("dimenet++", "gemnet-t") for way in WAYS)]


@pytest.fixture(params=OPTIONS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["dimenet++", "gemnet-t"])
def on_edges(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=CHOICES)
def choice(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """A network, and for those on edges the way of updates."""
    return tuple(request.param.split(", "))


def network(name: str, update: str | None = None, layers: int = 2) -> Backbone:
    """A small network in float64 whose biases are not zero, as after training."""
    torch.manual_seed(0)
    way = {} if update is None else {"update": update}
    backbone = backbone_class(name)(cutoff=CUTOFF, layers=layers, **OPTIONS[name], **way).double()
    for key, parameter in backbone.named_parameters():
        if key.endswith("bias"):
            nn.init.normal_(parameter, std=0.3)
    return backbone


def test_every_backbone_is_tested_here():
    assert set(OPTIONS) == set(BACKBONES)


def collate(*atoms: Atoms, dtype: torch.dtype = torch.float64) -> Batch:
    return Batch.from_atoms(list(atoms), cutoff=CUTOFF, dtype=dtype)


def atom_energies(backbone: Backbone, batch: Batch, strength: float = 0.3) -> Tensor:
    """Energies with an update of the atoms after every layer, as from a long-range block."""
    state = backbone.embed(batch, batch.edges, backbone.index(batch))
    for layer in range(backbone.layers):
        state = backbone.interact(layer, state)
        if strength:
            state = backbone.absorb(state, strength * torch.tanh(backbone.scalars(state)))
    return backbone.atom_energies(state)


def energy_and_forces(backbone: Backbone, batch: Batch) -> tuple[Tensor, Tensor]:
    batch = batch.replace(positions=batch.positions.clone().requires_grad_())
    energy = atom_energies(backbone, batch)
    return energy.detach(), -torch.autograd.grad(energy.sum(), batch.positions)[0]


def rattled(atoms: Atoms) -> Atoms:
    atoms = atoms.copy()
    atoms.rattle(0.1, seed=1)
    return atoms


@pytest.mark.parametrize("improper", [False, True])
def test_energy_is_unchanged_and_forces_turn_with_the_molecule(name, improper):
    atoms = rattled(molecule("CH3CH2OH"))
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation)) * (-1 if improper else 1)
    turned = Atoms(atoms.numbers, atoms.positions @ rotation.T + 3.0)
    energy, forces = energy_and_forces(network(name), collate(atoms))
    turned_energy, turned_forces = energy_and_forces(network(name), collate(turned))
    torch.testing.assert_close(turned_energy, energy, atol=1e-10, rtol=0)
    torch.testing.assert_close(turned_forces, forces @ torch.from_numpy(rotation).T, atol=1e-9, rtol=0)


def test_energy_knows_angles_in_all_but_schnet(name):
    """Two structures with the same distances from every atom to its neighbours but other angles differ."""
    backbone = network(name)
    bent = Atoms("OH2", [[0, 0, 0], [1, 0, 0], [np.cos(2), np.sin(2), 0]])
    open_angle = bent.copy()
    open_angle.positions[2] = [np.cos(2.5), np.sin(2.5), 0]
    chains = [Atoms("OH2", atoms.positions * 0.75 * backbone.cutoff) for atoms in (bent, open_angle)]
    assert len(collate(*chains).neighbors.source) == 8
    energies = atom_energies(backbone, collate(*chains))
    assert ((energies[:3] - energies[3:]).abs().max() > 1e-8) == (name != "schnet")


def test_reordering_atoms_reorders_energies(name):
    atoms = rattled(molecule("CH3CH2OH"))
    order = np.random.default_rng(0).permutation(len(atoms))
    energy, forces = energy_and_forces(network(name), collate(atoms))
    other_energy, other_forces = energy_and_forces(network(name), collate(atoms[order]))
    torch.testing.assert_close(other_energy, energy[order], atol=1e-10, rtol=0)
    torch.testing.assert_close(other_forces, forces[order], atol=1e-9, rtol=0)


def test_batch_mates_of_any_kind_change_nothing(name):
    crystal, alone = rattled(bulk("NaCl", "rocksalt", 5.0) * (2, 1, 1)), Atoms("H")
    structures = [molecule("HCN"), crystal, alone, molecule("C2H6"), Atoms("Ar2", [[0, 0, 0], [0, 0, 9.0]])]
    backbone = network(name)
    together, forces = energy_and_forces(backbone, collate(*structures))
    apart = [energy_and_forces(backbone, collate(atoms)) for atoms in structures]
    torch.testing.assert_close(together, torch.cat([energy for energy, _ in apart]), atol=1e-10, rtol=0)
    torch.testing.assert_close(forces, torch.cat([force for _, force in apart]), atol=1e-9, rtol=0)


def test_a_supercell_has_the_energy_of_its_cells(name):
    cell = rattled(bulk("NaCl", "rocksalt", 5.0))
    single, twice = (
        atom_energies(network(name), collate(atoms), strength=0).sum() for atoms in (cell, cell * (2, 1, 2))
    )
    torch.testing.assert_close(twice, 4 * single, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    "atoms",
    [molecule("HCN"), molecule("CO2"), molecule("CH4"), SF6, Atoms("H"), Atoms("Ar2", [[0, 0, 0], [0, 0, 9.0]])],
)
def test_forces_are_finite_and_equal_differences_where_angles_are_flat_or_absent(choice, atoms):
    backbone = network(*choice)
    batch = collate(atoms)
    energy, forces = energy_and_forces(backbone, batch)
    assert energy.isfinite().all()
    for axis in range(3):
        shift = torch.zeros_like(batch.positions)
        shift[0, axis] = 1e-4
        near, far = (difference(backbone, batch, shift * scale) for scale in (1, 2))
        torch.testing.assert_close(forces[0, axis], (far / 2 - 4 * near) / 3 / 2e-4, atol=1e-7, rtol=1e-7)


def difference(backbone: Backbone, batch: Batch, shift: Tensor) -> Tensor:
    ahead, behind = (
        atom_energies(backbone, batch.replace(positions=batch.positions + s * shift)).sum() for s in (1, -1)
    )
    return ahead - behind


@pytest.mark.parametrize("atoms", [molecule("HCN"), bulk("Cu", "fcc", 3.6)])
def test_energy_is_twice_differentiable_for_linear_molecules_and_crystals(choice, atoms):
    backbone, batch = network(*choice), collate(atoms)
    inputs = (batch.positions.clone().requires_grad_(), batch.cell.clone().requires_grad_())

    def energy(positions: Tensor, cell: Tensor) -> Tensor:
        return atom_energies(backbone, batch.replace(positions=positions, cell=cell)).sum()

    assert gradcheck(energy, inputs)
    assert gradgradcheck(energy, inputs, atol=1e-4)


def test_energy_and_forces_have_no_step_where_a_neighbour_leaves(name):
    """Energies, forces and their slope just inside the cutoff equal those without the edge, triplets included."""
    backbone, gap = network(name), 1e-6
    results = []
    for distance in (CUTOFF - gap, CUTOFF + gap):
        positions = [[0, 0, 0], [0, 1.1, 0.2], [distance, 0, 0], [distance + 0.9, 0.5, 0]]
        batch = collate(Atoms("OHNH", positions))
        moved = batch.positions.clone().requires_grad_()
        energy = atom_energies(backbone, batch.replace(positions=moved)).sum()
        (force,) = torch.autograd.grad(energy, moved, create_graph=True)
        (slope,) = torch.autograd.grad(force[2, 0], moved)
        results.append((energy.detach(), force.detach(), slope, len(batch.neighbors.source)))
    (energy, force, slope, edges), (other_energy, other_force, other_slope, other_edges) = results
    assert edges > other_edges
    torch.testing.assert_close(energy, other_energy, atol=1e-8, rtol=0)
    torch.testing.assert_close(force, other_force, atol=1e-5, rtol=0)
    torch.testing.assert_close(slope, other_slope, atol=1e-4, rtol=0)


def test_float32_agrees_with_float64(name):
    backbone = network(name)
    exact = atom_energies(backbone, collate(molecule("C6H6")))
    single = atom_energies(backbone.float(), collate(molecule("C6H6"), dtype=torch.float32))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, atol=1e-5, rtol=1e-5)


def test_scalars_grow_by_what_they_absorb_and_every_update_reaches_the_energy(choice):
    backbone, batch = network(*choice), collate(molecule("CH4"))
    state = backbone.embed(batch, batch.edges, backbone.index(batch))
    updates = []
    for layer in range(backbone.layers):
        state = backbone.interact(layer, state)
        before = backbone.scalars(state)
        assert before.shape == (batch.n_atoms, backbone.channels)
        updates.append(torch.full_like(before, 0.1).requires_grad_())
        state = backbone.absorb(state, updates[-1])
        torch.testing.assert_close(backbone.scalars(state), before + 0.1)
    gradients = torch.autograd.grad(backbone.atom_energies(state).sum(), updates)
    assert all(gradient.abs().max() > 1e-6 for gradient in gradients)


def test_updates_through_edges_reach_other_atoms_and_those_in_a_stream_do_not(on_edges):
    reach = {}
    for update in WAYS:
        backbone, batch = network(on_edges, update), collate(molecule("CH4"))
        state = backbone.interact(0, backbone.embed(batch, batch.edges, backbone.index(batch)))
        change = torch.zeros_like(backbone.scalars(state)).requires_grad_()
        state = backbone.interact(1, backbone.absorb(state, change))
        (gradient,) = torch.autograd.grad(backbone.atom_energies(state)[0], change)
        reach[update] = gradient[1:].abs().max()
    assert reach["edges"] > 1e-8
    assert reach["atom_stream"] == 0


def test_without_updates_every_way_gives_the_local_energy(on_edges):
    batch = collate(molecule("CH4"))
    weights = network(on_edges, "none").state_dict()
    energies = []
    for update in (*WAYS, "none"):
        backbone = network(on_edges, update)
        backbone.load_state_dict(weights, strict=False)
        energies.append(atom_energies(backbone, batch, strength=0))
    assert torch.equal(energies[0], energies[1])
    assert torch.equal(energies[0], energies[2])


def test_a_network_without_a_place_for_updates_refuses_them(on_edges):
    with pytest.raises(ConfigError, match='update="edges"'):
        atom_energies(network(on_edges, "none"), collate(molecule("CH4")))


def test_an_unknown_way_is_named_with_the_nearest_one(on_edges):
    with pytest.raises(ConfigError, match="Did you mean 'edges'"):
        network(on_edges, "edge")


def test_hyperparameters_build_the_same_network_again(name):
    first = backbone_class(name)(**backbone_sizes(name)["small"], cutoff=5.0)
    again = backbone_class(name)(**first.hyperparameters)
    assert [p.shape for p in again.parameters()] == [p.shape for p in first.parameters()]
