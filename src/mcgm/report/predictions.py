"""Predictions on the test set, and the clusters of a few molecules: the two files beside a run result."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from mcgm.errors import DataError
from mcgm.report.fields import check_fields, from_plain
from mcgm.report.files import write_whole
from mcgm.report.result import FORMAT, Metrics, read_json

MOLECULES_KIND = "mcgm clustered molecules"


@dataclass(frozen=True, eq=False)
class Predictions:
    """Labels and predictions of every test structure, in the order of the data.

    Shapes: names and n_atoms (molecule,), energies (molecule,) in eV, forces (atom, 3) in eV/Å with the atoms of all
    structures one after the other; both forces are `None` when the data hold none. `baseline` (molecule,) in eV is the
    sum of the element references that were fitted, if any: parity plots show energies relative to it.

    Raises:
        DataError: lengths that do not fit together, values that are not finite, or only one of the two forces.
    """

    names: np.ndarray
    n_atoms: np.ndarray
    energy: np.ndarray
    energy_predicted: np.ndarray
    forces: np.ndarray | None = None
    forces_predicted: np.ndarray | None = None
    baseline: np.ndarray | None = None

    def __post_init__(self) -> None:
        molecules = len(self.names)
        atoms = int(np.sum(self.n_atoms))
        if molecules == 0:
            raise DataError("Predictions: required: at least one structure, got none.")
        if (self.forces is None) != (self.forces_predicted is None):
            raise DataError("Predictions: required: both forces and forces_predicted, or neither.")
        object.__setattr__(self, "names", np.asarray(self.names, dtype=np.str_))
        object.__setattr__(self, "n_atoms", np.asarray(self.n_atoms, dtype=np.int64))
        shapes: dict[str, tuple[int, ...]] = {"n_atoms": (molecules,), "energy": (molecules,)}
        shapes |= {
            "energy_predicted": (molecules,),
            "baseline": (molecules,),
            "forces": (atoms, 3),
            "forces_predicted": (atoms, 3),
        }
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is None:
                continue
            value = np.asarray(value)
            if value.shape != shape:
                raise DataError(f"Predictions: {name} has shape {value.shape}; required: {shape}.")
            if not np.isfinite(value).all():
                raise DataError(f"Predictions: {name} is not finite for {int((~np.isfinite(value)).sum())} values.")
            object.__setattr__(self, name, value)

    @property
    def metrics(self) -> Metrics:
        """Mean absolute and root mean square errors in meV and meV/Å."""
        error = 1000 * np.abs(self.energy_predicted - self.energy)
        forces: dict[str, float] = {}
        if self.forces is not None and self.forces_predicted is not None:
            difference = 1000 * (self.forces_predicted.astype(np.float64) - self.forces)
            forces["force_mae_mev_per_A"] = float(np.abs(difference).mean())
            forces["force_rmse_mev_per_A"] = float(np.sqrt((difference**2).mean()))
        return Metrics(
            n_structures=len(error),
            energy_mae_mev=float(error.mean()),
            energy_mae_mev_per_atom=float((error / self.n_atoms).mean()),
            energy_rmse_mev=float(np.sqrt((error**2).mean())),
            **forces,
        )

    def save(self, path: Path) -> None:
        """Write as compressed npz, whole or not at all."""
        buffer = io.BytesIO()
        arrays = {item.name: getattr(self, item.name) for item in fields(self)}
        np.savez_compressed(buffer, **{name: array for name, array in arrays.items() if array is not None})
        write_whole(Path(path), buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Read what `save` wrote; pickled arrays are refused.

        Raises:
            DataError: not an npz file, or arrays that are missing or do not fit together.
        """
        try:
            with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = {item.name: stored[item.name] for item in fields(cls) if item.name in stored}
            return cls(**arrays)
        except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: not predictions of a run: {error}") from error


@dataclass(frozen=True)
class ClusterLevel:
    """Which cluster each atom of one molecule belongs to at one level.

    `label` (atom) counts from 0 within the molecule: the cluster of largest membership, followed up from the atom
    through the levels below. `weight` (atom) is that membership, from 0 to 1; 1 for hard clusters.
    `names` (cluster) says what each label is, where it has a name ("C" at the level of elements).
    """

    label: tuple[int, ...]
    weight: tuple[float, ...]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        if len(self.label) != len(self.weight) or min(self.label, default=0) < 0:
            raise DataError(
                f"ClusterLevel: {len(self.label)} labels and {len(self.weight)} weights; required: as many, >= 0."
            )
        if self.names and max(self.label, default=0) >= len(self.names):
            raise DataError(f"ClusterLevel: label {max(self.label)}, but only {len(self.names)} names.")


@dataclass(frozen=True)
class ClusteredMolecule:
    """One molecule with its clusters at every level of the last layer, for the three-dimensional view.

    `name` is the same for all variants that show the same molecule; numbers (atom), positions (atom, 3) in Å;
    no levels for a variant without clusters.

    Raises:
        DataError: lengths that do not fit together.
    """

    name: str
    numbers: tuple[int, ...]
    positions: tuple[tuple[float, ...], ...]
    levels: tuple[ClusterLevel, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        n = len(self.numbers)
        if n == 0 or len(self.positions) != n or any(len(row) != 3 for row in self.positions):
            raise DataError(f"ClusteredMolecule {self.name!r}: {n} atoms need positions of shape ({n}, 3).")
        for k, level in enumerate(self.levels):
            if len(level.label) != n:
                raise DataError(
                    f"ClusteredMolecule {self.name!r}: level {k + 1} has {len(level.label)} labels for {n} atoms."
                )


def save_molecules(path: Path, molecules: Sequence[ClusteredMolecule]) -> None:
    """Write the clusters of a few molecules as JSON, whole or not at all."""
    values = {"kind": MOLECULES_KIND, "format": FORMAT, "molecules": [dataclasses.asdict(item) for item in molecules]}
    write_whole(Path(path), (json.dumps(values, allow_nan=False) + "\n").encode())


def load_molecules(path: Path) -> tuple[ClusteredMolecule, ...]:
    """Read what `save_molecules` wrote.

    Raises:
        DataError: a file of another kind or format, or fields that are missing or do not fit together.
    """
    values = read_json(Path(path))
    if not isinstance(values, dict) or values.get("kind") != MOLECULES_KIND or values.get("format") != FORMAT:
        raise DataError(f"{path}: not clusters of molecules in format {FORMAT}. Run that cell again.")
    molecules = values.get("molecules", [])
    return tuple(from_plain(ClusteredMolecule, item, f"{path}, molecule {k}") for k, item in enumerate(molecules))
