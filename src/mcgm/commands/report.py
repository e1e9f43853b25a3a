"""`mcgm report`."""

from __future__ import annotations

from pathlib import Path

from mcgm.commands.arguments import make_parser

EXAMPLE = """  mcgm report runs/compare/cells -o report.html"""


def run(arguments: list[str]) -> int:
    """Write the report of a folder of results."""
    parser = make_parser("report", "Table, figures and page from the results of `mcgm compare`.", EXAMPLE)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder with the results (cells) of a comparison")
    parser.add_argument("-o", "--output", type=Path, help="file to write (default: report.html beside the folder)")
    known = parser.parse_args(arguments)

    from mcgm.report import report_command

    folder = known.folder / "cells" if (known.folder / "cells").is_dir() else known.folder
    output = known.output or folder.parent / "report.html"
    report_command(folder, output)
    print(output)
    return 0
