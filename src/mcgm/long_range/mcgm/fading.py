"""Molecules whose bonds fade: a hierarchy per molecule that stays smooth while bonds form and break.

Atoms joined by whole bonds are a fragment, and every fragment has a hierarchy of its own. Where a partial bond leads to
another fragment, the atoms there are guests, present to a degree c between 0 (the bond is gone) and 1 (it is whole, and
the two fragments become one). With guests wholly present both hierarchies see the same atoms and give the same
features; energies count per host atom: so nothing steps where fragments merge, nor where guests leave.

c must be smooth in the lengths of all partial bonds, 0 without a path and 1 along a path of whole bonds, and equal for
two fragments about to merge. The resistance of a network of conductors has these properties (Klein and Randić,
J. Math. Chem. 12, 81 (1993)): with w the bond's smooth weight and w / (1 - w) its conductance, c = 1 / (1 + R), R the
effective resistance between the fragments. For a single bond c = w. This construction is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from mcgm.batch import Batch
from mcgm.long_range.mcgm.scope import BONDED, Groups, Scope, components, covalent_sum
from mcgm.neighbors import Edges, Neighbors, edge_vectors
from mcgm.segments import segment_sum, take

BROKEN = 1.6
"""Two atoms have no bond above this multiple of the sum of their covalent radii: above hydrogen bonds' O-H, about 1.8,
no contact between molecules counts."""

SHORT, OPEN = 1e-10, 1e-10
"""Resistance of a whole bond and conductance of none: what is left of a step where fragments merge and part."""

ELIMINATED = 16
"""Largest network, in fragments, whose resistances are found by elimination: its cost grows with the fourth power."""


class FadingMolecules(Scope):
    """One hierarchy per covalently connected molecule, whose reach fades as bonds stretch from 1.25 to 1.6 radii.

    Between these multiples of the sum of covalent radii (scaled down where 1.6 is beyond the backbone's cutoff) a bond
    is partial. Two molecules without any path of bonds do not know of each other, exactly. Periodic images included.
    """

    def forward(self, batch: Batch) -> Groups:
        """Fragments, numbered by their first atom, and the atoms that they see in part."""
        with torch.no_grad():
            edges = batch.edges
            broken = (BROKEN * covalent_sum(batch, edges)).clamp(max=batch.cutoff)
        label, first = components(edges, edges.length < broken * (BONDED / BROKEN), batch.n_atoms)
        parent, _ = components(edges, edges.length < broken, batch.n_atoms)
        fragment = torch.from_numpy(label).to(batch.device)
        partial = (edges.length < broken) & (fragment[edges.source] != fragment[edges.target])
        molecule = batch.molecule[torch.from_numpy(first)]
        if not partial.any():
            return Groups(fragment, molecule)
        return Groups(
            fragment, molecule, _guests(batch, torch.nonzero(partial).flatten(), broken, label, parent[first])
        )


@dataclass(frozen=True, eq=False)
class PartialGuests:
    """Guests, and the network of partial bonds between fragments that says how present they are.

    Networks stand side by side, padded to the largest: `slot` and `bond_slot` are the position of a guest's pair of
    fragments, and of a bond's (both directions), in matrices of `size` rows, one for each of the `networks`.
    """

    atom: Int[Tensor, "guest"]
    group: Int[Tensor, "guest"]
    slot: Int[Tensor, "guest"]
    bonds: Neighbors
    broken: Float[Tensor, "bond"]
    bond_slot: Int[Tensor, "bond"]
    networks: int
    size: int

    def presence(self, batch: Batch) -> Float[Tensor, "guest"]:
        """c = 1 / (1 + R) between the guest's fragment and its host's, in float64 inside."""
        length = self._edges(batch).length.double()
        conductance = _conductance(bond_weight(length, self.broken.double()))
        links = segment_sum(conductance, self.bond_slot, self.networks * self.size**2)
        resistance = effective_resistance(links.reshape(self.networks, self.size, self.size))
        return take((1 / (1 + resistance)).flatten(), self.slot).to(batch.positions.dtype)

    def _edges(self, batch: Batch) -> Edges:
        return edge_vectors(self.bonds, batch.positions, batch.cell, batch.molecule)


def bond_weight(length: Float[Tensor, "bond"], broken: Float[Tensor, "bond"]) -> Float[Tensor, "bond"]:
    """1 up to BONDED / BROKEN of the length at which the bond is broken, 0 from there on; three derivatives vanish."""
    whole = broken * (BONDED / BROKEN)
    return 1 - smooth_step((length - whole) / (broken - whole))


def smooth_step(x: Float[Tensor, "*rest"]) -> Float[Tensor, "*rest"]:
    """0 below 0, 1 above 1, between them a polynomial of degree seven: three derivatives vanish at both ends."""
    x = x.clamp(0, 1)
    return x**4 * (35 + x * (-84 + x * (70 - 20 * x)))


def _conductance(weight: Float[Tensor, "bond"]) -> Float[Tensor, "bond"]:
    return weight / (1 - weight + SHORT)


def effective_resistance(
    links: Float[Tensor, "network fragment fragment"],
) -> Float[Tensor, "network fragment fragment"]:
    """Resistance between all pairs of nodes of networks given by their conductances (symmetric, zero where absent).

    All pairs have the conductance OPEN in addition, so that R is finite. By elimination of nodes without a subtraction
    (so that bonds nearly whole and nearly broken side by side cost no digits), where networks are small; else from the
    inverse of the Laplacian, which loses about half of the digits in such a case.
    """
    size = links.shape[-1]
    others = 1 - torch.eye(size, dtype=links.dtype, device=links.device)
    links = (links + OPEN) * others
    return _resistance_by_elimination(links) if size <= ELIMINATED else _resistance_by_inverse(links)


def _resistance_by_inverse(
    links: Float[Tensor, "network fragment fragment"],
) -> Float[Tensor, "network fragment fragment"]:
    """R_ab = X_aa + X_bb - 2 X_ab with X = (L + 1 1ᵀ/n)⁻¹, L the Laplacian."""
    inverse = torch.linalg.inv(torch.diag_embed(links.sum(-1)) - links + 1 / links.shape[-1])
    own = inverse.diagonal(dim1=-2, dim2=-1)
    return own[:, :, None] + own[:, None, :] - 2 * inverse


def _resistance_by_elimination(
    links: Float[Tensor, "network fragment fragment"],
) -> Float[Tensor, "network fragment fragment"]:
    """With every node grounded in turn: L = (1 - U)ᵀ D (1 - U), U >= 0, and R = sum_k V_ak² / D_k, V = (1 - U)⁻¹.

    Source of the way without subtractions: Alfa, Xue and Ye, Math. Comp. 71, 217 (2002).
    """
    size = links.shape[-1]
    ground = torch.arange(size, device=links.device)
    order = (ground[:, None] + 1 + ground) % size  # the grounded node stands last
    rest = links[:, order[:, :, None], order[:, None, :]]
    rows, pivots = [], []
    for node in range(size - 1):
        row = rest[..., 0, 1:]
        pivot = row.sum(-1)
        rows.append(pad(row[..., :-1] / pivot[..., None], (node + 1, 0)))
        pivots.append(pivot)
        step = rest[..., 1:, 0, None] * row[..., None, :] / pivot[..., None, None]
        rest = rest[..., 1:, 1:] + step
        rest = rest * (1 - torch.eye(rest.shape[-1], dtype=rest.dtype, device=rest.device))
    upper = torch.stack(rows, dim=-2)
    unit = torch.eye(size - 1, dtype=links.dtype, device=links.device)
    inverse = torch.linalg.solve_triangular(unit - upper, unit, upper=True, unitriangular=True)
    resistance = (inverse.square() / torch.stack(pivots, dim=-1)[..., None, :]).sum(-1)
    # from the order of each ground back to that of the nodes
    place = (ground[None, :] - ground[:, None] - 1) % size
    return torch.gather(pad(resistance, (0, 1)), 2, place.expand(len(links), -1, -1))


def _guests(
    batch: Batch, partial: Int[Tensor, "bond"], broken: Float[Tensor, "edge"], fragment: np.ndarray, parent: np.ndarray
) -> PartialGuests:
    """All atoms of the other fragments of every molecule that has partial bonds.

    `partial` are the edges that are partial bonds; `fragment` of every atom, `parent` (its molecule) of every fragment.
    """
    neighbors = batch.neighbors
    joined = np.unique(parent[fragment[neighbors.source[partial].cpu().numpy()]])
    network = np.full(parent.max() + 1, -1)
    network[joined] = np.arange(len(joined))
    fragments = np.flatnonzero(network[parent] >= 0)
    fragments = fragments[np.argsort(network[parent[fragments]], kind="stable")]
    count = np.bincount(network[parent[fragments]])
    first = np.cumsum(count) - count
    rank = np.full(len(parent), -1)
    rank[fragments] = np.arange(len(fragments)) - first[network[parent[fragments]]]

    own = network[parent[fragment]]
    atom = np.flatnonzero(own >= 0)
    times = count[own[atom]]
    guest = np.repeat(atom, times)
    nth = np.arange(len(guest)) - np.repeat(np.cumsum(times) - times, times)
    host = fragments[first[own[guest]] + nth]
    elsewhere = host != fragment[guest]
    guest, host = guest[elsewhere], host[elsewhere]
    size = int(count.max())

    def slot(a: np.ndarray, b: np.ndarray) -> Tensor:
        place = (network[parent[a]] * size + rank[a]) * size + rank[b]
        return torch.from_numpy(place).to(batch.device)

    source, target = (ends[partial].cpu().numpy() for ends in (neighbors.source, neighbors.target))
    image = neighbors.image[partial]
    return PartialGuests(
        atom=torch.from_numpy(guest).to(batch.device),
        group=torch.from_numpy(host).to(batch.device),
        slot=slot(host, fragment[guest]),
        bonds=Neighbors(
            neighbors.source[partial], neighbors.target[partial], image, torch.nonzero(image.any(dim=1)).flatten()
        ),
        broken=broken[partial],
        bond_slot=slot(fragment[source], fragment[target]),
        networks=len(joined),
        size=size,
    )
