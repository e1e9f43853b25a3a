"""PaiNN against xnn's, with the same weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from mcgm.backbones.painn import SIZES, PaiNN
from mcgm.batch import Batch

CUTOFF = 4.0


def network(softness: float) -> PaiNN:
    """A small network away from its initial biases, with the cutoff function of the oracle."""
    torch.manual_seed(0)
    painn = PaiNN(channels=16, radial=8, layers=3, cutoff=CUTOFF, envelope="cosine", softness=softness).double()
    for name, parameter in painn.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.3)
    return painn


def oracle_for(painn: PaiNN) -> nn.Module:
    """xnn's network with our weights. By design its radial basis lacks the factor sqrt(2 / cutoff) of ours."""
    from xnn.gnn.models.painn import PaiNN as Oracle

    own = painn.hyperparameters
    oracle = Oracle(own["channels"], own["layers"], own["radial"], CUTOFF, epsilon=own["softness"] ** 2)
    names = {"readout.0": painn.head.hidden, "readout.2": painn.head.energy}
    for layer, (message, update) in enumerate(zip(painn.messages, painn.updates, strict=True)):
        block = f"interactions.{layer}"
        names |= {f"{block}.message.phi": message.source, f"{block}.message.filter": message.filter}
        names |= {f"{block}.update.lin_v": update.mix, f"{block}.update.net": update.gate}
    for name, ours in names.items():
        oracle.get_submodule(name).load_state_dict(ours.state_dict())
    with torch.no_grad():
        oracle.embedding.weight.copy_(painn.embedding.weight[:100])
        for block in oracle.interactions:
            block.message.filter.weight.mul_(math.sqrt(2 / CUTOFF))
    return oracle


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("double_by_default")
@pytest.mark.parametrize("softness", [0.03, 1e-4])
def test_equals_xnn(softness, varied_batch, assert_equals_oracle):
    ours = network(softness)
    oracle = oracle_for(ours)

    def energies(batch: Batch) -> Tensor:
        edges = batch.edges
        return oracle.node_energy(batch.numbers, torch.stack([edges.source, edges.target]), -edges.vector)

    assert_equals_oracle(ours, energies, varied_batch)


def test_paper_size_has_the_published_number_of_parameters():
    count = sum(parameter.numel() for parameter in PaiNN(**SIZES["paper"]).parameters())
    print(f"PaiNN paper size: {count:,} parameters")
    assert count == pytest.approx(12.5e6, rel=0.005)
