"""What tests of several blocks share."""

import pytest
import torch


class BareNetwork(torch.nn.Module):
    """Another library's: layers on every atom, which know nothing of each other."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(6, 6) for _ in range(2))

    def forward(self, numbers, positions, molecule):
        h = torch.zeros(len(numbers), 6) + numbers[:, None]
        for layer in self.layers:
            h = h + layer(h)
        return torch.zeros(int(molecule.max()) + 1).index_add(0, molecule, h.sum(1))


@pytest.fixture
def bare_network():
    """The class of it: six channels, two layers."""
    return BareNetwork
