"""A sound little potential and its broken relatives, one defect each. The physics checks must tell them apart."""

from dataclasses import dataclass, replace

import torch

from mcgm.neighbors import Neighbors, edge_vectors
from mcgm.segments import segment_mean, segment_sum


@dataclass(frozen=True)
class Prediction:
    energy: torch.Tensor
    forces: torch.Tensor | None = None
    stress: torch.Tensor | None = None


class Sound:
    """E = Σ_i sqrt(1 + ρ_i), ρ_i = Σ_j z_j exp(-r²/2) (1 - r²/r_c²)⁴: smooth, many-body, local."""

    cutoff = 5.0
    is_smooth = True

    def __call__(self, batch, *, forces=True, stress=False):
        if not forces:
            return Prediction(self.energy(batch))
        with torch.enable_grad():
            positions = batch.positions.detach().requires_grad_()
            strain = torch.zeros_like(batch.cell).requires_grad_()
            deform = torch.eye(3, dtype=strain.dtype) + 0.5 * (strain + strain.mT)
            moved = torch.einsum("ab,abc->ac", positions, deform[batch.molecule])
            energy = self.energy(batch.replace(positions=moved, cell=batch.cell @ deform))
            slope, tension = torch.autograd.grad(energy.sum(), (positions, strain), materialize_grads=True)
        volume = torch.linalg.det(batch.cell).abs()[:, None, None]
        return Prediction(energy.detach(), -slope, tension / volume if stress else None)

    def energy(self, batch):
        return segment_sum(self.atom_energies(batch), batch.molecule, batch.n_molecules)

    def atom_energies(self, batch):
        return torch.sqrt(1 + self.density(batch))

    def density(self, batch):
        edges = batch.edges
        weight = batch.numbers[edges.source] * torch.exp(-edges.length.square() / 2) * self.envelope(edges.length)
        return segment_sum(weight, edges.target, batch.n_atoms)

    def envelope(self, length):
        return (1 - (length / self.cutoff).square()).clamp(min=0) ** 4


class NotRotationInvariant(Sound):
    """Looks at the x components of its edges."""

    def density(self, batch):
        edges = batch.edges
        weight = (edges.vector[:, 0] / edges.length).square() * self.envelope(edges.length)
        return segment_sum(weight, edges.target, batch.n_atoms)


class Handed(Sound):
    """Adds a triple product: changes sign in a mirror."""

    def atom_energies(self, batch):
        edges = batch.edges
        parts = []
        for power in (1, 2, 3):
            weight = (edges.length**power * self.envelope(edges.length))[:, None] * edges.vector
            parts.append(segment_sum(weight, edges.target, batch.n_atoms))
        return super().atom_energies(batch) + 0.01 * (parts[0] * torch.linalg.cross(parts[1], parts[2])).sum(-1)


class PinnedToTheOrigin(Sound):
    """Looks at absolute positions."""

    def atom_energies(self, batch):
        return super().atom_energies(batch) + 1e-3 * batch.positions.square().sum(-1)


class OrderDependent(Sound):
    """Favours the atoms that stand first in the list."""

    def atom_energies(self, batch):
        sizes = torch.bincount(batch.molecule)
        first = torch.cumsum(sizes, 0) - sizes
        place = torch.arange(batch.n_atoms) - first[batch.molecule]
        return super().atom_energies(batch) * (1 + 1e-3 * place)


class LeaksBetweenStructures(Sound):
    """Normalises over the batch: the mean of all structures enters each."""

    def energy(self, batch):
        energy = super().energy(batch)
        return energy + 1e-3 * energy.mean()


class FeelsTheSizeOfTheBatch(Sound):
    """Counts the structures of the batch, without any gradient between them."""

    def energy(self, batch):
        return super().energy(batch) * (1 + 1e-4 * batch.n_molecules)


class DrawsLots(Sound):
    """Noise from global random state in every call."""

    def energy(self, batch):
        return super().energy(batch) + 1e-6 * torch.rand(batch.n_molecules)


class NonConservative(Sound):
    """Forces from somewhere else than the energy, yet equivariant."""

    def __call__(self, batch, *, forces=True, stress=False):
        prediction = super().__call__(batch, forces=forces, stress=stress)
        if not forces:
            return prediction
        edges = batch.edges
        push = (0.01 * self.envelope(edges.length) * batch.numbers[edges.target])[:, None] * edges.vector
        return replace(prediction, forces=prediction.forces + segment_sum(push, edges.target, batch.n_atoms))


class NoStrainOnTheCell(Sound):
    """Stress as if the box were open: the images do not follow the strain."""

    def __call__(self, batch, *, forces=True, stress=False):
        prediction = super().__call__(batch, forces=forces, stress=stress)
        if prediction.stress is None:
            return prediction
        virial = batch.positions[:, :, None] * prediction.forces[:, None, :]
        volume = torch.linalg.det(batch.cell).abs()[:, None, None]
        return replace(prediction, stress=-segment_sum(virial, batch.molecule, batch.n_molecules) / volume)


class NoEnvelope(Sound):
    """Cuts its density off at the cutoff."""

    def envelope(self, length):
        return (length < self.cutoff).to(length.dtype)


class RoughEnvelope(Sound):
    """The cosine cutoff: its second derivative steps."""

    def envelope(self, length):
        return 0.5 * (torch.cos(length * (torch.pi / self.cutoff)) + 1)


class CapsNeighbours(Sound):
    """Keeps the eight nearest neighbours of each atom, as radius graphs with a cap do."""

    cap = 8

    def density(self, batch):
        edges = batch.edges
        order = torch.argsort(edges.length.detach())
        order = order[torch.argsort(edges.target[order], stable=True)]
        counts = torch.bincount(edges.target, minlength=batch.n_atoms)
        start = torch.cumsum(counts, 0) - counts
        rank = torch.arange(len(order)) - start[edges.target[order]]
        keep = order[rank < self.cap].sort().values
        pairs = batch.neighbors
        image = pairs.image[keep]
        crossing = torch.nonzero(image.any(dim=1)).flatten()
        capped = Neighbors(pairs.source[keep], pairs.target[keep], image, crossing)
        edges = edge_vectors(capped, batch.positions, batch.cell, batch.molecule)
        weight = batch.numbers[edges.source] * torch.exp(-edges.length.square() / 2) * self.envelope(edges.length)
        return segment_sum(weight, edges.target, batch.n_atoms)


class Jumps(Sound):
    """Two hard clusters by density, each with an energy of its mean: flips as atoms move."""

    def energy(self, batch):
        density = self.density(batch)
        middle = segment_mean(density, batch.molecule, batch.n_molecules)
        label = (density > middle[batch.molecule]).long()
        means = segment_mean(density, 2 * batch.molecule + label, 2 * batch.n_molecules)
        return super().energy(batch) + 0.01 * means.reshape(-1, 2).square().sum(1)


class NotExtensive(Sound):
    """Adds a term of the whole structure that does not grow with it: copies do not add up."""

    def energy(self, batch):
        mean = segment_mean(self.density(batch), batch.molecule, batch.n_molecules)
        return super().energy(batch) + 0.1 * torch.tanh(mean)


class GlobalContext(Sound):
    """Atoms see the mean density of their structure: copies add up, unlike molecules do not."""

    def atom_energies(self, batch):
        density = self.density(batch)
        mean = segment_mean(density, batch.molecule, batch.n_molecules)
        return torch.sqrt(1 + density + 0.1 * mean[batch.molecule])


class IgnoresPeriodicity(Sound):
    """Takes the vectors between atoms as they lie in the file."""

    def density(self, batch):
        return super().density(batch.replace(cell=torch.zeros_like(batch.cell)))


class NotANumberForOneAtom(Sound):
    """Divides by the number of neighbours."""

    def atom_energies(self, batch):
        counts = segment_sum(torch.ones_like(batch.edges.length), batch.edges.target, batch.n_atoms)
        return super().atom_energies(batch) + 0 / counts


class DetachedDensity(Sound):
    """Right forces whose own derivative is wrong: what a detached feature does to training on forces."""

    def atom_energies(self, batch):
        density = self.density(batch)
        fixed = density.detach()
        return torch.sqrt(1 + fixed) + (density - fixed) / (2 * torch.sqrt(1 + fixed))


class RemembersTheLastCall(Sound):
    """Forces lag behind a moving structure, as with features or pairs kept from the last call: friction."""

    def __init__(self):
        self.last = torch.zeros(0, 3)

    def __call__(self, batch, *, forces=True, stress=False):
        prediction = super().__call__(batch, forces=forces, stress=stress)
        if not forces or batch.n_molecules > 1:
            return prediction
        moved = batch.positions - self.last if self.last.shape == batch.positions.shape else batch.positions + 1
        self.last = batch.positions.detach().clone()
        drag = 0.1 * moved if moved.abs().max() < 0.1 else torch.zeros_like(moved)
        return replace(prediction, forces=prediction.forces - drag)
