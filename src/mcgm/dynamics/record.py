"""Files of a running simulation: frames, a log, and the state from which another process goes on."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.extxyz import write_xyz

from mcgm.errors import DataError, OutputError
from mcgm.files import replacing

TRAJECTORY, LOG, STATE = "trajectory.extxyz", "log.csv", "state.json"
FORMAT = 1


@dataclass(frozen=True)
class Row:
    """A line of the log: fs, eV, and K of the kinetic energy over 3 N / 2 k (less constrained coordinates).

    Of a committee also the spread of the energy and that of the force on one atom, the largest (`None` otherwise).
    """

    time_fs: float
    potential_eV: float
    kinetic_eV: float
    total_eV: float
    temperature_K: float
    energy_spread_eV: float | None = None
    force_spread_eV_per_A: float | None = None

    @property
    def columns(self) -> dict[str, float]:
        """What there is, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class State:
    """All that the next step depends on, exactly, and how long the files were then.

    `searched` are the positions of the last search of neighbours: the order of pairs, and with it the last bit of
    every sum, comes from there. `inputs` says what was asked for, so that nothing else is gone on with. A frame that is
    there only because the run ended is `between` those asked for: the lengths are those before it, so that it is gone
    from a run that is made longer.
    """

    inputs: dict[str, Any]
    step: int
    positions: list[list[float]]
    momenta: list[list[float]]
    searched: list[list[float]]
    rebuilds: int
    random: dict[str, Any]
    trajectory_bytes: int
    log_bytes: int
    between: bool = False
    format: int = FORMAT


class Record:
    """The three files in a folder, opened to go on after the frame of a state, or to begin.

    A frame counts once the state that follows it is on the disk; what a killed process wrote after that is cut off.

    Raises:
        DataError: the files are shorter than the state says.
        OutputError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, state: State | None) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.trajectory = _opened(folder / TRAJECTORY, 0 if state is None else state.trajectory_bytes)
            self.log = _opened(folder / LOG, 0 if state is None else state.log_bytes)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be written ({error.strerror or error}).") from error

    def write(self, atoms: Atoms, row: Row, state: State) -> None:
        """One frame; `state` lacks the lengths of the files."""
        before = self._lengths()
        try:
            self._append(self.trajectory, _frame(atoms, row.time_fs))
            if self.log.tell() == 0:
                self._append(self.log, _line(list(row.columns)))
            self._append(self.log, _line(list(row.columns.values())))
        except OSError as error:
            raise OutputError(
                f"{self.folder}: cannot be written ({error.strerror or error}). Is there space?"
            ) from error
        lengths = before if state.between else self._lengths()
        with replacing(self.folder / STATE) as path:
            path.write_text(json.dumps(asdict(state) | lengths) + "\n", encoding="utf-8")

    def _lengths(self) -> dict[str, int]:
        return {"trajectory_bytes": self.trajectory.tell(), "log_bytes": self.log.tell()}

    def close(self) -> None:
        """Nothing more is written."""
        self.trajectory.close()
        self.log.close()

    def _append(self, file: io.BufferedWriter, text: str) -> None:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def read_state(folder: Path) -> State | None:
    """The state in a folder; `None` if no frame was finished there.

    Raises:
        DataError: the file is not such a state.
    """
    path = folder / STATE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        state = State(**content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: is no state of a simulation ({error}). Begin again in another folder.") from error
    if state.format != FORMAT:
        raise DataError(
            f"{path}: has format {state.format}; this version reads {FORMAT}. Begin again in another folder."
        )
    return state


def read_log(folder: Path) -> dict[str, np.ndarray]:
    """Columns of the log by name."""
    with (folder / LOG).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [field.name for field in fields(Row) if field.name in rows[0]]
    return {name: np.array([float(row[name]) for row in rows]) for name in names}


def _opened(path: Path, length: int) -> io.BufferedWriter:
    path.touch()
    if path.stat().st_size < length:
        raise DataError(
            f"{path}: has {path.stat().st_size} bytes, fewer than the {length} of the last finished frame. "
            "Was it changed? Begin again in another folder."
        )
    os.truncate(path, length)
    return path.open("ab")


def _frame(atoms: Atoms, time_fs: float) -> str:
    """Positions, momenta, forces and energy as extxyz."""
    results = {key: atoms.calc.results[key] for key in ("energy", "forces", "stress") if key in atoms.calc.results}
    frame = atoms.copy()
    frame.info["time_fs"] = time_fs
    keep_spread(frame, atoms.calc.results)
    frame.calc = SinglePointCalculator(frame, **results)
    text = io.StringIO()
    write_xyz(text, [frame])
    return text.getvalue()


def keep_spread(atoms: Atoms, results: dict[str, Any]) -> None:
    """What a committee says of itself, into `info` and `arrays`: stored results have no place for it."""
    atoms.info |= {key: results[key] for key in ("energy_spread", "out_of_domain") if key in results}
    if "forces_spread" in results:
        atoms.set_array("forces_spread", results["forces_spread"])


def _line(values: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()
