"""Coulomb energies of Gaussian charges: all pairs of open structures, Ewald sums or meshes of periodic ones.

The kernels, their Fourier transforms and the mesh are those of `torch-pme` (extra `charges`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from mcgm.batch import Batch
from mcgm.errors import ConfigError, StructureError
from mcgm.long_range.reciprocal import volumes
from mcgm.long_range.selection import Selection, normals
from mcgm.segments import segment_sum, take

REACH = 6.3
"""Largest wave number of an Ewald sum times the width of the charges: what is left out is below exp(-20)."""

MOST_WAVES = 50_000_000
"""Wave vectors of all structures, or atoms times those in a plane, that an Ewald sum may have: 0.8 GB in float64 for
each of a few arrays."""


def coulomb_potential(width: float) -> Any:
    """erf(r / (sqrt(2) width)) / r in eV Å / e², with its Fourier transform and self energy.

    Raises:
        ConfigError: torch-pme is not installed.
    """
    try:
        from torchpme import CoulombPotential
        from torchpme.prefactors import eV_A
    except ModuleNotFoundError as error:
        raise ConfigError("charges need torch-pme; install it with: pip install 'mcgm[charges]'") from error
    return CoulombPotential(smearing=width, prefactor=eV_A)


@dataclass(frozen=True, eq=False)
class OpenPairs:
    """Every pair of atoms of each open structure, once."""

    first: Int[Tensor, "pair"]
    second: Int[Tensor, "pair"]

    @classmethod
    def of(cls, batch: Batch) -> OpenPairs:
        """From sizes and boundary conditions."""
        sizes = torch.bincount(batch.molecule, minlength=batch.n_molecules)
        start = torch.cumsum(sizes, 0) - sizes
        is_open = ~batch.pbc.any(dim=1)[batch.molecule]
        atom = torch.nonzero(is_open).flatten()
        rank = atom - start[batch.molecule[atom]]
        # each atom with those before it in its structure
        second = torch.repeat_interleave(atom, rank)
        nth = torch.arange(len(second), device=batch.device) - torch.repeat_interleave(
            torch.cumsum(rank, 0) - rank, rank
        )
        return cls(start[batch.molecule[second]] + nth, second)

    def energies(self, batch: Batch, charges: Float[Tensor, "atom"], potential: Any) -> Float[Tensor, "atom"]:
        """Half of each pair's energy at both ends, eV."""
        positions = batch.exact_positions
        vector = (take(positions, self.first) - take(positions, self.second)).to(charges.dtype)
        kernel = potential.lr_from_dist(torch.linalg.vector_norm(vector, dim=-1))
        half = 0.5 * take(charges, self.first) * take(charges, self.second) * kernel
        return segment_sum(half, self.first, batch.n_atoms) + segment_sum(half, self.second, batch.n_atoms)


class Sum(nn.Module, ABC):
    """A way to sum over periodic images."""

    @abstractmethod
    def index(self, batch: Batch, structures: Selection) -> Any:
        """What is known from the cells, once per batch."""

    @abstractmethod
    def forward(
        self, batch: Batch, structures: Selection, index: Any, charges: Float[Tensor, "atom"], potential: Any
    ) -> Float[Tensor, "atom"]:
        """Energy of each atom, eV; differentiable in charges, positions and cell."""


class Ewald(Sum):
    """All wave vectors up to 6.3 / width, explicitly: exact; its cost grows with the square of the atoms.

    E = 1/(2V) sum_k G(k) |S(k)|² - self energies - the neutralising background; slabs with their dipole correction.
    exp(ikr) is a product of three factors, one for each lattice vector, so that S(k) is a product of matrices.
    """

    def __init__(self, width: float) -> None:
        super().__init__()
        self.longest = REACH / width

    def index(self, batch: Batch, structures: Selection) -> Float[Tensor, "structure x y z"]:
        """How often each wave vector counts: k stands for -k too, and what is too long, or zero, not at all."""
        cells = batch.cell[structures.structure].detach().double()
        if not len(cells):
            return batch.cell.new_zeros(0, 1, 1, 1)
        most = torch.floor(self.longest * torch.linalg.vector_norm(cells, dim=2) / (2 * torch.pi)).amax(0).int()
        x, y, z = (int(most[0]) + 1, 2 * int(most[1]) + 1, 2 * int(most[2]) + 1)
        if len(cells) * max(x * y * z, structures.size * x * y) > MOST_WAVES:
            raise StructureError(
                f"an Ewald sum over {x * y * z} wave vectors and {structures.size} atoms in {len(cells)} structures "
                "needs too much memory. Use periodic_sum='pme', smaller batches, or broader charges (width); set "
                "pbc=False where a molecule stands in a large box."
            )
        numbers = _numbers((x, y, z), cells)
        squares = _squared_waves(numbers, torch.linalg.inv(cells))
        counted = (squares > 0) & (squares <= self.longest**2)
        times = torch.where(numbers[0] > 0, 2.0, 1.0)[:, None, None] * counted
        return times.to(batch.cell.dtype)

    def forward(
        self,
        batch: Batch,
        structures: Selection,
        index: Float[Tensor, "structure x y z"],
        charges: Float[Tensor, "atom"],
        potential: Any,
    ) -> Float[Tensor, "atom"]:
        """See `Sum`."""
        cell = take(batch.cell, structures.structure)
        fractions, charge = structures.pad(wrapped_fractions(batch, structures)), structures.pad(charges)
        volume, inverse = volumes(cell)[:, None], torch.linalg.inv(cell)
        numbers = _numbers(index.shape[1:], cell)
        kernel = potential.lr_from_k_sq(_squared_waves(numbers, inverse))
        green = (index / volume[..., None, None] * kernel).flatten(1, 2)
        x, y, z = (_phases(n, part) for n, part in zip(numbers, fractions.unbind(-1), strict=True))
        plane = (x[..., :, None] * y[..., None, :]).flatten(2)
        structure_factor = (plane * charge[..., None]).mT @ z
        value = (plane * (z @ (green * structure_factor.conj()).mT)).sum(-1).real
        value = value - potential.self_contribution() * charge
        total = charge.sum(-1, keepdim=True)
        value = value - 2 * potential.background_correction() * total / volume
        value = value + potential.prefactor * slab_correction(batch, structures, charges)
        return structures.unpad(0.5 * charge * value, batch.n_atoms)


class ParticleMesh(Sum):
    """Smooth particle-mesh Ewald of torch-pme, one structure after another: for thousands of atoms in a cell."""

    def __init__(self, width: float) -> None:
        super().__init__()
        self.spacing = width / 4

    def index(self, batch: Batch, structures: Selection) -> None:
        """Nothing."""

    def forward(
        self, batch: Batch, structures: Selection, index: None, charges: Float[Tensor, "atom"], potential: Any
    ) -> Float[Tensor, "atom"]:
        """See `Sum`."""
        from torchpme import PMECalculator

        mesh = PMECalculator(potential, mesh_spacing=self.spacing, interpolation_nodes=7)
        sizes = torch.bincount(batch.molecule[structures.atom], minlength=batch.n_molecules)[structures.structure]
        no_pairs = structures.atom.new_zeros(0, 2), charges.new_zeros(0)
        energies, fractions = [], wrapped_fractions(batch, structures)
        for atoms, structure in zip(structures.atom.split(sizes.tolist()), structures.structure, strict=True):
            charge, cell = take(charges, atoms), batch.cell[structure]
            value = mesh(charge[:, None], cell, take(fractions, atoms) @ cell, *no_pairs)
            energies.append(charge * value[:, 0])
        energy = charges.new_zeros(batch.n_atoms).index_copy(0, structures.atom, torch.cat(energies))
        slab = structures.pad(charges) * slab_correction(batch, structures, charges)
        return energy + structures.unpad(0.5 * potential.prefactor * slab, batch.n_atoms)


def wrapped_fractions(batch: Batch, structures: Selection) -> Float[Tensor, "atom 3"]:
    """Of lattice vectors, from -1/2 to 1/2, exact however far from the origin; zero for atoms of other structures.

    Differentiable as if nothing was wrapped, which changes no sum over all images.
    """
    inverse = torch.linalg.inv(take(batch.exact_cell, structures.structure))
    fractions = structures.unpad(structures.pad(batch.exact_positions) @ inverse, batch.n_atoms)
    return (fractions - fractions.detach().round()).to(batch.cell.dtype)


def slab_correction(
    batch: Batch, structures: Selection, charges: Float[Tensor, "atom"]
) -> Float[Tensor, "structure size"]:
    """What turns the potential (e/Å) of slabs stacked along their normal into that of one slab; zero for crystals.

    The third vector may be skewed to the slab. In float64, as squares of coordinates are subtracted.
    Source: Yeh and Berkowitz, J. Chem. Phys. 111, 3155 (1999), with net charge Ballenegger et al., J. Chem. Phys. 131,
    094107 (2009).
    """
    is_slab = structures.periodic.sum(dim=1) == 2
    cell, charge = take(batch.exact_cell, structures.structure), structures.pad(charges.double())
    normal = normals(structures.periodic, cell)
    area = torch.linalg.vector_norm(normal, dim=-1, keepdim=True)
    volume = volumes(cell)[:, None]
    z = (structures.pad(batch.exact_positions) @ (normal / area)[..., None])[..., 0]
    total, first, second = ((charge * z**power).sum(-1, keepdim=True) for power in (0, 1, 2))
    value = z * first - 0.5 * (second + total * z**2) - total * (volume / area) ** 2 / 12
    return (is_slab[:, None] * 4 * torch.pi / volume * value).to(charges.dtype)


SUMS: dict[str, type[Ewald] | type[ParticleMesh]] = {"ewald": Ewald, "pme": ParticleMesh}
"""Ways to sum over periodic images, by the name that specifications use."""


def _numbers(sizes: Sequence[int], like: Float[Tensor, "*shape"]) -> list[Float[Tensor, "..."]]:
    """Integers along each lattice vector, from 0 along the first and around 0 along the others."""
    starts = (0, -(sizes[1] // 2), -(sizes[2] // 2))
    return [
        start + torch.arange(size, dtype=like.dtype, device=like.device)
        for start, size in zip(starts, sizes, strict=True)
    ]


def _squared_waves(
    numbers: list[Float[Tensor, "..."]], inverse: Float[Tensor, "structure 3 3"]
) -> Float[Tensor, "structure x y z"]:
    """k² of integer combinations of reciprocal lattice vectors, the columns of 2 pi / cell."""
    metric = (4 * torch.pi**2 * inverse.mT @ inverse)[..., None, None]
    x, y, z = numbers[0][:, None], numbers[1], numbers[2]
    plane = metric[:, 0, 0] * x**2 + metric[:, 1, 1] * y**2 + 2 * metric[:, 0, 1] * x * y
    tilt = 2 * (metric[:, 0, 2] * x + metric[:, 1, 2] * y)
    return plane[..., None] + z * (tilt[..., None] + (metric[:, 2, 2] * z)[..., None, :])


def _phases(
    numbers: Float[Tensor, "count"], fraction: Float[Tensor, "structure size"]
) -> Complex[Tensor, "structure size count"]:
    """exp(2 pi i n s)."""
    angle = 2 * torch.pi * fraction[..., None] * numbers
    return torch.complex(torch.cos(angle), torch.sin(angle))
