"""What is in a data file: counts, elements, sizes, labels, and what looks wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from rich.console import Console
from rich.table import Table

from mcgm.data.dataset import Dataset
from mcgm.data.labels import Labels, declared
from mcgm.data.readers import keys_found, matching, reader_of
from mcgm.data.references import fit_references
from mcgm.data.sample import sample_path
from mcgm.data.suspicions import CHECKS


@dataclass(frozen=True)
class Statistics:
    """Smallest, mean and largest value, and the standard deviation."""

    least: float
    mean: float
    most: float
    deviation: float

    @classmethod
    def of(cls, values: np.ndarray) -> Statistics:
        """Of an array with at least one value."""
        return cls(float(values.min()), float(values.mean()), float(values.max()), float(values.std()))


@dataclass(frozen=True)
class Report:
    """What `inspect` found. Energies in eV, forces in eV/Å; statistics are `None` where the label is absent.

    `elements` gives for each symbol the number of structures and of atoms. `unexplained` is the energy left after a
    least-squares fit of element energies.
    """

    source: str
    structures: int
    atoms: int
    sizes: Statistics
    elements: dict[str, tuple[int, int]]
    groups: int
    periodic: int
    charged: int
    labels: dict[str, int]
    energy_per_atom: Statistics | None
    unexplained: Statistics | None
    forces_rms: float | None
    forces_most: float | None
    keys: tuple[str, ...]
    energy_kind: str
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and text, for JSON."""
        return asdict(self)

    def print(self, console: Console | None = None) -> None:
        """As a table in the terminal, with the warnings below it."""
        console = console or Console()
        table = Table(title=self.source, show_header=False)
        for row in self._rows():
            table.add_row(*row)
        console.print(table)
        for warning in self.warnings:
            console.print(f"[yellow]Warning:[/yellow] {warning}", highlight=False)
        if not self.warnings:
            console.print("Nothing looks wrong.")

    def _rows(self) -> Iterator[tuple[str, str]]:
        yield "structures", f"{self.structures:,}" + (f" of {self.groups:,} molecules" if self.groups else "")
        yield "atoms", f"{self.atoms:,}; {self.sizes.least:.0f} / {self.sizes.mean:.1f} / {self.sizes.most:.0f} each"
        yield "elements", ", ".join(f"{name} {atoms:,} in {here:,}" for name, (here, atoms) in self.elements.items())
        yield "periodic, charged", f"{self.periodic:,}, {self.charged:,}"
        yield "labels", ", ".join(f"{name} {count:,}" for name, count in self.labels.items() if count) or "none"
        if self.energy_per_atom is not None:
            yield f"{self.energy_kind} energy, eV/atom", _line(self.energy_per_atom)
        if self.unexplained is not None:
            yield "energy beyond elements, eV", _line(self.unexplained)
        if self.forces_rms is not None:
            yield "forces, eV/Å", f"rms {self.forces_rms:.4g}, largest {self.forces_most:.4g}"
        yield "keys in the file", ", ".join(self.keys)


def inspect(path: Path | str, labels: Labels | str | None = None, *, format: str | None = None) -> Report:
    """Read a file (or "sample") and say what it holds and what looks wrong.

    Raises:
        DataError: the file cannot be read or lacks a declared key.
        ConfigError: unknown format, preset or unit.
    """
    dataset = Dataset.open(path, labels, format=format)
    file = sample_path() if str(path) == "sample" else matching(Path(path))[0]
    declaration = reader_of(file, format).labels if labels is None else declared(labels)
    labelled = dataset.subset(np.flatnonzero(~dataset.lacks("energy")))
    beyond = labelled.energies - fit_references(labelled).of(labelled) if len(labelled) else None
    keys = tuple(keys_found(file, format=format))
    squares, most, components = _forces(dataset)
    composition = dataset.composition
    return Report(
        source=str(path),
        structures=len(dataset),
        atoms=int(dataset.sizes.sum()),
        sizes=Statistics.of(dataset.sizes),
        elements={
            chemical_symbols[z]: (int((counts > 0).sum()), int(counts.sum()))
            for z, counts in zip(composition.elements, composition.counts.T, strict=True)
        },
        groups=len(np.unique(dataset.groups[dataset.groups != ""])),
        periodic=sum(bool(structure.pbc.any()) for structure in dataset),
        charged=sum(structure.charge != 0 for structure in dataset),
        labels={
            name: int((~dataset.lacks(name)).sum()) for name in ("energy", "forces", "stress", "dipole", "charges")
        },
        energy_per_atom=Statistics.of(labelled.energies / labelled.sizes) if len(labelled) else None,
        unexplained=None if beyond is None else Statistics.of(beyond),
        forces_rms=float(np.sqrt(squares / components)) if components else None,
        forces_most=most if components else None,
        keys=keys,
        energy_kind=declaration.energy_kind,
        warnings=(*(sentence for check in CHECKS for sentence in check(dataset)), *_unread(dataset, keys)),
    )


def _unread(dataset: Dataset, keys: Sequence[str]) -> Iterator[str]:
    """Virials that nobody has declared."""
    found = [key for key in keys if key.lower() in ("virial", "virials")]
    if found and dataset.lacks("stress").all():
        yield f"There is {found[0]!r} and no stress is read. Declare it: stress={found[0]}, stress_kind=virial."


def _forces(dataset: Dataset) -> tuple[float, float, int]:
    """Sum of squares, largest norm and number of the force components."""
    squares, most, components = 0.0, 0.0, 0
    for structure in dataset:
        if structure.forces is not None:
            squares += float((structure.forces**2).sum())
            most = max(most, float(np.linalg.norm(structure.forces, axis=1).max()))
            components += structure.forces.size
    return squares, most, components


def _line(values: Statistics) -> str:
    return f"{values.least:.4f} / {values.mean:.4f} / {values.most:.4f}, deviation {values.deviation:.4f}"
