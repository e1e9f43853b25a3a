"""GemNet-T against xnn's, with the same weights, and its scale factors."""

from __future__ import annotations

import math

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor, nn

from mcgm.backbones.gemnet import SIZES, GemNetT
from mcgm.backbones.scale_factors import ScaleFactor, fit_scale_factors
from mcgm.batch import Batch
from mcgm.errors import ConfigError, DataError

CUTOFF = 4.0
TINY = {
    "channels": 12,
    "layers": 2,
    "message_channels": 16,
    "triplet_channels": 8,
    "bilinear_channels": 6,
    "basis_channels": 4,
    "radial": 5,
    "degrees": 4,
    "depths": (1, 2, 1, 2),
}


def network(**options: object) -> GemNetT:
    """A small network in float64 whose frequencies and scale factors have left their initial values."""
    torch.manual_seed(0)
    gemnet = GemNetT(**({"cutoff": CUTOFF, "update": "none", "envelope": "dimenet"} | TINY | options)).double()
    with torch.no_grad():
        for module in gemnet.modules():
            if isinstance(module, ScaleFactor):
                module.factor.fill_(float(torch.rand(())) + 0.1)
        if gemnet.hyperparameters["basis"] == "bessel":
            gemnet.basis.bessel.frequencies.mul_(1.05)
        for output in gemnet.outputs:
            output.readout.weight.mul_(0.1)
    return gemnet


def collate(*atoms: Atoms) -> Batch:
    return Batch.from_atoms(list(atoms), cutoff=CUTOFF, dtype=torch.float64)


def atom_energies(gemnet: GemNetT, batch: Batch) -> Tensor:
    state = gemnet.embed(batch, batch.edges, gemnet.index(batch))
    for layer in range(gemnet.layers):
        state = gemnet.interact(layer, state)
    return gemnet.atom_energies(state)


def atom_update_names(theirs: str, ours: str) -> dict[str, str]:
    names = {f"{theirs}.lin_rbf": f"{ours}.gate", f"{theirs}.dense": f"{ours}.dense"}
    for k in range(TINY["depths"][3]):
        names |= {
            f"{theirs}.residuals.{k}.lin{n + 1}": f"{ours}.residuals.{k}.{('first', 'second')[n]}" for n in (0, 1)
        }
    return names


def oracle_for(gemnet: GemNetT) -> nn.Module:
    """xnn's network with our weights. By design its radial bases carry factors of the cutoff, undone in the weights."""
    from xnn.gnn.models.gemnet import GemNet

    before, after, concatenated, atom = TINY["depths"]
    oracle = GemNet(
        n_features=12, n_edge_features=16, n_interactions=2, n_rbf=5, n_spherical=4, cutoff=CUTOFF,
        n_triplet_features=8, n_rbf_features=4, n_cbf_features=4, n_bilinear_triplet=6, n_before_skip=before,
        n_after_skip=after, n_concat=concatenated, n_atom_residual=atom, quadruplets=False,
    )  # fmt: skip
    names = {"lin_rbf3": "gate", "lin_rbf_h": "atom_gate", "lin_rbf_out": "output_gate"}
    names |= {"edge_embedding.dense": "embedding.dense"}
    for layer in range(2):
        theirs, ours = f"interactions.{layer}", f"interactions.{layer}"
        table = {"dense_ca": "dense", "concat.dense": "concatenate.dense"}
        table |= {"trip.dense_ba": "triplets.dense", "trip.lin_rbf": "triplets.gate", "trip.down": "triplets.down"}
        table |= {"trip.up_ca": "triplets.up", "trip.up_ac": "triplets.up_reverse"}
        stacks = (
            ("before_skip", "before", before),
            ("after_skip", "after", after),
            ("residual_m", "refine", concatenated),
        )
        for their_stack, our_stack, depth in stacks:
            for k in range(depth):
                table |= {f"{their_stack}.{k}.lin1": f"{our_stack}.{k}.first"}
                table |= {f"{their_stack}.{k}.lin2": f"{our_stack}.{k}.second"}
        names |= {f"{theirs}.{key}": f"{ours}.{value}" for key, value in table.items()}
        names |= atom_update_names(f"{theirs}.atom_update", f"{ours}.atom_update")
    for layer in range(3):
        names |= atom_update_names(f"outputs.{layer}.atom", f"outputs.{layer}.atoms")
        names |= {f"outputs.{layer}.final": f"outputs.{layer}.readout"}
    with torch.no_grad():
        for theirs, ours in names.items():
            oracle.get_submodule(theirs).weight.copy_(gemnet.get_submodule(ours).weight)
        oracle.atom_embedding.weight.copy_(gemnet.elements.weight[:100])
        oracle.rbf.freqs.copy_(gemnet.basis.bessel.frequencies)
        undo = CUTOFF / math.sqrt(2 / CUTOFF)
        for reader in (oracle.lin_rbf3, oracle.lin_rbf_h, oracle.lin_rbf_out):
            reader.weight.mul_(undo)
        oracle.edge_embedding.dense.weight[:, 24:].mul_(undo)
        oracle.lin_cbf3.weight.copy_(gemnet.basis.weight.flatten(0, 1).T * CUTOFF**1.5)
        for theirs, ours in zip(oracle.interactions, gemnet.interactions, strict=True):
            theirs.trip.bilinear.copy_(ours.triplets.bilinear.weight.T.reshape(4, 8, 6))
        for theirs, ours in zip(oracle_factors(oracle), our_factors(gemnet), strict=True):
            theirs.scale_factor.copy_(ours.factor)
    return oracle


def oracle_factors(oracle: nn.Module) -> list[nn.Module]:
    return list(oracle.scale_factors().values())


def our_factors(gemnet: GemNetT) -> list[ScaleFactor]:
    """In the order in which a pass meets them."""
    factors = [gemnet.outputs[0].atoms.sum_scale]
    for block, output in zip(gemnet.interactions, gemnet.outputs[1:], strict=True):
        factors += [block.triplets.gate_scale, block.triplets.sum_scale, block.atom_update.sum_scale]
        factors.append(output.atoms.sum_scale)
    return factors


def test_paper_size_has_the_number_of_parameters_of_the_benchmarks():
    """14 M for the local network: the 16 M sometimes quoted include a long-range part."""
    gemnet = GemNetT(**SIZES["paper"], update="none")
    count = sum(parameter.numel() for parameter in gemnet.parameters())
    print(f"GemNet-T paper size: {count:,} parameters")
    assert count == pytest.approx(14.06e6, rel=0.005)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("double_by_default")
def test_equals_xnn_on_molecules_and_crystals():
    ours, batch = network(), collate(molecule("CH3CH2OH"), bulk("NaCl", "rocksalt", 5.0), molecule("HCN"))
    oracle = oracle_for(ours)

    def oracle_energies(b: Batch) -> Tensor:
        edges = b.edges
        return oracle.node_energy(b.numbers, torch.stack([edges.source, edges.target]), -edges.vector)

    results = []
    for energies in (lambda b: atom_energies(ours, b), oracle_energies):
        moved = batch.replace(positions=batch.positions.clone().requires_grad_())
        energy = energies(moved)
        results.append((energy.detach(), torch.autograd.grad(energy.sum(), moved.positions)[0]))
    (energy, forces), (reference, reference_forces) = results
    assert reference.abs().min() > 1e-4
    assert reference_forces.abs().max() > 1e-2
    torch.testing.assert_close(energy, reference, rtol=1e-6, atol=0)
    torch.testing.assert_close(forces, reference_forces, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("double_by_default")
def test_fitted_scale_factors_equal_those_that_xnn_fits():
    """In a crystal whose atoms have equally many neighbours: by design the oracle counts an edge once per triplet."""
    from xnn.common.data import AtomicGraph

    crystal = bulk("NaCl", "rocksalt", 5.0) * (2, 2, 2)
    crystal.rattle(0.05, seed=0)
    ours, batch = network(), collate(crystal)
    assert len(torch.bincount(batch.neighbors.target).unique()) == 1
    oracle = oracle_for(ours)
    neighbors = batch.neighbors
    graph = AtomicGraph(
        pos=batch.positions,
        atomic_numbers=batch.numbers,
        edge_index=torch.stack([neighbors.source, neighbors.target]),
        cell_shifts=-neighbors.image.double(),
        batch=batch.molecule,
        n_atoms=torch.bincount(batch.molecule),
        cell=batch.cell,
        pbc=batch.pbc,
    )
    expected = list(oracle.fit_scaling_factors([graph]).values())
    fitted = fit_scale_factors(ours, [batch])
    assert [float(factor.factor) for factor in our_factors(ours)] == list(fitted.values())
    torch.testing.assert_close(torch.tensor(list(fitted.values())), torch.tensor(expected), rtol=0.01, atol=0)


@pytest.mark.parametrize("basis", ["bessel", "gaussian"])
def test_after_fitting_activations_vary_as_much_out_as_in(basis):
    gemnet = network(basis=basis)
    batches = [collate(molecule("CH3CH2OH"), molecule("C6H6")), collate(molecule("CH3COCH3"))]
    fit_scale_factors(gemnet, batches)
    again = fit_scale_factors(gemnet, batches)
    assert len(again) == 2 * 3 + 3
    for name, factor in gemnet.named_modules():
        if isinstance(factor, ScaleFactor):
            assert again[name] == pytest.approx(float(factor.factor), rel=1e-9)
    first = gemnet.state_dict()
    other = GemNetT(**gemnet.hyperparameters).double()
    other.load_state_dict(first)
    assert torch.equal(atom_energies(other, batches[0]), atom_energies(gemnet, batches[0]))


@pytest.mark.parametrize(("basis", "radial"), [("bessel", 6), ("gaussian", 32)])
def test_an_unfitted_network_has_features_of_ordinary_size(basis, radial):
    torch.manual_seed(0)
    gemnet = GemNetT(cutoff=CUTOFF, basis=basis, radial=radial).double()
    state = gemnet.embed(batch := collate(molecule("CH3CH2OH")), batch.edges, gemnet.index(batch))
    for layer in range(gemnet.layers):
        state = gemnet.interact(layer, state)
        assert 0.1 < gemnet.scalars(state).std() < 10
        assert 0.1 < state.message.std() < 10


def test_fitting_refuses_batches_in_which_nothing_varies():
    with pytest.raises(DataError, match=r"scale factor outputs\.0"):
        fit_scale_factors(network(), [collate(Atoms("Ar"))])


def test_a_network_without_factors_is_left_as_it_is():
    from mcgm.backbones.dimenet import DimeNetPlusPlus

    assert fit_scale_factors(DimeNetPlusPlus().double(), [collate(molecule("CH4"))]) == {}


def test_an_unknown_basis_is_named_with_the_nearest_one():
    with pytest.raises(ConfigError, match="Did you mean 'bessel'"):
        network(basis="besel")
