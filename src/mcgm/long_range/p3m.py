"""Neural P3M: atoms exchange features with the points of a mesh, which is convolved as a whole (arXiv:2409.17622).

| paper | here |
|---|---|
| mesh of a crystal's cell, or of a box around a molecule | `Boxes` |
| Atom2Mesh and Mesh2Atom, continuous-filter convolutions within a cutoff | `MeshConvolution` |
| Mesh2Mesh, a Fourier neural operator: P3M's influence function G(k), learned | `FourierLayer` |
| representations of both kinds of points, residual | `NeuralP3MBlock.exchange` |
| decoder, energies of atoms and of mesh points | `NeuralP3MBlock.contribution` |

Written from the paper's equations as far as they could be had; its text was not at hand in full. Decided, each beside
its option: the order of the steps, the box, the axes' directions, no limit to the number of neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mcgm.activations import ACTIVATIONS
from mcgm.batch import Batch
from mcgm.heads import EnergyHead
from mcgm.long_range.base import Contribution, LongRange, LongRangeSpec, Promise
from mcgm.long_range.fourier import MIXINGS, FourierLayer
from mcgm.long_range.frame import FRAMES, Frame
from mcgm.long_range.mcgm.assignment import Assignment
from mcgm.long_range.mesh import Boxes, MeshPairs
from mcgm.long_range.options import require_choice, require_positive, require_three, require_whole
from mcgm.long_range.selection import Selection
from mcgm.radial import GaussianBasis, PolynomialEnvelope
from mcgm.segments import segment_sum, take

PUBLISHED: dict[str, dict[str, Any]] = {
    "oe62": {"mesh": (3, 3, 3), "cutoff": 4.0, "radial": 200, "filters": 256},
    "ag": {"mesh": (3, 3, 2), "cutoff": 4.0, "radial": 32, "filters": 64},
    "nanotube": {"mesh": (7, 3, 3), "cutoff": 5.0, "radial": 32, "filters": 64},
}
"""What the authors set for OE62 (SchNet), for crystals of silver, and for the double-walled nanotube of MD22."""

SOFTENING = 0.1
"""Å; lengths are sqrt(r² + SOFTENING²), for an atom on a mesh point would have a cusp (decided)."""

ENERGIES = ("atoms and mesh", "atoms")


@dataclass(frozen=True)
class NeuralP3M(LongRangeSpec):
    """Neural P3M, arXiv:2409.17622. As constructed: small; `NeuralP3M.paper(data)`: as published.

    After each interaction layer, in P3M's order (decided; the paper lets both kinds of points act at once): atoms are
    assigned to the mesh, the mesh is convolved, and brought back to the atoms. The mesh starts with zeros (decided).

    Args:
        mesh: points along each axis, the same for all structures; those of molecules along their axes, longest first.
        cutoff: Å between an atom and a point that exchange; all pairs (the paper keeps the nearest few).
        margin: Å that the box of a molecule is larger than its outermost atoms, on all sides.
        radial: Gaussians of the length, from 0 to the cutoff.
        filters: width of the continuous filters.
        modes: highest frequency along each axis that has a factor, the others have none; `None`: all of the mesh.
        mixing: "channelwise": a factor for each frequency and channel (decided: with matrices the layers would have
            more parameters than published); "full": a matrix, as in arXiv:2010.08895.
        energy_from: "atoms and mesh": mesh points have energies too; "atoms".
        frame: of the boxes of molecules: "principal", their axes; "laboratory": x, y, z.
        activation: of all parts.
    """

    mesh: tuple[int, int, int] = (3, 3, 3)
    cutoff: float = 4.0
    margin: float = 1.0
    radial: int = 16
    filters: int = 32
    modes: tuple[int, int, int] | None = None
    mixing: Literal["channelwise", "full"] = "channelwise"
    energy_from: Literal["atoms and mesh", "atoms"] = "atoms and mesh"
    frame: Literal["principal", "laboratory"] = "principal"
    activation: str = "silu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mesh", require_three("mesh", self.mesh, 1))
        if self.modes is not None:
            object.__setattr__(self, "modes", require_three("modes", self.modes, 0))
        for key in ("cutoff", "margin"):
            require_positive(key, getattr(self, key), "Å")
        for key, least in (("radial", 2), ("filters", 1)):
            require_whole(key, getattr(self, key), least)
        tables = {"mixing": MIXINGS, "energy_from": ENERGIES, "frame": FRAMES, "activation": ACTIVATIONS}
        for key, table in tables.items():
            require_choice(key, getattr(self, key), table)

    @classmethod
    def of_size(cls, *, size: str = "small", **options: Any) -> Self:
        """ "small", or the name of what the authors set it for ("oe62", "ag", "nanotube"); then other options."""
        require_choice("size", size, ["small", *PUBLISHED])
        return cls(**(PUBLISHED.get(size, {}) | options))

    @classmethod
    def paper(cls, data: str = "oe62", **options: Any) -> Self:
        """As the authors have it for these data."""
        return cls.of_size(size=data, **options)

    @property
    def not_promised(self) -> dict[Promise, str]:
        """What a mesh that follows the structure, and one that is fixed in a cell, cannot have."""
        box = "the mesh of a molecule follows its outermost atoms and its axes"
        cell = "the mesh of a crystal is fixed in its cell"
        far = "all atoms of a structure share one mesh"
        turn = "the mesh of a molecule follows axes that symmetric ones do not have"
        if self.frame == "laboratory":
            turn = "the mesh of a molecule is fixed in space"
        left_out: dict[Promise, str] = dict.fromkeys(("smooth", "derivatives"), box)
        left_out |= dict.fromkeys(("rotation", "reflection"), turn)
        left_out |= dict.fromkeys(("translation", "supercell"), cell)
        return left_out | dict.fromkeys(("copies", "isolation"), far)

    def build(self, channels: int, layers: int) -> LongRange:
        """The module for a backbone of this width and depth."""
        return NeuralP3MBlock(channels, layers, self)


class MeshConvolution(nn.Module):
    """Features of one kind of points from those of the other: filters of the length, summed, then point by point.

    Source of the form: SchNet, arXiv:1706.08566.
    """

    def __init__(self, channels: int, specification: NeuralP3M) -> None:
        super().__init__()
        activation, filters = ACTIVATIONS[specification.activation], specification.filters
        self.filter = nn.Sequential(nn.Linear(specification.radial, filters), activation(), nn.Linear(filters, filters))
        self.source = nn.Linear(channels, filters, bias=False)
        self.output = nn.Sequential(nn.Linear(filters, channels), activation(), nn.Linear(channels, channels))

    def forward(
        self,
        features: Float[Tensor, "from channel"],
        source: Int[Tensor, "pair"],
        target: Int[Tensor, "pair"],
        targets: int,
        state: P3MState,
    ) -> Float[Tensor, "to channel"]:
        """What is added to the targets."""
        weight = self.filter(state.basis) * state.envelope
        return self.output(segment_sum(take(self.source(features), source) * weight, target, targets))


@dataclass(frozen=True, eq=False)
class P3MIndex:
    """Molecules, and pairs of atoms and mesh points of all structures."""

    molecules: Selection
    pairs: MeshPairs


@dataclass(frozen=True, eq=False)
class P3MState:
    """Pairs with what the filters read of them, and the features of the mesh points (`None`: none yet)."""

    batch: Batch
    pairs: MeshPairs
    basis: Float[Tensor, "pair radial"]
    envelope: Float[Tensor, "pair 1"]
    points: Float[Tensor, "point channel"] | None = None


class NeuralP3MBlock(LongRange):
    """Assignment to the mesh, convolution, and back, after every layer; energies of the mesh points at the end."""

    def __init__(self, channels: int, layers: int, specification: NeuralP3M) -> None:
        super().__init__()
        self.specification = specification
        self.frame: Frame = FRAMES[specification.frame]
        self.basis = GaussianBasis(specification.cutoff, specification.radial)
        self.envelope = PolynomialEnvelope(specification.cutoff)
        activation = ACTIVATIONS[specification.activation]
        self.to_mesh = nn.ModuleList(MeshConvolution(channels, specification) for _ in range(layers))
        self.fourier = nn.ModuleList(
            FourierLayer(channels, specification.mesh, specification.modes, specification.mixing, activation)
            for _ in range(layers)
        )
        self.to_atoms = nn.ModuleList(MeshConvolution(channels, specification) for _ in range(layers))
        heads = [EnergyHead(channels)] if specification.energy_from == "atoms and mesh" else []
        self.heads = nn.ModuleList(heads)

    def index(self, batch: Batch) -> P3MIndex:
        """Pairs within the cutoff, for these positions."""
        Selection.lattices(batch)  # refuses what has no cell to put a mesh into
        molecules = Selection.of(batch, ~batch.pbc.any(dim=1))
        with torch.no_grad():
            boxes = Boxes.of(batch, molecules, self.frame, self.specification.margin)
            pairs = MeshPairs.within(batch, boxes, self.specification.mesh, self.specification.cutoff)
        return P3MIndex(molecules, pairs)

    def begin(
        self,
        batch: Batch,
        index: P3MIndex,
        *,
        clusters: tuple[tuple[Assignment, ...], ...] | None,
        generator: torch.Generator | None,
    ) -> P3MState:
        """Lengths of the pairs, and a mesh without features."""
        boxes = Boxes.of(batch, index.molecules, self.frame, self.specification.margin)
        squares = index.pairs.vectors(boxes, batch.molecule).square().sum(-1)
        length = torch.sqrt(squares + SOFTENING**2)
        return P3MState(batch, index.pairs, self.basis(length), self.envelope(length)[:, None])

    def exchange(
        self, layer: int, scalars: Float[Tensor, "atom channel"], state: P3MState
    ) -> tuple[Float[Tensor, "atom channel"], P3MState]:
        """Assign, convolve, bring back."""
        pairs = state.pairs
        assigned = self.to_mesh[layer](scalars, pairs.atom, pairs.point, pairs.points, state)
        points = assigned if state.points is None else state.points + assigned
        points = points + self.fourier[layer](points)
        update = self.to_atoms[layer](points, pairs.point, pairs.atom, scalars.shape[0], state)
        return update, P3MState(state.batch, pairs, state.basis, state.envelope, points)

    def contribution(self, scalars: Float[Tensor, "atom channel"], state: P3MState) -> Contribution:
        """Energies of the mesh points."""
        if not len(self.heads) or state.points is None:
            return Contribution.none(state.batch)
        each = state.pairs.points // state.batch.n_molecules
        molecule = torch.arange(state.batch.n_molecules, device=scalars.device).repeat_interleave(each)
        return Contribution(self.heads[0](state.points), molecule)
