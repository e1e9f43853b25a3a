"""The page of `mcgm explore`: structures with their clusters, energies and charges, drawn offline."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from mcgm.errors import DataError
from mcgm.report.fields import check_fields
from mcgm.report.files import write_whole
from mcgm.report.predictions import ClusterLevel
from mcgm.report.view import asset, element_symbols, filled, json_in_html, script_in_html


@dataclass(frozen=True)
class Flow:
    """So many atoms of a cluster's are those of one member: how clusters of one level merge into the next."""

    member: int
    cluster: int
    atoms: float

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class ExploredLevel:
    """The clusters of one structure at one level of one layer.

    `atoms` says where each atom is, followed upwards; `flows` comes from the clusters of the level below (level 1:
    from the atoms); `mass` (cluster) counts atoms, `energy` (cluster) is in eV, zero but at the last layer.

    Raises:
        DataError: not one energy for each cluster.
    """

    atoms: ClusterLevel
    flows: tuple[Flow, ...]
    mass: tuple[float, ...]
    energy: tuple[float, ...]

    def __post_init__(self) -> None:
        check_fields(self)
        if len(self.mass) != len(self.energy):
            raise DataError(f"ExploredLevel: {len(self.energy)} energies; required: {len(self.mass)}, as many as mass.")


@dataclass(frozen=True)
class ExploredStructure:
    """One structure with everything that the page shows of it.

    positions (atom, 3) and cell (3, 3; empty for open structures) in Å; energies in eV, `atom_energy` (atom) without
    element references, whose sum with the intercept is `reference_energy`; `charges` (atom) in e, empty without any;
    `layers` holds the levels of each layer, empty for a model without clusters.

    Raises:
        DataError: a number that is not finite, or lengths that do not fit together.
    """

    name: str
    numbers: tuple[int, ...]
    positions: tuple[tuple[float, ...], ...]
    cell: tuple[tuple[float, ...], ...]
    energy: float
    reference_energy: float
    cluster_energy: float
    electrostatic_energy: float
    atom_energy: tuple[float, ...]
    charges: tuple[float, ...]
    layers: tuple[tuple[ExploredLevel, ...], ...]

    def __post_init__(self) -> None:
        check_fields(self)
        count = len(self.numbers)
        lengths = {len(self.positions), len(self.atom_energy), len(self.charges) or count}
        lengths |= {len(level.atoms.label) for layer in self.layers for level in layer}
        if count == 0 or lengths != {count}:
            raise DataError(f"ExploredStructure {self.name!r}: {count} atoms, but values for {sorted(lengths)}.")


def write_exploration(
    structures: Sequence[ExploredStructure], output: Path, *, title: str, made: Mapping[str, str]
) -> None:
    """Write one HTML page that loads nothing; `made` says how it came about, by heading.

    Raises:
        DataError: no structures.
    """
    if not structures:
        raise DataError(f"{output}: required: at least one structure to show, got none.")
    scene = {
        "symbols": element_symbols(number for item in structures for number in item.numbers),
        "structures": [dataclasses.asdict(item) for item in structures],
    }
    parts = {
        "title": escape(title),
        "style": asset("page.css"),
        "data": json_in_html(scene),
        "library": script_in_html(asset("3Dmol-min.js")),
        "script": script_in_html(asset("stage.js") + asset("explore.js")),
        "made": "".join(f"<dt>{escape(key)}</dt><dd><code>{escape(value)}</code></dd>" for key, value in made.items()),
        "licence": escape(asset("3Dmol-LICENSE.txt")),
    }
    write_whole(Path(output), filled("explore.html", parts).encode())
