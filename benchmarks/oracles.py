"""Other libraries' networks of the same size as ours, each as a function from a batch to the sum of its energies.

Neighbours come from our batch everywhere, so that no search is timed; PyTorch Geometric's DimeNet++ gets its triplets
made beforehand as well, since its own way needs a library that is not on PyPI. xnn makes its own in every call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from mcgm import Batch
from mcgm.backbones import Backbone


@dataclass(frozen=True)
class Oracle:
    """A network, and how its total energy is asked for."""

    network: nn.Module
    energy: Callable[[Batch], Tensor]


def pyg_schnet(ours: Backbone, batch: Batch) -> Oracle:
    from torch_geometric.nn import SchNet

    def pairs(positions: Tensor, _structure: Tensor) -> tuple[Tensor, Tensor]:
        edges = batch.replace(positions=positions).edges
        return torch.stack([edges.source, edges.target]), edges.length

    own = ours.hyperparameters
    network = SchNet(own["channels"], own["filters"], own["layers"], own["radial"], own["cutoff"], pairs)
    return Oracle(network, lambda b: network(b.numbers, b.positions, b.molecule).sum())


def pyg_dimenet(ours: Backbone, batch: Batch) -> Oracle:
    from torch_geometric.nn.models import dimenet

    pairs = torch.stack([batch.neighbors.source, batch.neighbors.target])
    given = triplets(pairs, batch.n_atoms)
    dimenet.radius_graph = lambda *_, **__: pairs
    dimenet.triplets = lambda *_, **__: given
    own = ours.hyperparameters
    network = dimenet.DimeNetPlusPlus(
        own["message_channels"], 1, own["layers"], own["triplet_channels"], own["basis_channels"], own["channels"],
        own["degrees"], own["radial"], cutoff=own["cutoff"], output_initializer="glorot_orthogonal",
    )  # fmt: skip
    return Oracle(network, lambda b: network(b.numbers, b.positions, b.molecule).sum())


def triplets(pairs: Int[Tensor, "2 edge"], atoms: int) -> tuple[Tensor, ...]:
    """Every edge with every edge into its source but the way back, in PyTorch Geometric's order of tensors."""
    source, target = pairs
    by_target = torch.argsort(target, stable=True)
    arriving = torch.bincount(target, minlength=atoms)
    first = torch.cumsum(arriving, 0) - arriving
    count = arriving[source]
    ji = torch.repeat_interleave(torch.arange(len(source)), count)
    rank = torch.arange(len(ji)) - (torch.cumsum(count, 0) - count)[ji]
    kj = by_target[first[source[ji]] + rank]
    there = source[kj] != target[ji]
    ji, kj = ji[there], kj[there]
    return target, source, target[ji], source[ji], source[kj], kj, ji


class GivenPairs(nn.Module):
    """In place of ViSNet's neighbour search."""

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self.batch = batch
        atoms = torch.arange(batch.n_atoms)
        neighbors = batch.neighbors
        self.index = torch.stack([torch.cat([neighbors.source, atoms]), torch.cat([neighbors.target, atoms])])

    def forward(self, positions: Tensor, _structure: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Index, lengths and vectors of all pairs, and of every atom with itself."""
        edges = self.batch.replace(positions=positions).edges
        itself = positions.new_zeros(self.batch.n_atoms, 3)
        return self.index, torch.cat([edges.length, itself[:, 0]]), torch.cat([edges.vector, itself])


def pyg_visnet(ours: Backbone, batch: Batch) -> Oracle:
    from torch_geometric.nn.models import ViSNet

    own = ours.hyperparameters
    network = ViSNet(
        lmax=own["degree"], num_heads=own["heads"], num_layers=own["layers"], hidden_channels=own["channels"],
        num_rbf=own["radial"], cutoff=own["cutoff"], vertex=True,
    )  # fmt: skip
    network.representation_model.distance = GivenPairs(batch)
    return Oracle(network, lambda b: network(b.numbers, b.positions, b.molecule)[0].sum())


def xnn_schnet(ours: Backbone, batch: Batch) -> Oracle:
    from xnn.gnn.models.schnet import SchNet

    own = ours.hyperparameters
    network = SchNet(own["channels"], own["layers"], own["radial"], own["cutoff"], gamma=None, cutoff_fn="cosine")
    nn.init.normal_(network.readout[-1].weight)  # zero by default: nothing would flow back
    return _of_xnn(network)


def xnn_painn(ours: Backbone, batch: Batch) -> Oracle:
    from xnn.gnn.models.painn import PaiNN

    own = ours.hyperparameters
    return _of_xnn(PaiNN(own["channels"], own["layers"], own["radial"], own["cutoff"], epsilon=own["softness"] ** 2))


def xnn_dimenet(ours: Backbone, batch: Batch) -> Oracle:
    from xnn.gnn.models.dimenet import DimeNetPP

    own = ours.hyperparameters
    network = DimeNetPP(
        n_features=own["message_channels"], n_interactions=own["layers"], n_rbf=own["radial"],
        n_spherical=own["degrees"], cutoff=own["cutoff"], n_triplet_features=own["triplet_channels"],
        n_basis_features=own["basis_channels"], n_output_features=own["channels"], reference_basis=True,
    )  # fmt: skip
    for output in network.outputs:
        nn.init.normal_(output.final.weight)
    return _of_xnn(network)


def xnn_gemnet(ours: Backbone, batch: Batch) -> Oracle:
    from xnn.gnn.models.gemnet import GemNet

    own = ours.hyperparameters
    before, after, concatenated, atom = own["depths"]
    network = GemNet(
        n_features=own["channels"], n_edge_features=own["message_channels"], n_interactions=own["layers"],
        n_rbf=own["radial"], n_spherical=own["degrees"], cutoff=own["cutoff"],
        n_triplet_features=own["triplet_channels"], n_rbf_features=own["basis_channels"],
        n_cbf_features=own["basis_channels"], n_bilinear_triplet=own["bilinear_channels"], n_before_skip=before,
        n_after_skip=after, n_concat=concatenated, n_atom_residual=atom, quadruplets=False,
    )  # fmt: skip
    return _of_xnn(network)


def _of_xnn(network: nn.Module) -> Oracle:
    def energy(batch: Batch) -> Tensor:
        edges = batch.edges
        # its vectors point from source to target
        return network.node_energy(batch.numbers, torch.stack([edges.source, edges.target]), -edges.vector).sum()

    return Oracle(network, energy)


ORACLES: dict[str, dict[str, Callable[[Backbone, Batch], Oracle]]] = {
    "schnet": {"torch_geometric": pyg_schnet, "xnn": xnn_schnet},
    "painn": {"xnn": xnn_painn},
    "dimenet++": {"torch_geometric": pyg_dimenet, "xnn": xnn_dimenet},
    "gemnet-t": {"xnn": xnn_gemnet},
    "visnet": {"torch_geometric": pyg_visnet},
}
"""Backbone -> library -> how its network of the same size is made."""
