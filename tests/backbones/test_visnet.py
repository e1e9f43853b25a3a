"""ViSNet against PyTorch Geometric's, its symmetries, and where its published form would not be smooth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor, nn

from mcgm.backbones.visnet import SIZES, ExpNormalBasis, ViSNet
from mcgm.batch import Batch
from mcgm.errors import ConfigError
from mcgm.long_range import MCGM
from mcgm.potential import NetworkPotential, Potential
from mcgm.testing import PhysicsSuite

CUTOFF = 4.0
SF6 = Atoms("SF6", np.concatenate([np.zeros((1, 3)), 1.56 * np.eye(3), -1.56 * np.eye(3)]))
TINY = {"channels": 8, "layers": 2, "heads": 2, "radial": 6}


def network(seed: int = 0, **options: object) -> ViSNet:
    """A small network in float64 whose biases are not zero, as after training."""
    torch.manual_seed(seed)
    visnet = ViSNet(**({"cutoff": CUTOFF} | TINY | options)).double()
    for name, parameter in visnet.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.3)
    return visnet


def atom_energies(visnet: ViSNet, batch: Batch) -> Tensor:
    state = visnet.embed(batch, batch.edges, visnet.index(batch))
    for layer in range(visnet.layers):
        state = visnet.interact(layer, state)
        state = visnet.absorb(state, 0.1 * torch.tanh(visnet.scalars(state)))
    return visnet.atom_energies(state)


def plain_energy(visnet: ViSNet, batch: Batch) -> Tensor:
    state = visnet.embed(batch, batch.edges, visnet.index(batch))
    for layer in range(visnet.layers):
        state = visnet.interact(layer, state)
    return batch.positions.new_zeros(batch.n_molecules).index_add(0, batch.molecule, visnet.atom_energies(state))


def collate(*atoms: Atoms, cutoff: float = CUTOFF) -> Batch:
    return Batch.from_atoms(list(atoms), cutoff=cutoff, dtype=torch.float64)


def energy_and_forces(visnet: ViSNet, batch: Batch) -> tuple[Tensor, Tensor]:
    batch = batch.replace(positions=batch.positions.clone().requires_grad_())
    energy = atom_energies(visnet, batch)
    return energy.detach(), -torch.autograd.grad(energy.sum(), batch.positions)[0]


# --- the independent implementation


class GivenPairs(nn.Module):
    """In place of the oracle's neighbour search, which needs a library that is not on PyPI."""

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self.batch = batch

    def forward(self, positions: Tensor, _molecule: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        edges = self.batch.replace(positions=positions).edges
        atoms = torch.arange(len(positions))
        index = torch.stack([torch.cat([edges.source, atoms]), torch.cat([edges.target, atoms])])
        zeros = positions.new_zeros(len(atoms))
        return index, torch.cat([edges.length, zeros]), torch.cat([edges.vector, zeros[:, None].expand(-1, 3)])


def oracle_for(visnet: ViSNet, batch: Batch) -> nn.Module:
    """PyTorch Geometric's network with the weights of ours, in float64.

    What differs by design: the bias of `s_proj` (ours has none) keeps its initial zero; the readout's rounded norm is
    made sharp by the caller.
    """
    pyg = pytest.importorskip("torch_geometric.nn.models.visnet")
    own = visnet.hyperparameters
    oracle = pyg.ViSNet(
        lmax=own["degree"],
        num_heads=own["heads"],
        num_layers=own["layers"],
        hidden_channels=own["channels"],
        num_rbf=own["radial"],
        cutoff=own["cutoff"],
        vertex=True,
    ).double()
    block = oracle.representation_model
    block.distance = GivenPairs(batch)
    block.distance_expansion.means.copy_(visnet.basis.centers)
    block.distance_expansion.betas.fill_(visnet.basis.sharpness)
    copy_embedding(visnet, block)
    for layer, theirs in enumerate(block.vis_mp_layers):
        copy_layer(visnet.messages[layer], theirs)
        if layer < visnet.layers - 1:
            copy_update(visnet.pair_updates[layer], theirs)
    block.out_norm.load_state_dict(visnet.readout.norm.state_dict())
    copy_readout(visnet.readout, oracle.output_model.output_network)
    return oracle


def put(theirs: nn.Linear, weight: Tensor, bias: Tensor | None = None) -> None:
    with torch.no_grad():
        theirs.weight.copy_(weight)
        if bias is not None:
            theirs.bias.copy_(bias)


def put_split(linear: nn.Linear, *theirs: nn.Linear) -> None:
    biases = linear.bias.chunk(len(theirs)) if linear.bias is not None else (None,) * len(theirs)
    for other, weight, bias in zip(theirs, linear.weight.chunk(len(theirs)), biases, strict=True):
        put(other, weight, bias)


def copy_embedding(visnet: ViSNet, block: nn.Module) -> None:
    put(block.embedding, visnet.element.weight[:100])
    put(block.neighbor_embedding.embedding, visnet.neighbor_element.weight[:100])
    put_split(visnet.neighbor_filter, block.neighbor_embedding.distance_proj)
    put_split(visnet.combine, block.neighbor_embedding.combine)
    put_split(visnet.pair_filter, block.edge_embedding.edge_proj)


def copy_layer(ours: nn.Module, theirs: nn.Module) -> None:
    theirs.layernorm.load_state_dict(ours.norm.state_dict())
    put_split(ours.query, theirs.q_proj)
    put_split(ours.key_value, theirs.k_proj, theirs.v_proj)
    put_split(ours.pair_key_value, theirs.dk_proj, theirs.dv_proj)
    put_split(ours.spread, theirs.s_proj)
    put_split(ours.inner, theirs.vec_proj)
    put_split(ours.out, theirs.o_proj)


def copy_update(ours: nn.Module, theirs: nn.Module) -> None:
    put_split(ours.pair, theirs.f_proj)
    put_split(ours.of_target, theirs.w_trg_proj, theirs.t_trg_proj, theirs.t_src_proj)
    put_split(ours.of_source, theirs.w_src_proj)


def copy_readout(ours: nn.Module, theirs: nn.ModuleList) -> None:
    put(theirs[0].vec1_proj, ours.measure.weight)
    put(theirs[0].vec2_proj, ours.turn.weight)
    theirs[0].update_net.load_state_dict(ours.gate.state_dict())
    put(theirs[1].vec1_proj, ours.last_measure.weight)
    theirs[1].update_net[0].load_state_dict(ours.last[0].state_dict())
    with torch.no_grad():
        theirs[1].update_net[2].weight[:1].copy_(ours.last[2].weight)
        theirs[1].update_net[2].bias[:1].copy_(ours.last[2].bias)


@pytest.mark.parametrize("degree", [1, 2])
def test_energies_and_forces_agree_with_pytorch_geometric(degree: int) -> None:
    visnet = network(channels=16, layers=3, heads=4, degree=degree, envelope="cosine", softness=1e-12)
    batch = collate(molecule("CH3CH2OH"), molecule("C6H6"), molecule("CH3COCH3"))
    positions = batch.positions + 0.1 * torch.randn(batch.positions.shape, dtype=torch.float64)
    positions.requires_grad_()
    batch = batch.replace(positions=positions)
    ours = plain_energy(visnet, batch)
    theirs = oracle_for(visnet, batch)(batch.numbers, positions, batch.molecule)[0].squeeze(-1)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    forces = [torch.autograd.grad(energy.sum(), positions)[0] for energy in (ours, theirs)]
    torch.testing.assert_close(*forces, rtol=1e-8, atol=1e-9)
    assert forces[0].abs().max() > 1e-3


def test_paper_size_has_the_published_number_of_parameters() -> None:
    count = sum(parameter.numel() for parameter in ViSNet(cutoff=5.0, **SIZES["paper"]).parameters())
    assert count == 1_936_897
    assert abs(count - 1.94e6) < 0.005e6


# --- symmetries


@pytest.mark.parametrize("degree", [1, 2])
def test_energy_is_unchanged_and_forces_turn_with_rotation_and_reflection(degree: int) -> None:
    visnet = network(degree=degree)
    atoms = molecule("CH3CH2OH")
    orthogonal = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    for matrix in (orthogonal, -orthogonal):
        turned = atoms.copy()
        turned.positions = atoms.positions @ matrix.T + 3.0
        energy, forces = energy_and_forces(visnet, collate(atoms))
        turned_energy, turned_forces = energy_and_forces(visnet, collate(turned))
        torch.testing.assert_close(turned_energy, energy, rtol=0, atol=1e-10)
        torch.testing.assert_close(turned_forces, forces @ torch.from_numpy(matrix.T), rtol=0, atol=1e-9)


def test_energy_tells_mirrored_dihedrals_and_angles_apart_from_others() -> None:
    visnet = network()
    energies = []
    for twist in (0.0, 0.6, 1.2):
        atoms = molecule("H2O2")
        atoms.set_dihedral(2, 0, 1, 3, np.degrees(twist) + 60, indices=[3])
        energies.append(energy_and_forces(visnet, collate(atoms, cutoff=2.5))[0].sum())
    assert (torch.stack(energies).diff().abs() > 1e-6).all()


class TestPhysicsWithMCGM(PhysicsSuite):
    def potential(self) -> Potential:
        return NetworkPotential(network(degree=2), MCGM.smooth(levels=2)).double().eval()


# --- edge cases


@pytest.mark.parametrize(
    "atoms",
    [
        Atoms("H"),
        Atoms("HeHe", [[0, 0, 0], [9, 0, 0]]),
        molecule("HCN"),
        SF6,
        bulk("NaCl", "rocksalt", a=5.6),
        bulk("Cu", a=3.6),
    ],
    ids=["one atom", "no edges", "linear", "octahedral", "crystal", "own images only"],
)
def test_first_and_second_derivatives_are_finite(atoms: Atoms) -> None:
    """Vectors vanish exactly on these: the bare norm would give NaN."""
    visnet = network(degree=2)
    batch = collate(atoms)
    positions = batch.positions.clone().requires_grad_()
    energy = atom_energies(visnet, batch.replace(positions=positions)).sum()
    (gradient,) = torch.autograd.grad(energy, positions, create_graph=True)
    gradient.square().sum().backward()
    for tensor in (gradient, positions.grad, *(p.grad for p in visnet.parameters() if p.grad is not None)):
        assert tensor.isfinite().all()


# --- the cutoff


def cross_cutoff(visnet: ViSNet) -> tuple[Tensor, Tensor]:
    """Energy, force and its slope on atom 2 just inside, and just outside, the cutoff."""
    results = []
    for shift in (-1e-6, 1e-6):
        atoms = Atoms("OHH", [[0, 0, 0], [0, 0.9, 0.2], [CUTOFF + shift, 0, 0]])
        batch = collate(atoms)
        positions = batch.positions.clone().requires_grad_()
        energy = atom_energies(visnet, batch.replace(positions=positions)).sum()
        (gradient,) = torch.autograd.grad(energy, positions, create_graph=True, allow_unused=True)
        (slope,) = torch.autograd.grad(gradient[2, 0], positions, allow_unused=True)
        slope = torch.zeros_like(positions) if slope is None else slope
        results.append(torch.cat([energy.reshape(1), gradient[2], slope[2, :1]]).detach())
    return results[0], results[1]


def test_the_published_cosine_cutoff_would_let_the_slope_of_the_force_jump() -> None:
    inside, outside = cross_cutoff(network(envelope="cosine"))
    assert (inside[4] - outside[4]).abs() > 1e-4


# --- settings


def test_the_same_hyperparameters_build_the_same_network() -> None:
    visnet = network(degree=2)
    again = ViSNet(**visnet.hyperparameters).double()
    again.load_state_dict(visnet.state_dict())
    batch = collate(molecule("H2O"))
    assert torch.equal(atom_energies(visnet, batch), atom_energies(again, batch))


@pytest.mark.parametrize(
    "options", [{"heads": 3}, {"degree": 3}, {"envelope": "cosinus"}, {"softness": 0.0}, {"channels": 9, "heads": 3}]
)
def test_impossible_settings_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"visnet|envelope"):
        ViSNet(cutoff=CUTOFF, **(TINY | options))


def test_radial_basis_follows_its_formula() -> None:
    basis = ExpNormalBasis(5.0, 3)(torch.tensor([1.0]))
    start = np.exp(-5.0)
    centers = np.array([start, (1 + start) / 2, 1])
    expected = np.exp(-((2 / 3 * (1 - start)) ** -2) * (np.exp(-1.0) - centers) ** 2)
    np.testing.assert_allclose(basis[0].numpy(), expected, rtol=1e-5)
