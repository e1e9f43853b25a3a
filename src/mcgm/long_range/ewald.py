"""Ewald message passing: messages between all atoms through wave vectors (Kosmala et al. 2023, arXiv:2303.04791).

| paper | here |
|---|---|
| structure factor embeddings, s_k = sum_j h_j exp(-i k x_j) | `Waves.structure_factors` |
| long-range message, M_i = sum_k exp(i k x_i) s_k F(k) | `Waves.messages` |
| filter of molecules, a linear map of Gaussians of the length of k, through a bottleneck | `RadialFilter` |
| filter of crystals, a weight of its own for each (n_1, n_2, n_3), through a bottleneck | `TabulatedCrystals` |
| voxels of a cubic grid in k, for molecules | `ball`, `voxel_window` |
| coordinates along the principal axes, for molecules | `mcgm.long_range.frame` |
| update, a dense layer and residual layers | `Update` |

Written from the paper's equations. With F(k) = 4 pi exp(-k² w² / 2) / (k² V), zero at k = 0, M_i is the Ewald sum of
Gaussian charges h_j.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mcgm.activations import ACTIVATIONS
from mcgm.batch import Batch
from mcgm.errors import ConfigError
from mcgm.long_range.base import Contribution, IndexReads, LongRange, LongRangeSpec, Promise
from mcgm.long_range.frame import FRAMES, Frame
from mcgm.long_range.frequency_filters import Crystals, RadialCrystals, RadialFilter, TabulatedCrystals
from mcgm.long_range.mcgm.assignment import Assignment
from mcgm.long_range.options import require_choice, require_positive, require_three, require_whole
from mcgm.long_range.reciprocal import LatticeWaves, Waves, about_centroid, ball, times_counted
from mcgm.long_range.residual import Residual, Update
from mcgm.long_range.selection import Selection
from mcgm.segments import take

PUBLISHED: dict[str, dict[str, Any]] = {
    "schnet": {"k_cutoff": 0.4, "radial": 48, "bottleneck": 8, "residuals": 3},
    "painn": {"k_cutoff": 0.6, "radial": 128, "bottleneck": 8, "residuals": 0},
    "dimenet++": {"k_cutoff": 0.8, "radial": 128, "bottleneck": 8, "residuals": 3},
    "gemnet-t": {"k_cutoff": 1.0, "radial": 128, "bottleneck": 16, "residuals": 3},
}
"""What the authors set for each backbone on OE62, all with voxels of 0.2 / Å."""

SERIES = 0.1
"""y² below which sin(y) / y is a series: its derivatives would lose all digits."""


@dataclass(frozen=True)
class EwaldMessages(LongRangeSpec):
    """Ewald message passing, arXiv:2303.04791. As constructed: small; `EwaldMessages.paper(backbone)`: as published.

    Molecules: a grid of wave vectors, fixed to the centroid and the principal axes. Energies do not notice a rotation
    of an unsymmetric molecule; symmetric and spherical tops (benzene, methane) have no axes: there the energy jumps.
    Crystals: the reciprocal lattice, exactly invariant with the radial filter. Energies are those of the atoms (paper).

    Args:
        k_cutoff: longest wave vector, 1/Å, of the grid and of reciprocal lattices.
        k_spacing: of the grid of molecules, 1/Å; features fade towards 2 pi / k_spacing from the centroid.
        radial: Gaussians of the length of k, from 0 to k_cutoff.
        bottleneck: width of the filters' linear bottleneck, whose lower half all layers share (paper).
        residuals: residual layers after the dense one in each update.
        lattice: `None`: crystals have the filter of molecules, times an envelope that vanishes at k_cutoff, so that no
            strain brings a step (decided); (a, b, c): as published, free weights for |n_i| <= a, b, c along the
            lattice vectors as they are given, which another choice of the same lattice's vectors changes.
        frame: of molecules: "principal" (paper); "laboratory": smooth, but does not turn with the molecule.
        activation: of the updates.
    """

    k_cutoff: float = 0.8
    k_spacing: float = 0.2
    radial: int = 32
    bottleneck: int = 8
    residuals: int = 1
    lattice: tuple[int, int, int] | None = None
    frame: Literal["principal", "laboratory"] = "principal"
    activation: str = "silu"

    def __post_init__(self) -> None:
        for key in ("k_cutoff", "k_spacing"):
            require_positive(key, getattr(self, key), "1/Å")
        if self.k_spacing > self.k_cutoff:
            raise ConfigError(f"k_spacing is {self.k_spacing}; required: at most k_cutoff ({self.k_cutoff} / Å).")
        for key, least in (("radial", 2), ("bottleneck", 1), ("residuals", 0)):
            require_whole(key, getattr(self, key), least)
        if self.lattice is not None:
            object.__setattr__(self, "lattice", require_three("lattice", self.lattice, 0))
        require_choice("frame", self.frame, FRAMES)
        require_choice("activation", self.activation, ACTIVATIONS)

    @classmethod
    def of_size(cls, *, size: str = "small", **options: Any) -> Self:
        """ "small", or the name of a backbone ("schnet", …) for what the authors set for it; then other options."""
        if size == "small":
            return cls(**options)
        require_choice("size", size, ["small", *PUBLISHED])
        published: dict[str, Any] = {"k_spacing": 0.2, "lattice": (1, 1, 3)}
        return cls(**(published | PUBLISHED[size] | options))

    @classmethod
    def paper(cls, backbone: str = "schnet", **options: Any) -> Self:
        """As the authors have it for this backbone on OE62; crystals as on OC20, with weights for (1, 1, 3)."""
        return cls.of_size(size=backbone, **options)

    @property
    def not_promised(self) -> dict[Promise, str]:
        """A grid does not turn by itself, axes are not always there, and what reaches all atoms is never alone."""
        far = "messages reach all atoms of a structure, however far"
        if self.frame == "laboratory":
            left_out: dict[Promise, str] = dict.fromkeys(
                ("rotation", "reflection"), "the wave vectors of molecules are fixed in space"
            )
        else:
            axes = "wave vectors follow the principal axes, which symmetric molecules do not have"
            left_out = dict.fromkeys(("smooth", "derivatives", "rotation", "reflection"), axes)
        left_out |= dict.fromkeys(("copies", "isolation"), far)
        if self.lattice is not None:
            left_out["supercell"] = "filters belong to the lattice vectors as given"
        return left_out

    @property
    def index_reads(self) -> IndexReads:
        """Wave vectors of the reciprocal lattice."""
        return "cell"

    def build(self, channels: int, layers: int) -> LongRange:
        """The module for a backbone of this width and depth."""
        return EwaldBlock(channels, layers, self)


@dataclass(frozen=True, eq=False)
class EwaldIndex:
    """Molecules, crystals (`None`: there are none), and the wave vectors of these."""

    open: Selection | None
    periodic: Selection | None
    lattice: LatticeWaves | None


@dataclass(frozen=True, eq=False)
class Part:
    """Phases of molecules, or of crystals, and narrow values of the filter at each wave vector."""

    waves: Waves
    narrow: Float[Tensor, "*rest wave narrow"]


@dataclass(frozen=True, eq=False)
class EwaldState:
    """Molecules and crystals, where there are any."""

    parts: tuple[Part, ...]


def voxel_window(place: Float[Tensor, "*rest 3"], spacing: float) -> Float[Tensor, "*rest 1"]:
    """The mean of exp(i q x) over a voxel, |q_d| <= spacing / 2: a product of sin(y) / y, y = spacing x_d / 2."""
    y = place * (spacing / 2)
    square = y.square()
    series = 1 - square / 6 * (1 - square / 20 * (1 - square / 42 * (1 - square / 72 * (1 - square / 110))))
    small = square < SERIES
    factor = torch.where(small, series, torch.sin(y) / torch.where(small, 1.0, y))
    return factor[..., 0:1] * factor[..., 1:2] * factor[..., 2:3]  # derivatives of `prod` wait for the device


class EwaldBlock(LongRange):
    """Messages through wave vectors after every layer; the lower half of the filters is shared by all layers."""

    number: Tensor

    def __init__(self, channels: int, layers: int, specification: EwaldMessages) -> None:
        super().__init__()
        self.spacing = specification.k_spacing
        self.frame: Frame = FRAMES[specification.frame]
        self.register_buffer(
            "number", torch.from_numpy(ball(specification.k_cutoff / self.spacing)).float(), persistent=False
        )
        self.voxels = 2 * len(self.number) - 1
        cutoff, bottleneck = specification.k_cutoff, specification.bottleneck
        self.radial = RadialFilter(cutoff, specification.radial, bottleneck)
        self.crystals: Crystals = RadialCrystals(cutoff, self.voxels * self.spacing**3)
        if specification.lattice is not None:
            self.crystals = TabulatedCrystals(specification.lattice, bottleneck)
        activation = ACTIVATIONS[specification.activation]
        self.before = nn.ModuleList(Residual(channels, activation) for _ in range(layers))
        self.up = nn.ModuleList(nn.Linear(bottleneck, channels, bias=False) for _ in range(layers))
        self.update = nn.ModuleList(Update(channels, specification.residuals, activation) for _ in range(layers))

    def index(self, batch: Batch) -> EwaldIndex:
        """Which structures are molecules, which crystals, and the wave vectors of these."""
        periodic = Selection.lattices(batch)
        open_ = Selection.of(batch, ~batch.pbc.any(dim=1))
        lattice = self.crystals.index(batch, periodic) if len(periodic) else None
        return EwaldIndex(open_ if len(open_) else None, periodic if len(periodic) else None, lattice)

    def begin(
        self,
        batch: Batch,
        index: EwaldIndex,
        *,
        clusters: tuple[tuple[Assignment, ...], ...] | None,
        generator: torch.Generator | None,
    ) -> EwaldState:
        """Phases and filters, which no layer changes."""
        arm = about_centroid(batch)
        parts = []
        if index.open is not None:
            parts.append(self._molecules(index.open, arm))
        if index.periodic is not None and index.lattice is not None:
            cell = take(batch.cell, index.periodic.structure)
            waves = Waves.of(index.periodic, index.lattice.vectors(cell), index.periodic.pad(arm))
            parts.append(Part(waves, self.crystals(index.lattice, cell, self.radial)))
        return EwaldState(tuple(parts))

    def _molecules(self, chosen: Selection, arm: Float[Tensor, "atom 3"]) -> Part:
        vectors = self.number * self.spacing
        padded = chosen.pad(arm)
        place = padded @ self.frame(padded, chosen.present)
        weight = times_counted(self.number)[:, None] / self.voxels
        narrow = weight * self.radial(torch.linalg.vector_norm(vectors, dim=1))
        return Part(Waves.of(chosen, vectors, place, voxel_window(place, self.spacing)), narrow)

    def exchange(
        self, layer: int, scalars: Float[Tensor, "atom channel"], state: EwaldState
    ) -> tuple[Float[Tensor, "atom channel"], EwaldState]:
        """Structure factors, filter, and back to the atoms."""
        features = self.before[layer](scalars)
        messages = torch.stack([part.waves.messages(features, self.up[layer](part.narrow)) for part in state.parts])
        return self.update[layer](messages.sum(0)), state

    def contribution(self, scalars: Float[Tensor, "atom channel"], state: EwaldState) -> Contribution:
        """None: energies are those of the atoms (paper)."""
        return Contribution(scalars.new_zeros(0), torch.zeros(0, dtype=torch.int64, device=scalars.device))
