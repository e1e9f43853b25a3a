"""What a simulation is asked for, and the thermostats by name."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.velocitydistribution import Stationary, ZeroRotation, thermalize_momenta
from ase.md.verlet import VelocityVerlet

from mcgm.errors import ConfigError

MEANING = MappingProxyType(
    {"temperature_K": "--temperature", "timestep_fs": "--timestep", "friction_per_fs": "--friction"}
)


class Thermostat(ABC):
    """How atoms move: the integrator, and whether it conserves the total energy."""

    conserves_energy: bool

    @abstractmethod
    def integrator(self, atoms: Atoms, settings: Settings, chance: np.random.Generator) -> MolecularDynamics:
        """ASE's integrator for the atoms; `chance` is the only source of random numbers."""


class NoThermostat(Thermostat):
    """Constant energy: velocity Verlet."""

    conserves_energy = True

    def integrator(self, atoms: Atoms, settings: Settings, chance: np.random.Generator) -> MolecularDynamics:
        """Draws nothing."""
        return VelocityVerlet(atoms, settings.timestep_fs * units.fs)


class LangevinThermostat(Thermostat):
    """Constant temperature: Langevin dynamics of all atoms, the centre of mass included.

    Source: Vanden-Eijnden, Ciccotti, Chem. Phys. Lett. 429, 310 (2006), eq. 23.
    """

    conserves_energy = False

    def integrator(self, atoms: Atoms, settings: Settings, chance: np.random.Generator) -> MolecularDynamics:
        """Draws two normal numbers per coordinate and step."""
        return Langevin(
            atoms,
            settings.timestep_fs * units.fs,
            temperature_K=settings.temperature_K,
            friction=settings.friction_per_fs / units.fs,
            fixcm=False,
            rng=chance,
        )


THERMOSTATS: MappingProxyType[str, Thermostat] = MappingProxyType(
    {"none": NoThermostat(), "langevin": LangevinThermostat()}
)
"""Thermostats by the name that the command accepts."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides where the atoms go, but for the model and the structure.

    Raises:
        ConfigError: a number is not finite or outside its range; the message names the option.
    """

    thermostat: str = "none"
    temperature_K: float = 300.0
    timestep_fs: float = 0.5
    friction_per_fs: float = 0.01
    seed: int = 0
    every: int = 20
    clusters: str = "fresh"
    dtype: str = "float64"

    def __post_init__(self) -> None:
        for name, option in MEANING.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and (value > 0 or (name == "temperature_K" and value == 0))):
                raise ConfigError(f"{option} {value}: required: a finite number above zero.")
        if self.every < 1:
            raise ConfigError(f"--every {self.every}: required: at least 1 step from frame to frame.")
        if self.seed < 0:
            raise ConfigError(f"--seed {self.seed}: required: zero or more.")


def give_velocities(atoms: Atoms, temperature_K: float, chance: np.random.Generator) -> None:
    """Maxwell-Boltzmann velocities without total momentum, and without angular momentum where nothing is periodic.

    The kinetic energy that was drawn stays: what is removed is given to the other motions. A single atom keeps its
    velocity, as do atoms of which some are constrained, for those are at rest anyway.
    """
    thermalize_momenta(atoms, temperature_K, rng=chance)
    if len(atoms) < 2 or atoms.constraints or temperature_K == 0:
        return
    Stationary(atoms)
    if not atoms.pbc.any():
        ZeroRotation(atoms)
