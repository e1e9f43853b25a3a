"""A simulation from its first step, or from the last frame that a killed one finished, to its last."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from mcgm.committee import Committee
from mcgm.dynamics.record import Record, Row, State, read_state
from mcgm.dynamics.settings import THERMOSTATS, Settings, give_velocities
from mcgm.errors import ConfigError, StructureError
from mcgm.files import LOCK, claimed
from mcgm.interfaces.admission import jumps
from mcgm.interfaces.ase import MCGMCalculator
from mcgm.interfaces.clusters import ClusterChoice, FrozenClusters
from mcgm.potential import Potential

Watch = Callable[[int, Row], None]
"""Told about every frame: steps done, and its line in the log."""


@dataclass(frozen=True)
class Outcome:
    """Where velocities came from, at which step this process began, and searches of neighbours in the whole run.

    `stopped_at` is the step at which the spread was too large, if it was.
    """

    velocities: str
    begun_at: int
    rebuilds: int
    stopped_at: int | None = None


def simulate(
    potential: Potential,
    atoms: Atoms,
    folder: Path,
    settings: Settings,
    *,
    steps: int,
    model: str = "",
    resume: bool = False,
    stop_at_spread: float | None = None,
    compile: bool = False,
    cuda_graphs: bool = False,
    watch: Watch = lambda step, row: None,
) -> Outcome:
    """Move the atoms and record every `settings.every` steps, and the last one, in `folder`.

    With `resume`, go on after the last finished frame: momenta, random numbers and order of neighbours are those of
    an uninterrupted run, bit for bit with the same number of threads. Without such a frame, begin.

    Args:
        model: what identifies the potential; another one is not gone on with.
        stop_at_spread: end, with a frame, where the members of a committee differ by more than this in the force on
            any atom, eV/Å; looked at in every step.
        compile: fuse the network into one graph: faster steps after a minute or two, the same but for rounding.
        cuda_graphs: record the kernels of a step, and replay them: on a GPU, faster steps of small systems.

    Raises:
        ConfigError: a potential that jumps, or that has no spread to stop at; a spread that is no finite number above
            zero; a folder in use, or of a run with other settings.
        StructureError: energy or forces are not finite, or atoms meet.
    """
    if steps < 1:
        raise ConfigError(f"{steps} steps: required: at least 1.")
    if stop_at_spread is not None and not (np.isfinite(stop_at_spread) and stop_at_spread > 0):
        raise ConfigError(f"--stop-at-spread {stop_at_spread}: required: a finite spread above zero, eV/Å.")
    if stop_at_spread is not None and not isinstance(potential, Committee):
        raise ConfigError("--stop-at-spread needs a committee (mcgm train --seeds 4); this is a single network.")
    inputs = asdict(settings) | {"structure": fingerprint(atoms), "model": model}
    atoms = atoms.copy()
    how = {"compile": compile, "cuda_graphs": cuda_graphs}
    calculator = calculator_for(potential, atoms, clusters=settings.clusters, dtype=settings.dtype, **how)
    with claimed(folder / LOCK, str(folder)):
        state = _state(folder, inputs, steps, resume)
        chance = np.random.default_rng(settings.seed)
        velocities = (
            "from the file"
            if atoms.has("momenta")
            else f"Maxwell-Boltzmann, {settings.temperature_K:g} K, seed {settings.seed}"
        )
        if not atoms.has("momenta"):
            give_velocities(atoms, settings.temperature_K, chance)
        atoms.calc = calculator
        if state is not None:
            _restore(atoms, chance, state)
        spread = np.inf if stop_at_spread is None else stop_at_spread
        run = _Run(atoms, calculator, chance, settings, inputs, state, spread)
        record = Record(folder, state)
        try:
            stopped_at = run.go(steps, record, watch)
        finally:
            record.close()
    return Outcome(velocities, 0 if state is None else state.step, run.rebuilds, stopped_at)


def calculator_for(potential: Potential, atoms: Atoms, *, clusters: str, dtype: str, **how: bool) -> MCGMCalculator:
    """The calculator whose clusters are made at every frame ("fresh"), or are those of `atoms` ("frozen").

    Args:
        how: `compile` and `cuda_graphs`, as the calculator has them.

    Raises:
        ConfigError: a potential that jumps, frozen clusters of one that does not, or what cannot be compiled, or
            recorded.
    """
    if clusters == "fresh" and not potential.is_smooth:
        raise ConfigError(jumps(potential) + (" Here: --clusters frozen." if potential.has_labels else ""))
    choice: str | ClusterChoice = FrozenClusters(at=atoms) if clusters == "frozen" else clusters
    return MCGMCalculator(potential, device=potential.device, dtype=getattr(torch, dtype), clusters=choice, **how)


def fingerprint(atoms: Atoms) -> str:
    """Digest of everything about the atoms that dynamics depends on."""
    digest = hashlib.sha256()
    momenta = atoms.arrays.get("momenta", np.zeros(0))
    for array in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, atoms.get_masses(), momenta):
        digest.update(np.ascontiguousarray(array).tobytes())
    others = [atoms.info.get("charge", 0.0), atoms.info.get("spin", 0.0), [c.todict() for c in atoms.constraints]]
    digest.update(repr(others).encode())
    return digest.hexdigest()


def _state(folder: Path, inputs: dict[str, Any], steps: int, resume: bool) -> State | None:
    state = read_state(folder)
    if state is None:
        return None
    if not resume:
        raise ConfigError(f"{folder}: holds a simulation. Go on with --resume, or choose another folder.")
    for key, value in inputs.items():
        if state.inputs.get(key) != value:
            said = "is another one" if key in ("structure", "model") else f"was {state.inputs.get(key)}, now {value}"
            raise ConfigError(f"{folder}: cannot be gone on with, {key} {said}. Choose another folder.")
    if state.step > steps:
        raise ConfigError(f"{folder}: has {state.step} steps already, more than the {steps} asked for.")
    return state


def _restore(atoms: Atoms, chance: np.random.Generator, state: State) -> None:
    """The neighbours are searched where they were searched last, then everything is put back."""
    atoms.set_positions(state.searched, apply_constraint=False)
    atoms.get_potential_energy()
    atoms.set_positions(state.positions, apply_constraint=False)
    atoms.set_momenta(state.momenta, apply_constraint=False)
    chance.bit_generator.state = state.random


class _Run:
    """A simulation in progress."""

    def __init__(
        self,
        atoms: Atoms,
        calculator: MCGMCalculator,
        chance: np.random.Generator,
        settings: Settings,
        inputs: dict[str, Any],
        state: State | None,
        largest_spread: float,
    ) -> None:
        self.largest_spread = largest_spread
        self.atoms, self.calculator, self.chance = atoms, calculator, chance
        self.settings, self.inputs = settings, inputs
        self.earlier = 0 if state is None else state.rebuilds - calculator.rebuilds
        self.searched = atoms.positions.copy() if state is None else np.array(state.searched)
        self.searches = calculator.rebuilds
        self.has_frame = state is not None and not state.between
        self.integrator = THERMOSTATS[settings.thermostat].integrator(atoms, settings, chance)
        self.integrator.nsteps = 0 if state is None else state.step

    @property
    def rebuilds(self) -> int:
        """Searches of neighbours, those of earlier processes included."""
        return self.earlier + self.calculator.rebuilds

    def go(self, steps: int, record: Record, watch: Watch) -> int | None:
        """All steps that are left; the step at which the spread was too large, if it was."""
        begun_at = self.integrator.nsteps
        try:
            for _ in self.integrator.irun(steps - begun_at):
                step = self.integrator.nsteps
                self._note_search()
                too_far = (self._force_spread() or 0.0) > self.largest_spread
                wanted = step % self.settings.every == 0 or step == steps or too_far
                if wanted and not (step == begun_at and self.has_frame):
                    row = self._row(step)
                    record.write(self.atoms, row, self._state(step))
                    watch(step, row)
                if too_far:
                    return step
        except StructureError as error:
            raise StructureError(
                f"after {self.integrator.nsteps} steps: {error} The frames until then are kept."
            ) from error
        return None

    def _force_spread(self) -> float | None:
        """The largest of any atom, eV/Å; `None` for a single network."""
        spread = self.calculator.results.get("forces_spread")
        return None if spread is None else float(np.linalg.norm(spread, axis=1).max())

    def _note_search(self) -> None:
        if self.calculator.rebuilds != self.searches:
            self.searches, self.searched = self.calculator.rebuilds, self.atoms.positions.copy()

    def _row(self, step: int) -> Row:
        potential, kinetic = float(self.atoms.get_potential_energy()), float(self.atoms.get_kinetic_energy())
        if not np.isfinite(potential + kinetic):
            raise StructureError(
                f"energy is not finite ({potential} + {kinetic} eV). Is the model trained for this structure, and "
                f"the time step of {self.settings.timestep_fs:g} fs short enough?"
            )
        time_fs = step * self.settings.timestep_fs
        temperature, spread = float(self.atoms.get_temperature()), self.calculator.results.get("energy_spread")
        return Row(time_fs, potential, kinetic, potential + kinetic, temperature, spread, self._force_spread())

    def _state(self, step: int) -> State:
        return State(
            inputs=self.inputs,
            step=step,
            positions=self.atoms.positions.tolist(),
            momenta=self.atoms.get_momenta().tolist(),
            searched=self.searched.tolist(),
            rebuilds=self.rebuilds,
            random=dict(self.chance.bit_generator.state),
            trajectory_bytes=0,
            log_bytes=0,
            between=step % self.settings.every != 0,
        )
