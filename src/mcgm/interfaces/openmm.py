"""OpenMM: whole systems, and mixed ones where the rest is a force field, through openmmml's `MLPotential("mcgm")`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4
from weakref import WeakValueDictionary

import numpy as np
from ase import Atoms

from mcgm.checkpoint import load
from mcgm.errors import ConfigError, StructureError, unknown_name
from mcgm.interfaces.admission import precision
from mcgm.interfaces.ase import MCGMCalculator
from mcgm.interfaces.packages import needed
from mcgm.potential import Potential
from mcgm.units import KJ_PER_MOL

ANGSTROM_PER_NM = 10.0

FORCE_OPTIONS = (
    "charge",
    "spin",
    "multiplicity",
    "periodic",
    "precision",
    "device",
    "skin",
    "clusters",
    "allow_discontinuous",
    "compile",
    "cuda_graphs",
)
"""What `MLPotential("mcgm", ...)`, `createSystem` and `createMixedSystem` accept; the latter two win."""


def python_force(
    potential: Potential | str | Path,
    numbers: Sequence[int],
    *,
    periodic: bool,
    particles: Sequence[int] | None = None,
    charge: float = 0.0,
    spin: float | None = None,
    multiplicity: int | None = None,
    **options: Any,
) -> Any:
    """An `openmm.PythonForce` with the energy of all particles, or of some; OpenMM >= 8.4 alone is enough for it.

    Args:
        numbers: atomic numbers of the particles that it acts on.
        periodic: whether these see their images in the box of the context.
        particles: which ones of the system they are; default: all.
        charge: total charge of these particles, e.
        spin: unpaired electrons; or give `multiplicity`, which is one more.
        options: `precision` ("single" or "double"; default: that of the potential), and `device`, `skin`, `clusters`,
            `allow_discontinuous`, `compile`, `cuda_graphs` of `MCGMCalculator`.

    Raises:
        ConfigError: OpenMM is not installed, particles that are not one for each number, or what `MCGMCalculator`
            refuses.
    """
    openmm = needed("openmm", "openmm")
    if multiplicity is not None and spin is not None:
        raise ConfigError("spin and multiplicity are one number in two ways (multiplicity = spin + 1); give one.")
    if particles is not None:
        _require_particles(particles, len(numbers))
    unpaired = spin if spin is not None else (multiplicity or 1) - 1
    calculator = MCGMCalculator(potential, dtype=precision(options.pop("precision", None)), **options)
    info = {"charge": charge, "spin": unpaired}
    compute = _Computation(Atoms(numbers=numbers, pbc=periodic, info=info, calculator=calculator), periodic)
    force = openmm.PythonForce(compute)
    force.setUsesPeriodicBoundaryConditions(periodic)
    if particles is not None:
        force.setParticles(list(particles))
    return force


def _require_particles(particles: Sequence[int], count: int) -> None:
    chosen = [int(k) for k in particles]
    if len(chosen) != count or len(set(chosen)) != count or min(chosen, default=0) < 0:
        raise ConfigError(
            f"{len(chosen)} particles, {len(set(chosen))} of them different, the lowest {min(chosen, default=None)}; "
            f"required: {count} different indices from 0, one for each of the {count} atomic numbers."
        )


class MCGMPotentialFactory:
    """What openmmml calls for `MLPotential("mcgm", modelPath="model.safetensors", ...)`.

    Entry point of the group `openmmml.potentials`. It derives from nothing of openmmml, whose import asks for it.
    """

    def createImpl(
        self, name: str, modelPath: Potential | str | Path | None = None, **options: Any
    ) -> MCGMPotentialImpl:
        """The potential of the file; the options are those of `FORCE_OPTIONS`.

        Raises:
            ConfigError: no file, or an unknown option.
            CheckpointError: the file is no model.
        """
        if modelPath is None:
            raise ConfigError(f"MLPotential({name!r}) needs modelPath, the file of a potential.")
        for option in options:
            if option not in FORCE_OPTIONS:
                raise ConfigError(f"MLPotential({name!r}): " + unknown_name("option", option, FORCE_OPTIONS))
        base = needed("openmmml.mlpotential", "openmm").MLPotentialImpl
        return type("MCGMPotentialImpl", (MCGMPotentialImpl, base), {})(modelPath, options)


class MCGMPotentialImpl:
    """Adds the force to a system; openmmml's `MLPotentialImpl` is its second base."""

    def __init__(self, potential: Potential | str | Path, options: dict[str, Any]) -> None:
        self.potential = potential if isinstance(potential, Potential) else load(potential)
        self.options = options

    def addForces(
        self, topology: Any, system: Any, atoms: Iterable[int] | None, forceGroup: int, **options: Any
    ) -> None:
        """Called by openmmml, with the options of `createSystem` or `createMixedSystem`.

        Periodic is what has a box in the topology or, in a mixed system, what is so for the force field; `periodic`
        says otherwise.

        Raises:
            ConfigError: a misspelt option, or what `python_force` refuses.
            StructureError: an atom without element.
        """
        _refuse_misspelt(options)
        chosen = list(topology.atoms())
        particles = None if atoms is None else [int(k) for k in atoms]
        if particles is not None:
            chosen = [chosen[k] for k in particles]
        known = self.options | {key: value for key, value in options.items() if key in FORCE_OPTIONS}
        if known.get("periodic") is None:
            mixed = particles is not None and system.getNumForces() > 0
            box = topology.getPeriodicBoxVectors() is not None
            known["periodic"] = system.usesPeriodicBoundaryConditions() if mixed else box
        force = python_force(self.potential, [_number(atom) for atom in chosen], particles=particles, **known)
        force.setForceGroup(forceGroup)
        system.addForce(force)

    def getMLLongRange(self) -> bool:
        """Whether atoms interact with all images of the others: where the potential has charges, not by clusters."""
        return self.potential.has_charges


class _Computation:
    """Energy (kJ/mol) and forces (kJ/mol/nm) of a state.

    OpenMM pickles what it computes with as it copies forces or writes them as XML. Only a random name is in there: it
    means this object in this process and nothing in another, so no weights are written, and no code.
    """

    _alive: ClassVar[WeakValueDictionary[str, _Computation]] = WeakValueDictionary()

    def __init__(self, atoms: Atoms, periodic: bool) -> None:
        self.atoms, self.periodic = atoms, periodic
        self.name = uuid4().hex
        self._alive[self.name] = self

    def __call__(self, state: Any) -> tuple[float, np.ndarray]:
        self.atoms.set_positions(_plain(state.getPositions(asNumpy=True)) * ANGSTROM_PER_NM)
        if self.periodic:
            self.atoms.set_cell(_plain(state.getPeriodicBoxVectors(asNumpy=True)) * ANGSTROM_PER_NM)
        energy = self.atoms.get_potential_energy() / KJ_PER_MOL
        return energy, self.atoms.get_forces() * (ANGSTROM_PER_NM / KJ_PER_MOL)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return _again, (self.name,)


class _Gone:
    """What stands in the place of a potential that was written by another process: OpenMM crashes if reading fails."""

    def __call__(self, state: Any) -> tuple[float, np.ndarray]:
        raise ConfigError(
            "this OpenMM system was written with an mcgm force, whose potential is not part of the XML. Make it anew "
            "with MLPotential('mcgm', modelPath=...); positions and velocities may come from a saved state."
        )


def _again(name: str) -> _Computation | _Gone:
    return _Computation._alive.get(name) or _Gone()


def _plain(quantity: Any) -> np.ndarray:
    """A quantity of OpenMM in its own units: nm."""
    return np.asarray(quantity._value, dtype=np.float64)


def _number(atom: Any) -> int:
    if atom.element is None:
        raise StructureError(
            f"OpenMM topology: atom {atom.index} ({atom.name} of {atom.residue.name}) has no element. Choose atoms "
            "without virtual sites and extra particles, or set atom.element."
        )
    return atom.element.atomic_number


def _refuse_misspelt(options: Iterable[str]) -> None:
    """Other options belong to the embedding, so that only near misses are known to be wrong."""
    for option in options:
        if option not in FORCE_OPTIONS and difflib.get_close_matches(option, FORCE_OPTIONS, n=1, cutoff=0.75):
            raise ConfigError("createSystem: " + unknown_name("option", option, FORCE_OPTIONS))
