"""DimeNet++ against PyTorch Geometric's and xnn's, with the same weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from ase.build import bulk, molecule
from torch import Tensor, nn

from mcgm.backbones.dimenet import SIZES, DimeNetPlusPlus
from mcgm.batch import Batch

CUTOFF = 4.0
TINY = {
    "channels": 12,
    "layers": 2,
    "message_channels": 16,
    "triplet_channels": 8,
    "basis_channels": 4,
    "radial": 3,
    "degrees": 3,
}


def network(**options: object) -> DimeNetPlusPlus:
    """A small network in float64, away from its initial biases and frequencies, with forces as large as real ones."""
    torch.manual_seed(0)
    dimenet = DimeNetPlusPlus(**({"cutoff": CUTOFF, "update": "none", "envelope": "dimenet"} | TINY | options)).double()
    for name, parameter in dimenet.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        dimenet.radial_basis.frequencies.mul_(1.05)
        for output in dimenet.outputs:
            output.readout.weight.mul_(1e-3)
    return dimenet


def collate(*atoms: object) -> Batch:
    return Batch.from_atoms(list(atoms), cutoff=CUTOFF, dtype=torch.float64)


def atom_energies(dimenet: DimeNetPlusPlus, batch: Batch) -> Tensor:
    state = dimenet.embed(batch, batch.edges, dimenet.index(batch))
    for layer in range(dimenet.layers):
        state = dimenet.interact(layer, state)
    return dimenet.atom_energies(state)


def assert_equal_energies_and_forces(
    ours: Callable[[Batch], Tensor], theirs: Callable[[Batch], Tensor], batch: Batch
) -> None:
    results = []
    for network in (ours, theirs):
        moved = batch.replace(positions=batch.positions.clone().requires_grad_())
        energy = network(moved).sum()
        results.append((energy.detach(), torch.autograd.grad(energy, moved.positions)[0]))
    (energy, forces), (reference, reference_forces) = results
    assert reference.abs() > 1e-3
    assert 1e-3 < reference_forces.abs().max() < 20
    torch.testing.assert_close(energy, reference, rtol=1e-6, atol=0)
    torch.testing.assert_close(forces, reference_forces, rtol=0, atol=1e-5)


def copy_blocks(dimenet: DimeNetPlusPlus, pairs: list[tuple[nn.Module, dict[str, str]]]) -> None:
    """Copy what our submodules hold into modules of the oracle, by a table of attribute names."""
    for theirs, names in pairs:
        for name, ours in names.items():
            theirs.get_submodule(name).load_state_dict(dimenet.get_submodule(ours).state_dict())


def interaction_names(layer: int, *, before: str, after: str, join: str) -> dict[str, str]:
    block = f"interactions.{layer}"
    names = {"lin_ji": "own", "lin_kj": "sent", "lin_down": "down", "lin_up": "up", join: "join"}
    names |= {f"lin_rbf{k + 1}": f"gate.{k}" for k in (0, 1)} | {f"lin_sbf{k + 1}": f"angle.{k}" for k in (0, 1)}
    for place, ours in ((f"{before}.0", "before"), (f"{after}.0", "after.0"), (f"{after}.1", "after.1")):
        names |= {f"{place}.lin1": f"{ours}.first", f"{place}.lin2": f"{ours}.second"}
    return {name: f"{block}.{ours}" for name, ours in names.items()}


def triplets(edge_index: Tensor, num_nodes: int) -> tuple[Tensor, ...]:
    """The oracle's triplets without torch_sparse: every edge with every edge into its source, but the way back."""
    source, target = edge_index
    kept = [
        (ji, kj)
        for ji in range(len(source))
        for kj in torch.nonzero(target == source[ji])[:, 0].tolist()
        if source[kj] != target[ji]
    ]
    ji, kj = torch.tensor(kept).T
    return target, source, target[ji], source[ji], source[kj], kj, ji


def test_paper_size_has_the_published_number_of_parameters():
    network = DimeNetPlusPlus(**SIZES["paper"], update="none")
    count = sum(parameter.numel() for parameter in network.parameters())
    print(f"DimeNet++ paper size: {count:,} parameters")
    assert count == pytest.approx(2.76e6, rel=0.005)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("double_by_default")
def test_equals_torch_geometric(monkeypatch):
    """By design the oracle's angle is the supplement (odd degrees change sign) and its output starts at zero."""
    from torch_geometric.nn.models import dimenet as oracle_module

    batch = collate(molecule("CH3CH2OH"), molecule("HCN"), molecule("C6H6"))
    monkeypatch.setattr(
        oracle_module, "radius_graph", lambda *_, **__: torch.stack([batch.neighbors.source, batch.neighbors.target])
    )
    monkeypatch.setattr(oracle_module, "triplets", triplets)
    ours = network()
    oracle = oracle_module.DimeNetPlusPlus(16, 1, 2, 8, 4, 12, 3, 3, cutoff=CUTOFF).double()
    pairs = [(oracle, {"emb.lin_rbf": "embedding.radial", "emb.lin": "embedding.mix"})]
    for layer, block in enumerate(oracle.interaction_blocks):
        pairs.append(
            (block, interaction_names(layer, before="layers_before_skip", after="layers_after_skip", join="lin"))
        )
    for layer, block in enumerate(oracle.output_blocks):
        names = {"lin_rbf": "gate", "lin_up": "up", "lin": "readout"} | {
            f"lins.{k}": f"layers.{2 * k}" for k in range(3)
        }
        pairs.append((block, {name: f"outputs.{layer}.{value}" for name, value in names.items()}))
    copy_blocks(ours, pairs)
    with torch.no_grad():
        oracle.emb.emb.weight.copy_(ours.embedding.elements.weight[:95])
        oracle.rbf.freq.copy_(ours.radial_basis.frequencies)
        for block in oracle.interaction_blocks:
            block.lin_sbf1.weight.view(-1, 3, 3)[:, 1::2].neg_()
    assert_equal_energies_and_forces(
        lambda b: atom_energies(ours, b), lambda b: oracle(b.numbers, b.positions, b.molecule), batch
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("double_by_default")
def test_equals_xnn_on_molecules_and_crystals():
    """By design the oracle's radial bases carry factors of the cutoff, undone in the weights that read them."""
    from xnn.gnn.models.dimenet import DimeNetPP

    batch = collate(molecule("CH3CH2OH"), bulk("NaCl", "rocksalt", 5.0), molecule("HCN"))
    ours = network()
    oracle = DimeNetPP(
        n_features=16, n_interactions=2, n_rbf=3, n_spherical=3, cutoff=CUTOFF, n_triplet_features=8,
        n_basis_features=4, n_output_features=12, reference_basis=True,
    ).double()  # fmt: skip
    pairs = [(oracle, {"embedding.lin_rbf": "embedding.radial"})]
    for layer, block in enumerate(oracle.interactions):
        pairs.append((block, interaction_names(layer, before="before_skip", after="after_skip", join="lin_skip")))
    for layer, block in enumerate(oracle.outputs):
        names = {"lin_rbf": "gate", "up": "up", "final": "readout"} | {
            f"dense.{k}": f"layers.{2 * k}" for k in range(3)
        }
        pairs.append((block, {name: f"outputs.{layer}.{value}" for name, value in names.items()}))
    copy_blocks(ours, pairs)
    with torch.no_grad():
        oracle.embedding.embedding.weight.copy_(ours.embedding.elements.weight[:100])
        target, source, radial = ours.embedding.mix.weight.chunk(3, dim=1)
        oracle.embedding.lin.weight.copy_(torch.cat([source, target, radial], dim=1))
        oracle.embedding.lin.bias.copy_(ours.embedding.mix.bias)
        oracle.rbf.freqs.copy_(ours.radial_basis.frequencies)
        readers = [oracle.embedding.lin_rbf]
        readers += [block.lin_rbf1 for block in oracle.interactions] + [block.lin_rbf for block in oracle.outputs]
        for reader in readers:
            reader.weight.mul_(CUTOFF / math.sqrt(2 / CUTOFF))
        for block in oracle.interactions:
            block.lin_sbf1.weight.mul_(CUTOFF**1.5)

    def energies(b: Batch) -> Tensor:
        edges = b.edges
        return oracle.node_energy(b.numbers, torch.stack([edges.source, edges.target]), -edges.vector)

    assert_equal_energies_and_forces(lambda b: atom_energies(ours, b), energies, batch)
