"""How atoms take up what their clusters know."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from mcgm.activations import silu
from mcgm.long_range.mcgm.assignment import Assignment


class Broadcast(nn.Module):
    """The cluster's features themselves, the same for all members (paper, Eq. 4); no parameters."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(
        self,
        atoms: Float[Tensor, "atom channel"],
        clusters: Float[Tensor, "cluster channel"],
        assignment: Assignment,
    ) -> Float[Tensor, "atom channel"]:
        """What the atoms take up."""
        return assignment.broadcast(clusters)


class Mixing(nn.Module):
    """What an atom takes up depends on its own features. Ours.

    O silu(LN(A h_i + sum_k p_ik C h_k)) with the memberships p_ik and a layer norm (arXiv:1607.06450).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.atom = nn.Linear(channels, channels, bias=False)
        self.cluster = nn.Linear(channels, channels, bias=False)
        self.norm = nn.LayerNorm(channels)
        self.output = nn.Linear(channels, channels)

    def forward(
        self,
        atoms: Float[Tensor, "atom channel"],
        clusters: Float[Tensor, "cluster channel"],
        assignment: Assignment,
    ) -> Float[Tensor, "atom channel"]:
        """What the atoms take up."""
        known = assignment.broadcast(self.cluster(clusters))
        return self.output(silu(self.norm(self.atom(atoms) + self.asked(atoms, known))))

    def asked(
        self, atoms: Float[Tensor, "atom channel"], known: Float[Tensor, "atom channel"]
    ) -> Float[Tensor, "atom channel"]:
        """What each atom wants of what its clusters know: all of it."""
        return known


class Gating(Mixing):
    """As `Mixing`, and what an atom takes up of its clusters is multiplied by what it asks for. Ours.

    O silu(LN(A h_i + (1 + G h_i) * sum_k p_ik C h_k)), element by element.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.gate = nn.Linear(channels, channels, bias=False)

    def asked(
        self, atoms: Float[Tensor, "atom channel"], known: Float[Tensor, "atom channel"]
    ) -> Float[Tensor, "atom channel"]:
        """Each channel times its gate."""
        return known + self.gate(atoms) * known


DISSEMINATIONS: dict[str, type[Broadcast] | type[Mixing]] = {
    "broadcast": Broadcast,
    "mixing": Mixing,
    "gating": Gating,
}
"""By the name that specifications use."""
