"""`mcgm explore`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mcgm.commands.arguments import make_parser, model_path, watched
from mcgm.commands.inputs import inputs, labels_argument
from mcgm.errors import ConfigError, DataError, StructureError

if TYPE_CHECKING:
    from mcgm.long_range.base import Clusters
    from mcgm.potential import Potential
    from mcgm.report.exploration import ExploredLevel, ExploredStructure
    from mcgm.structure import Structure

EXAMPLE = """  mcgm explore runs/data molecules.xyz -o page.html"""

LIMIT = 12
"""Structures on a page, unless asked for more."""

LEAST_FLOW = 5e-4
"""Atoms; what less than this flows from a member into a cluster is left out."""


def run(arguments: list[str]) -> int:
    """Write a page on the first structures of a file."""
    parser = make_parser(
        "explore", "An offline page: structures in 3-D by cluster, energy and charge, and how clusters merge.", EXAMPLE
    )
    parser.add_argument("model", metavar="MODEL", help="model file, or the folder of a training")
    parser.add_argument("structures", metavar="STRUCTURES", help="any format that is read (extxyz, db, npz, ...)")
    parser.add_argument("-o", "--output", required=True, type=Path, help="page to write, .html")
    labels_argument(parser)
    parser.add_argument("--limit", type=int, default=LIMIT, metavar="N", help=f"first N structures (default: {LIMIT})")
    parser.add_argument("--device", default="cpu", help="e.g. cpu, cuda")
    known = parser.parse_args(arguments)
    if known.output.suffix not in (".html", ".htm"):
        raise ConfigError(f"-o {known.output}: required: a name that ends in .html.")
    if known.limit < 1:
        raise ConfigError(f"--limit {known.limit}: required: a whole number, at least 1.")

    import mcgm
    from mcgm.checkpoint import load
    from mcgm.data import open_structures
    from mcgm.memory import bounded_memory
    from mcgm.report.exploration import write_exploration

    path = model_path(known.model)
    potential = load(path, device=known.device)
    with inputs(path, known.structures, known.labels) as given, bounded_memory():
        chosen = itertools.islice(open_structures(given.path, given.labels), known.limit)
        found = list(explored(potential, watched("exploring")(chosen)))
    if not found:
        raise DataError(f"{known.structures}: holds no structures.")
    made = {
        "Model": str(path),
        "Backbone": type(potential.backbone).__name__,
        "Block": repr(potential.specification),
        "Structures": f"{known.structures}, the first {len(found)}",
        "Version": f"mcgm {mcgm.__version__}",
    }
    write_exploration(found, known.output, title=f"{path.name} on {Path(known.structures).name}", made=made)
    print(f"{known.output}: {len(found)} structures")
    return 0


def explored(potential: Potential, structures: Iterable[Structure]) -> Iterator[ExploredStructure]:
    """What the model makes of each structure: clusters of every layer and level, energies by atom and cluster, charges.

    Raises:
        StructureError: no finite energies for a structure, or an element that the model does not know.
        TooLargeError: a structure does not fit into memory, even alone.
    """
    from mcgm.splitting import Splitter, Work

    splitter = Splitter("exploring")
    for place, structure in enumerate(structures):

        def part(first: int, last: int, place: int = place, structure: Structure = structure) -> ExploredStructure:
            return _explored(potential, structure, place)

        work = Work(
            sizes=[len(structure)],
            part=part,
            structure=[structure].__getitem__,
            trial=lambda smaller: _explored(potential, smaller, 0),
        )
        yield from splitter.run(work)


def _explored(potential: Potential, structure: Structure, place: int) -> ExploredStructure:
    import torch

    from mcgm.batch import Batch
    from mcgm.report.exploration import ExploredStructure
    from mcgm.training.clusters import plain_positions

    batch = Batch.from_structures([structure], cutoff=potential.cutoff, dtype=potential.dtype).to(potential.device)
    with torch.no_grad():
        try:
            prediction = potential(batch, forces=False)
        except StructureError as error:
            raise StructureError(f"entry {place} ({structure}): {error}") from error
        references = potential.references(batch.numbers)
        own = prediction.atom_energy - references
        base = float(references.sum() + potential.references.intercept)
    if not bool(torch.isfinite(prediction.energy).all() and torch.isfinite(own).all()):
        raise StructureError(f"{structure}: the model predicts no finite energies for it.")
    charges = () if prediction.charges is None else tuple(_rounded(prediction.charges.tolist()))
    return ExploredStructure(
        name=structure.name or f"structure {place}",
        numbers=tuple(int(z) for z in structure.numbers),
        positions=plain_positions(structure),
        cell=tuple(tuple(map(float, row)) for row in structure.cell) if structure.pbc.all() else (),
        energy=float(prediction.energy[0]),
        reference_energy=base,
        cluster_energy=float(prediction.cluster_energy[0]),
        electrostatic_energy=float(prediction.electrostatic_energy[0]),
        atom_energy=tuple(_rounded(own.tolist())),
        charges=charges,
        layers=tuple(_levels(potential, layer, structure) for layer in prediction.clusters),
    )


def _levels(potential: Potential, layer: tuple[Clusters, ...], structure: Structure) -> tuple[ExploredLevel, ...]:
    import torch

    from mcgm.report.exploration import ExploredLevel, Flow
    from mcgm.training.clusters import cluster_levels

    levels = []
    mass = torch.ones(len(structure), dtype=potential.dtype)
    scale = float(potential.scale)
    for clusters, atoms in zip(layer, cluster_levels(layer, structure.numbers), strict=True):
        assignment = clusters.assignment
        member, cluster = assignment.member.cpu(), assignment.cluster.cpu()
        flowing = mass[member] * assignment.weight.cpu()
        flows = zip(member.tolist(), cluster.tolist(), flowing.tolist(), strict=True)
        mass = clusters.mass.cpu()
        energy = torch.zeros_like(mass) if clusters.energy is None else clusters.energy
        levels.append(
            ExploredLevel(
                atoms=atoms,
                flows=tuple(Flow(m, c, round(size, 4)) for m, c, size in flows if size >= LEAST_FLOW),
                mass=tuple(round(size, 4) for size in mass.tolist()),
                energy=tuple(_rounded((scale * energy).tolist())),
            )
        )
    return tuple(levels)


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(value, 6) for value in values]
