"""SchNet against PyTorch Geometric's and xnn's, with the same weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mcgm.backbones.schnet import SIZES, SchNet
from mcgm.batch import Batch

CUTOFF = 4.0


def network(filters: int) -> SchNet:
    """A small network away from its initial biases, with the cutoff function of the oracles."""
    torch.manual_seed(0)
    schnet = SchNet(channels=16, filters=filters, radial=12, layers=3, cutoff=CUTOFF, envelope="cosine").double()
    for name, parameter in schnet.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.3)
    return schnet


def copy_modules(ours: nn.Module, theirs: nn.Module, names: dict[str, str]) -> None:
    """Copy submodules by a table from the oracle's names to ours."""
    for their_name, our_name in names.items():
        theirs.get_submodule(their_name).load_state_dict(ours.get_submodule(our_name).state_dict())


@pytest.fixture
def torch_geometric_energies() -> Callable[[SchNet], Callable[[Batch], Tensor]]:
    """PyTorch Geometric's network, its neighbour search and its sum over structures replaced."""

    def build(ours: SchNet) -> Callable[[Batch], Tensor]:
        from torch_geometric.nn import SchNet as Oracle

        given: list[Batch] = []

        def pairs(positions: Tensor, _structure: Tensor) -> tuple[Tensor, Tensor]:
            edges = given[-1].replace(positions=positions).edges
            return torch.stack([edges.source, edges.target]), edges.length

        own = ours.hyperparameters
        oracle = Oracle(own["channels"], own["filters"], own["layers"], own["radial"], CUTOFF, pairs)
        names = {"lin1": "head.hidden", "lin2": "head.energy"}
        for layer in range(ours.layers):
            table = {"mlp": "filter", "conv.lin1": "source", "conv.lin2": "output.0", "lin": "output.2"}
            names |= {f"interactions.{layer}.{key}": f"interactions.{layer}.{name}" for key, name in table.items()}
        copy_modules(ours, oracle, names)
        with torch.no_grad():
            oracle.embedding.weight.copy_(ours.embedding.weight[:100])

        def energies(batch: Batch) -> Tensor:
            given.append(batch)
            return oracle(batch.numbers, batch.positions, torch.arange(batch.n_atoms))[:, 0]

        return energies

    return build


@pytest.fixture
def xnn_energies() -> Callable[[SchNet], Callable[[Batch], Tensor]]:
    """xnn's network. By design its filters end with an activation, taken out here, and `lin_in` has a bias: zero."""

    def build(ours: SchNet) -> Callable[[Batch], Tensor]:
        from xnn.gnn.models.schnet import SchNet as Oracle

        own = ours.hyperparameters
        oracle = Oracle(own["channels"], own["layers"], own["radial"], CUTOFF, gamma=None, cutoff_fn="cosine")
        names = {"readout.0": "head.hidden", "readout.2": "head.energy"}
        for layer, block in enumerate(oracle.interactions):
            block.cfconv.filter_net[3] = nn.Identity()
            nn.init.zeros_(block.lin_in.bias)
            table = {"cfconv.filter_net": "filter", "lin_mid": "output.0", "lin_out": "output.2"}
            names |= {f"interactions.{layer}.{key}": f"interactions.{layer}.{name}" for key, name in table.items()}
        copy_modules(ours, oracle, names)
        with torch.no_grad():
            oracle.embedding.weight.copy_(ours.embedding.weight[:100])
            for block, own_block in zip(oracle.interactions, ours.interactions, strict=True):
                block.lin_in.weight.copy_(own_block.source.weight)

        def energies(batch: Batch) -> Tensor:
            edges = batch.edges
            return oracle.node_energy(batch.numbers, torch.stack([edges.source, edges.target]), -edges.vector)

        return energies

    return build


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("double_by_default")
@pytest.mark.parametrize(("oracle", "filters"), [("torch_geometric_energies", 24), ("xnn_energies", 16)])
def test_equals_independent_implementations(oracle, filters, varied_batch, request, assert_equals_oracle):
    ours = network(filters)
    assert_equals_oracle(ours, request.getfixturevalue(oracle)(ours), varied_batch)


def test_paper_size_has_the_published_number_of_parameters():
    count = sum(parameter.numel() for parameter in SchNet(**SIZES["paper"]).parameters())
    print(f"SchNet paper size: {count:,} parameters")
    assert count == pytest.approx(2.75e6, rel=0.005)
