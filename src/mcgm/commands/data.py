"""`mcgm data inspect` and `mcgm data convert`."""

from __future__ import annotations

from pathlib import Path

from mcgm.commands.arguments import make_parser

EXAMPLE = """  mcgm data inspect data.extxyz
  mcgm data inspect data.extxyz --labels 'energy=REF_energy, forces=REF_forces'
  mcgm data convert AQM-gas.hdf5 aqm.npz --labels aqm"""


def run(arguments: list[str]) -> int:
    """Inspect or convert a data file."""
    parser = make_parser("data", "Look at a data file, or write it in another format.", EXAMPLE)
    parser.add_argument("action", choices=("inspect", "convert"))
    parser.add_argument("file", metavar="FILE", type=Path, help="data file")
    parser.add_argument("output", metavar="OUT", type=Path, nargs="?", help="convert: file to write (.extxyz, .npz)")
    parser.add_argument(
        "--labels",
        metavar="LABELS",
        help="keys and units: a named declaration, or 'energy=E_dft, energy_unit=kcal/mol' (default: the format's)",
    )
    parser.add_argument("--json", action="store_true", help="inspect: print JSON instead of tables")
    known = parser.parse_args(arguments)

    from mcgm.data.commands import convert_command, inspect_command
    from mcgm.data.declaration import spoken
    from mcgm.data.sample import sample_path

    file = sample_path() if str(known.file) == "sample" else known.file
    labels = None if known.labels is None else spoken(file, known.labels)
    if known.action == "inspect":
        inspect_command(known.file, labels=labels, json=known.json)
    else:
        convert_command(known.file, known.output, labels=labels)
    return 0
