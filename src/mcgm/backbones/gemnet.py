"""GemNet-T: messages on directed edges that know the angles to the other edges at their target."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mcgm.backbones.angular import SphericalHarmonics
from mcgm.backbones.base import Backbone
from mcgm.backbones.directional import EdgeTable
from mcgm.backbones.edge_updates import EdgeState, build_update
from mcgm.backbones.gemnet_bases import BASES
from mcgm.backbones.gemnet_blocks import Dense, EdgeEmbedding, Geometry, InteractionBlock, OutputBlock
from mcgm.batch import Batch
from mcgm.errors import ConfigError, unknown_name
from mcgm.neighbors import Edges
from mcgm.radial import envelope_named
from mcgm.structure import HEAVIEST

SIZES: dict[str, dict[str, Any]] = {
    "paper": {
        "channels": 256,
        "layers": 3,
        "message_channels": 512,
        "triplet_channels": 64,
        "bilinear_channels": 64,
        "basis_channels": 16,
        "radial": 128,
        "degrees": 7,
        "basis": "gaussian",
        "depths": (1, 2, 1, 3),
    },
    "small": {
        "channels": 64,
        "layers": 2,
        "message_channels": 64,
        "triplet_channels": 32,
        "bilinear_channels": 32,
        "basis_channels": 8,
        "radial": 6,
        "degrees": 5,
        "basis": "bessel",
        "depths": (1, 1, 1, 1),
    },
}
"""Constructor arguments by size: `paper` as in the OE62 benchmarks, `small` for a CPU."""


@dataclass(frozen=True, eq=False)
class Inner:
    """What GemNet carries beside the messages."""

    geometry: Geometry
    atom: Float[Tensor, "atom channel"]


class GemNetT(Backbone):
    """GemNet with triplets, forces as the gradient of the energy, as published.

    `channels` is the width of the atoms and of the output blocks' features (the scalars), `message_channels` that of
    the edges; `depths` counts residual blocks before and after the skip, after the concatenation, and of atoms.
    `basis` is "bessel" (the paper's) or "gaussian" (that of the OC20 and OE62 benchmarks, hence of size `paper`).
    The envelope has exponent 5 and three vanishing derivatives (`envelope="dimenet"`: two, as published). Scale factors
    have rough values until `fit_scale_factors` sets them; saved with the weights.
    `update` says how long-range updates enter: see `edge_updates`. Source: arXiv:2106.08903, sections 4 to 6.
    """

    def __init__(
        self,
        *,
        channels: int = 64,
        layers: int = 2,
        cutoff: float = 6.0,
        message_channels: int = 64,
        triplet_channels: int = 32,
        bilinear_channels: int = 32,
        basis_channels: int = 8,
        radial: int = 6,
        degrees: int = 5,
        basis: str = "bessel",
        depths: tuple[int, int, int, int] = (1, 1, 1, 1),
        envelope: str = "polynomial",
        update: str = "edges",
    ) -> None:
        super().__init__(
            channels=channels,
            layers=layers,
            cutoff=cutoff,
            message_channels=message_channels,
            triplet_channels=triplet_channels,
            bilinear_channels=bilinear_channels,
            basis_channels=basis_channels,
            radial=radial,
            degrees=degrees,
            basis=basis,
            depths=list(depths),
            envelope=envelope,
            update=update,
        )
        if basis not in BASES:
            raise ConfigError(f"basis: {unknown_name('basis', basis, BASES)}")
        self.envelope = envelope_named(envelope, cutoff, exponent=5)
        self.basis = BASES[basis](cutoff, radial, degrees, basis_channels)  # type: ignore[call-arg]
        self.harmonics = SphericalHarmonics(degrees)
        self.gate, self.atom_gate, self.output_gate = (Dense(radial, basis_channels) for _ in range(3))
        self.elements = nn.Embedding(HEAVIEST + 1, channels)
        nn.init.uniform_(self.elements.weight, -math.sqrt(3), math.sqrt(3))
        self.embedding = EdgeEmbedding(channels, radial, message_channels)
        widths = (message_channels, triplet_channels, bilinear_channels, basis_channels)
        before, after, concatenated, atom = depths
        scales = self.basis.scales
        self.interactions = nn.ModuleList(
            InteractionBlock(channels, *widths, depths=(before, after, concatenated, atom), scales=scales)
            for _ in range(layers)
        )
        self.outputs = nn.ModuleList(
            OutputBlock(channels, message_channels, basis_channels, atom, scales) for _ in range(layers + 1)
        )
        self.update = build_update(update, channels, message_channels, layers)

    def index(self, batch: Batch) -> EdgeTable:
        """Pairs, each with both of its edges, and their places at their targets."""
        return EdgeTable.from_neighbors(batch.neighbors, batch.n_atoms)

    def embed(self, batch: Batch, edges: Edges, index: EdgeTable) -> EdgeState:
        """Atoms from elements, messages from atoms, and what the first output block reads of them."""
        pairs = index.pairs
        length = pairs.length(edges)
        envelope = self.envelope(length)[:, None]
        radial = self.basis.radial(length) * envelope
        geometry = Geometry(
            gate=self.gate(radial),
            atom_gate=self.atom_gate(radial),
            output_gate=self.output_gate(radial),
            circular=self.basis.circular(length, envelope, radial).transpose(1, 2).repeat(2, 1, 1),
            harmonics=index.slots.spread(self.harmonics(pairs.direction(edges))),
            table=index,
        )
        atom = self.elements(batch.numbers)
        message = self.embedding(atom, radial.repeat(2, 1), pairs.source, pairs.target)
        hidden = self.outputs[0].features(message, geometry, batch.n_atoms)
        return EdgeState(
            layer=-1,
            message=message,
            hidden=hidden,
            stream=torch.zeros_like(hidden),
            energy=hidden.new_zeros(batch.n_atoms),
            source=pairs.source,
            target=pairs.target,
            own=Inner(geometry, atom),
        )

    def interact(self, layer: int, state: EdgeState) -> EdgeState:
        """New atoms and messages; the output block before them is closed into the energy, the next one opened."""
        inner: Inner = state.own
        atom, message = self.interactions[layer](inner.atom, state.message, inner.geometry)
        hidden = self.outputs[layer + 1].features(message, inner.geometry, atom.shape[0])
        energy = state.energy + self.outputs[layer].energies(state.hidden)
        inner = replace(inner, atom=atom)
        return replace(state, layer=layer, message=message, hidden=hidden, energy=energy, own=inner)

    def scalars(self, state: EdgeState) -> Float[Tensor, "atom channel"]:
        """Atom features of the last output block, and the stream where there is one."""
        return self.update.scalars(state)

    def absorb(self, state: EdgeState, update: Float[Tensor, "atom channel"]) -> EdgeState:
        """The update goes where `update` says."""
        return self.update.absorb(state, update)

    def atom_energies(self, state: EdgeState) -> Float[Tensor, "atom"]:
        """Sum over all output blocks, plus what the updates have by themselves."""
        return state.energy + self.outputs[-1].energies(state.hidden) + self.update.energies(state)
