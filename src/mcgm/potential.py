"""A backbone, a long-range block and element references make a potential: the only place that knows them all."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from ase.data import atomic_masses, chemical_symbols
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mcgm.backbones.base import Backbone
from mcgm.batch import Batch
from mcgm.derivatives import differentiate
from mcgm.domain import Domain
from mcgm.errors import StructureError
from mcgm.long_range.base import Clusters, Contribution, LongRange, LongRangeSpec, Promise
from mcgm.long_range.mcgm.assignment import Assignment
from mcgm.mixed import exact, require_precision
from mcgm.segments import segment_sum, take
from mcgm.structure import HEAVIEST, ascending_elements


class References(Protocol):
    """Energies of free elements, by atomic number (119,), and a constant per structure, eV."""

    @property
    def energies(self) -> np.ndarray:
        """eV, by atomic number."""

    @property
    def intercept(self) -> float:
        """eV."""


@dataclass(frozen=True, eq=False)
class BatchIndex:
    """What the two halves of a potential derive once from a batch."""

    backbone: Any
    long_range: Any


@dataclass(frozen=True, eq=False)
class Energies:
    """Energies in eV, float64 whatever the network's precision: total energies are large, differences small.

    `energy` is the sum of `atom_energy` (references included) over the atoms of a structure, its `cluster_energy`, its
    `electrostatic_energy` and the references' intercept. `charges` (e) are there for blocks that have some, and what
    these lacked to the total charge before it was shared out, `missing_charge` (e).
    """

    energy: Float[Tensor, "molecule"]
    atom_energy: Float[Tensor, "atom"]
    cluster_energy: Float[Tensor, "molecule"]
    clusters: tuple[tuple[Clusters, ...], ...]
    electrostatic_energy: Float[Tensor, "molecule"]
    charges: Float[Tensor, "atom"] | None
    dipole: Float[Tensor, "molecule 3"] | None
    missing_charge: Float[Tensor, "molecule"] | None


@dataclass(frozen=True, eq=False)
class Prediction(Energies):
    """Energies (eV) with forces (eV/Å) and stress (eV/Å³); `clusters` by layer and level.

    For blocks with charges (e) also the dipoles of their atoms (eÅ), about the centre of mass; of a periodic structure
    they depend on the images that were given. A committee also has the spread of its members, as standard deviation
    (eV, eV/Å), and says which structures are out of domain: where the spread is larger than usual.
    """

    forces: Float[Tensor, "atom 3"] | None = None
    stress: Float[Tensor, "molecule 3 3"] | None = None
    energy_spread: Float[Tensor, "molecule"] | None = None
    forces_spread: Float[Tensor, "atom 3"] | None = None
    out_of_domain: Bool[Tensor, "molecule"] | None = None


class ElementReference(nn.Module):
    """Reference energy of each element, float64 in every precision of the network."""

    energies: Tensor
    intercept: Tensor

    def __init__(self, references: References | None) -> None:
        super().__init__()
        energies = np.zeros(HEAVIEST + 1) if references is None else references.energies
        intercept = 0.0 if references is None else references.intercept
        self.register_buffer("energies", torch.tensor(energies, dtype=torch.float64))
        self.register_buffer("intercept", torch.tensor(intercept, dtype=torch.float64))

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        # total energies lose meV in float32: follow the device, not the dtype
        device = fn(torch.empty(0)).device
        self._buffers.update({name: buffer.to(device) for name, buffer in self.named_buffers(recurse=False)})
        return self

    def forward(self, numbers: Int[Tensor, "atom"]) -> Float[Tensor, "atom"]:
        """Reference energy of each atom, eV."""
        return self.energies[numbers]


class Potential(nn.Module, ABC):
    """What commands and interfaces take: energies, forces and stress of a batch. Subclasses are final.

    One network is a `NetworkPotential`; several are a `mcgm.committee.Committee`, and `backbone` and `scale` those of
    the first one, for all have the same architecture.

    Attributes:
        backbone: the local network.
        specification: what is in the slot after each of its layers.
        references: energies of free elements, eV.
        scale: eV per unit of network output.
        elements: atomic numbers it was trained on, ascending; others are refused. `None`: any.
        domain: beyond which spread a committee takes a structure for out of domain; `None`: not known.
    """

    backbone: Backbone
    specification: LongRangeSpec
    references: ElementReference
    scale: Tensor
    elements: tuple[int, ...] | None
    domain: Domain | None = None

    @property
    def cutoff(self) -> float:
        """Å."""
        return self.backbone.cutoff

    @property
    @abstractmethod
    def block(self) -> LongRange:
        """What is in the slot; of a committee, that of the first member."""

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the network."""
        return self.scale.dtype

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.scale.device

    @property
    def is_smooth(self) -> bool:
        """Whether the energy is a smooth function of the positions, as dynamics needs."""
        return self.specification.is_smooth

    @property
    def not_promised(self) -> dict[Promise, str]:
        """What it does not promise of its energy, each with the reason."""
        return self.specification.not_promised

    @property
    def has_labels(self) -> bool:
        """Whether it jumps because labels of clusters do, which can be frozen."""
        return self.specification.has_labels

    @property
    def has_charges(self) -> bool:
        """Whether it predicts charges and dipoles."""
        return self.specification.has_charges

    @abstractmethod
    def index(self, batch: Batch) -> Batch:
        """The batch with all index tensors that this potential needs, so that `forward` does no counting.

        Raises:
            StructureError: an element that the potential was not trained on, or edges from another cutoff.
        """

    @abstractmethod
    def forward(
        self,
        batch: Batch,
        *,
        forces: bool = True,
        stress: bool | None = None,
        clusters: tuple[tuple[Assignment, ...], ...] | None = None,
        generator: torch.Generator | None = None,
    ) -> Prediction:
        """Predict. In training mode, or where `batch.positions` requires grad, forces can be differentiated again.

        Args:
            batch: structures with edges within `cutoff`, in the network's precision.
            forces: whether to differentiate; without, neither forces nor stress.
            stress: default: where the batch is periodic.
            clusters: assignments by layer and level, to be used instead of clustering.
            generator: where rules that draw (K-means++, random) take chance from; `None`: deterministic.

        Raises:
            StructureError: see `index`; or the batch is in another precision.
        """

    def save(self, path: str | Path, *, extra: dict[str, Any] | None = None) -> None:
        """Write the model file; see `mcgm.checkpoint.save`."""
        from mcgm.checkpoint import save

        save(self, path, extra=extra)

    def extra_repr(self) -> str:
        """Type signature: what comes in, what goes out."""
        count = sum(p.numel() for p in self.parameters())
        return f"atoms within {self.cutoff:g} Å -> eV, eV/Å; {count:,} parameters, smooth={self.is_smooth}"


class NetworkPotential(Potential):
    """E = intercept + sum over atoms (reference + shift + scale * network) + scale * sum over clusters + Coulomb.

    Args:
        backbone: the local network.
        long_range: the choice for the slot after each of its layers.
        references: energies of free elements, eV.
        scale: eV per unit of network output.
        shift: eV per atom.
        elements: atomic numbers it was trained on; others are refused. `None`: any.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        backbone: Backbone,
        long_range: LongRangeSpec,
        *,
        references: References | None = None,
        scale: float = 1.0,
        shift: float = 0.0,
        elements: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.specification = long_range
        self.long_range = long_range.build(backbone.channels, backbone.layers)
        self.references = ElementReference(references)
        self.register_buffer("scale", torch.tensor(float(scale)))
        self.register_buffer("shift", torch.tensor(float(shift)))
        self.elements = None if elements is None else ascending_elements(elements)

    @property
    def block(self) -> LongRange:
        """See the base class."""
        return self.long_range

    def index(self, batch: Batch) -> Batch:
        """See the base class."""
        if batch.cutoff != self.cutoff:
            raise StructureError(
                f"the batch has edges within {batch.cutoff:g} Å; required: {self.cutoff:g} Å. "
                "Make it with cutoff=potential.cutoff."
            )
        self._check_elements(batch)
        with exact(batch.device):
            return batch.replace(index=BatchIndex(self.backbone.index(batch), self.long_range.index(batch)))

    def _check_elements(self, batch: Batch) -> None:
        if self.elements is None:
            return
        known = torch.tensor(self.elements, device=batch.device)
        unknown = torch.nonzero(~torch.isin(batch.numbers, known)).flatten().tolist()
        if unknown:
            molecule = batch.molecule[unknown[0]]
            atom = unknown[0] - int(torch.searchsorted(batch.molecule, molecule))
            names = " ".join(chemical_symbols[z] for z in self.elements)
            symbol = chemical_symbols[int(batch.numbers[unknown[0]])]
            raise StructureError.in_batch(
                int(molecule),
                f"atom {atom} is {symbol}, an element that this potential was not trained on. It knows: {names}.",
            )

    def energies(
        self,
        batch: Batch,
        *,
        clusters: tuple[tuple[Assignment, ...], ...] | None = None,
        generator: torch.Generator | None = None,
    ) -> Energies:
        """Energies alone: a function of the batch, differentiable in positions and cell. See `forward`.

        Under `torch.autocast` the layers of the backbone compute in lower precision, and nothing else does.
        """
        backbone, block = self.backbone, self.long_range
        with exact(batch.device):
            state = backbone.embed(batch, batch.edges, batch.index.backbone)
            memory = block.begin(batch, batch.index.long_range, clusters=clusters, generator=generator)
        for layer in range(backbone.layers):
            state = backbone.interact(layer, state)
            with exact(batch.device):
                update, memory = block.exchange(layer, backbone.scalars(state), memory)
                if update is not None:
                    state = backbone.absorb(state, update)
        with exact(batch.device):
            return self._added_up(batch, state, block.contribution(backbone.scalars(state), memory))

    def _added_up(self, batch: Batch, state: Any, added: Contribution) -> Energies:
        """Energies of atoms and of the block, in double precision."""
        backbone = self.backbone
        scale, shift = self.scale.double(), self.shift.double()
        atom_energy = self.references(batch.numbers) + shift + scale * backbone.atom_energies(state).double()
        cluster_energy = scale * segment_sum(added.energy.double(), added.molecule, batch.n_molecules)
        local_energy = segment_sum(atom_energy, batch.molecule, batch.n_molecules)
        electrostatic_energy, charges, dipole, missing = torch.zeros_like(cluster_energy), None, None, None
        if added.electrostatics is not None:
            charges, missing = added.electrostatics.charges, added.electrostatics.missing
            coulomb = added.electrostatics.energy.double()
            electrostatic_energy = segment_sum(coulomb, batch.molecule, batch.n_molecules)
            dipole = _dipole(batch, charges)
        energy = self.references.intercept + local_energy + cluster_energy + electrostatic_energy
        electrostatics = electrostatic_energy, charges, dipole, missing
        return Energies(energy, atom_energy, cluster_energy, added.clusters, *electrostatics)

    def forward(
        self,
        batch: Batch,
        *,
        forces: bool = True,
        stress: bool | None = None,
        clusters: tuple[tuple[Assignment, ...], ...] | None = None,
        generator: torch.Generator | None = None,
    ) -> Prediction:
        """See the base class."""
        batch = self.ready(batch)
        keep = self.training or batch.positions.requires_grad
        options: dict[str, Any] = {"clusters": clusters, "generator": generator}
        return self.predict(
            batch, forces=forces, stress=batch.periodic if stress is None else stress, create_graph=keep, **options
        )

    def ready(self, batch: Batch) -> Batch:
        """The batch with all that `predict` needs.

        Raises:
            StructureError: see `forward`.
        """
        require_precision(self.dtype)
        if batch.positions.dtype != self.dtype:
            raise StructureError(
                f"the batch is {batch.positions.dtype}, the potential {self.dtype}. Make it with dtype=potential.dtype "
                "(Batch.from_atoms, from_structures)."
            )
        return self.index(batch) if batch.index is None else batch

    def predict(
        self,
        batch: Batch,
        *,
        forces: bool,
        stress: bool,
        create_graph: bool,
        clusters: tuple[tuple[Assignment, ...], ...] | None = None,
        generator: torch.Generator | None = None,
    ) -> Prediction:
        """`forward` for a batch that is ready; with `create_graph` its results can be differentiated."""

        def energies(strained: Batch) -> Energies:
            return self.energies(strained, clusters=clusters, generator=generator)

        if not forces:
            return Prediction(**_fields(energies(batch)))
        result, force, tension = differentiate(energies, batch, stress=stress, create_graph=create_graph)
        prediction = Prediction(**_fields(result), forces=force, stress=tension)
        return prediction if create_graph else _detached(prediction)


def _dipole(batch: Batch, charges: Float[Tensor, "atom"]) -> Float[Tensor, "molecule 3"]:
    """Sum of charge times position about the centre of mass."""
    positions = batch.exact_positions
    mass = torch.as_tensor(atomic_masses, dtype=positions.dtype, device=batch.device)[batch.numbers]
    moment = segment_sum(mass[:, None] * positions, batch.molecule, batch.n_molecules)
    center = moment / segment_sum(mass, batch.molecule, batch.n_molecules)[:, None]
    arm = (positions - take(center, batch.molecule)).to(charges.dtype)
    return segment_sum(charges[:, None] * arm, batch.molecule, batch.n_molecules)


def _fields(energies: Energies) -> dict[str, Any]:
    return {field.name: getattr(energies, field.name) for field in dataclasses.fields(energies)}


def _detached(item: Any, found: dict[int, Any] | None = None) -> Any:
    """Without their graph: all tensors in it; what is in several places (levels below levels) is met once."""
    if isinstance(item, Tensor):
        return item.detach() if item.requires_grad else item
    found = {} if found is None else found
    if isinstance(item, tuple):
        return tuple(_detached(value, found) for value in item)
    if not dataclasses.is_dataclass(item) or isinstance(item, type):
        return item
    if id(item) not in found:
        values = {field.name: _detached(getattr(item, field.name), found) for field in dataclasses.fields(item)}
        found[id(item)] = type(item)(**values)
    return found[id(item)]
