"""Molecules whose bonds fade: a hierarchy per molecule that stays smooth while bonds form and break.

Atoms joined by whole bonds are a fragment, and every fragment has a hierarchy of its own. Where a partial bond leads to
another fragment, the atoms there are guests, present to a degree c between 0 (the bond is gone) and 1 (it is whole, and
the two fragments become one). With guests wholly present both hierarchies see the same atoms and give the same
features; energies count per host atom: so nothing steps where fragments merge, nor where guests leave.

c must be smooth in the lengths of all partial bonds, 0 without a path and 1 along a path of whole bonds, equal for two
fragments about to merge, and such that a crystal and its supercell have the same means. A random walk between fragments
has these properties: with w the bond's smooth weight it steps over it at the rate w / (1 - w), and dies at the rate 1
for every atom of the fragment where it is. The means of a fragment weigh atoms by the time that a walker from it spends
with each of them; c is that time against the one with an atom of the fragment itself. For two atoms c = w. An element
that only guests have is as present as it is likely that the walker meets it. This construction is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mcgm.batch import Batch
from mcgm.long_range.mcgm.scope import BONDED, Groups, Presence, Scope, components, covalent_sum
from mcgm.long_range.mcgm.walks import arrivals, expected_times
from mcgm.neighbors import Neighbors, edge_vectors
from mcgm.segments import segment_sum, take

BROKEN = 1.6
"""Two atoms have no bond above this multiple of the sum of their covalent radii: above hydrogen bonds' O-H, about 1.8,
no contact between molecules counts."""

SHORT = 1e-10
"""Inverse of the rate over a whole bond: what is left of a step where fragments merge."""


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
class Networks:
    """Fragments joined by partial bonds, one network for each molecule that has some, padded to the largest.

    `bond_slot` is the position of each bond (both directions) in matrices over network, fragment and fragment; `mass`
    counts the atoms of fragments, 1 in the padding. `searched` are networks with an element that not every fragment
    has, once for each such element, and `holds` says which have it. `row` tells bonds in the batch's neighbour list.
    """

    row: Int[Tensor, "bond"]
    bonds: Neighbors
    broken: Float[Tensor, "bond"]
    bond_slot: Int[Tensor, "bond"]
    mass: Float[Tensor, "network fragment"]
    searched: Int[Tensor, "element"]
    holds: Bool[Tensor, "element fragment"]

    def rates(self, batch: Batch) -> Float[Tensor, "network fragment fragment"]:
        """At which a walker steps from fragment to fragment, in float64, differentiable in positions and cell."""
        rounding = None if batch.rounding is None else take(batch.rounding.vectors, self.row)
        edges = edge_vectors(self.bonds, batch.positions, batch.cell, batch.molecule, rounding)
        weight = bond_weight(edges.length.double(), self.broken.double())
        networks, size = self.mass.shape
        rates = segment_sum(weight / (1 - weight + SHORT), self.bond_slot, networks * size**2)
        return rates.reshape(networks, size, size)


@dataclass(frozen=True, eq=False)
class PartialGuests:
    """Guests, and the networks that say how present they are.

    `slot` is the position of a guest's pair of fragments, its host's and its own, in a matrix for every network;
    `search_slot` that of its element and host among all searches, the one behind the last where no search is needed.
    """

    atom: Int[Tensor, "guest"]
    group: Int[Tensor, "guest"]
    slot: Int[Tensor, "guest"]
    search_slot: Int[Tensor, "guest"]
    networks: Networks

    def presence(self, batch: Batch) -> Presence:
        """See the module; in float64 inside."""
        networks = self.networks
        rates = networks.rates(batch)
        times = expected_times(rates, networks.mass)
        weight = times / times.diagonal(dim1=-2, dim2=-1)[..., None]
        met = arrivals(take(rates, networks.searched), take(networks.mass, networks.searched), networks.holds)
        met = torch.cat([met.flatten(), met.new_ones(1)])
        dtype = batch.positions.dtype
        return Presence(take(weight.flatten(), self.slot).to(dtype), take(met, self.search_slot).to(dtype))


def bond_weight(length: Float[Tensor, "bond"], broken: Float[Tensor, "bond"]) -> Float[Tensor, "bond"]:
    """1 up to BONDED / BROKEN of the length at which the bond is broken, 0 from there on; three derivatives vanish."""
    whole = broken * (BONDED / BROKEN)
    return 1 - smooth_step((length - whole) / (broken - whole))


def smooth_step(x: Float[Tensor, "*rest"]) -> Float[Tensor, "*rest"]:
    """0 below 0, 1 above 1, between them a polynomial of degree seven: three derivatives vanish at both ends."""
    x = x.clamp(0, 1)
    return x**4 * (35 + x * (-84 + x * (70 - 20 * x)))


def _guests(
    batch: Batch, partial: Int[Tensor, "bond"], broken: Float[Tensor, "edge"], fragment: np.ndarray, parent: np.ndarray
) -> PartialGuests:
    """All atoms of the other fragments of every molecule that has partial bonds.

    `partial` are the edges that are partial bonds; `fragment` of every atom, `parent` (its molecule) of every fragment.
    """
    neighbors = batch.neighbors
    source, target = (ends[partial].cpu().numpy() for ends in (neighbors.source, neighbors.target))
    joined = np.unique(parent[fragment[source]])
    network = np.full(parent.max() + 1, -1)
    network[joined] = np.arange(len(joined))
    fragments = np.flatnonzero(network[parent] >= 0)
    fragments = fragments[np.argsort(network[parent[fragments]], kind="stable")]
    count = np.bincount(network[parent[fragments]])
    first = np.cumsum(count) - count
    rank = np.full(len(parent), -1)
    rank[fragments] = np.arange(len(fragments)) - first[network[parent[fragments]]]
    size = int(count.max())

    own = network[parent[fragment]]
    atom = np.flatnonzero(own >= 0)
    times = count[own[atom]]
    guest = np.repeat(atom, times)
    nth = np.arange(len(guest)) - np.repeat(np.cumsum(times) - times, times)
    host = fragments[first[own[guest]] + nth]
    elsewhere = host != fragment[guest]
    guest, host = guest[elsewhere], host[elsewhere]

    mass = np.ones((len(joined), size))
    mass[own[atom], rank[fragment[atom]]] = 0
    np.add.at(mass, (own[atom], rank[fragment[atom]]), 1)
    numbers = batch.numbers.cpu().numpy()
    holds = np.zeros((len(joined), numbers.max() + 1, size), dtype=bool)
    holds[own[atom], numbers[atom], rank[fragment[atom]]] = True
    held = holds.sum(-1)
    searched, kind = np.nonzero((held > 0) & (held < count[:, None]))
    search = np.full(held.shape, len(searched))
    search[searched, kind] = np.arange(len(searched))
    searching = search[own[guest], numbers[guest]]

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(batch.device)

    def slot(a: np.ndarray, b: np.ndarray) -> Tensor:
        return tensor((network[parent[a]] * size + rank[a]) * size + rank[b])

    image = neighbors.image[partial]
    crossing = torch.nonzero(image.any(dim=1)).flatten()
    networks = Networks(
        row=partial,
        bonds=Neighbors(neighbors.source[partial], neighbors.target[partial], image, crossing),
        broken=broken[partial],
        bond_slot=slot(fragment[source], fragment[target]),
        mass=tensor(mass),
        searched=tensor(searched),
        holds=tensor(holds[searched, kind]),
    )
    return PartialGuests(
        atom=tensor(guest),
        group=tensor(host),
        slot=slot(host, fragment[guest]),
        search_slot=tensor(np.where(searching < len(searched), searching * size + rank[host], len(searched) * size)),
        networks=networks,
    )
