"""The command `mcgm`: a closed table of subcommands, each in a module that is imported when it is called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from mcgm.errors import MCGMError, unknown_name

COMMANDS = {
    "train": ("mcgm.commands.train", "train a potential from a recipe or a data file"),
    "evaluate": ("mcgm.commands.evaluate", "errors of a model on labelled data"),
    "predict": ("mcgm.commands.predict", "energies and forces of structures in a file"),
    "md": ("mcgm.commands.md", "molecular dynamics at constant energy or temperature; can be resumed"),
    "relax": ("mcgm.commands.relax", "relax structures, and their cells"),
    "check": ("mcgm.commands.check", "what a model promises, measured: symmetries, derivatives, dynamics"),
    "explore": ("mcgm.commands.explore", "structures in 3-D by cluster, energy and charge: an offline page"),
    "compare": ("mcgm.commands.compare", "variants x seeds under one budget: table, figures, report.html"),
    "report": ("mcgm.commands.report", "write the report of a finished comparison again"),
    "data": ("mcgm.commands.data", "inspect a data file, or convert it"),
}
"""Subcommand -> module with `run(arguments) -> exit status`, and a line for the help."""

EXAMPLE = """Example:
  mcgm train data.extxyz                 train SchNet + MCGM on your own structures
  mcgm compare data.extxyz               ... and see what MCGM brought
  mcgm train --help                      more about one command"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; the exit status is 0, or 2 after an error, which is printed as one message."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        import mcgm

        print(f"mcgm {mcgm.__version__}")
        return 0
    name, *rest = arguments
    try:
        if name not in COMMANDS:
            raise MCGMError(unknown_name("command", name, COMMANDS))
        return int(importlib.import_module(COMMANDS[name][0]).run(rest))
    except MCGMError as error:
        print(f"mcgm: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in ("lightning", "matplotlib", "tensorboard"):
            raise
        print(f"mcgm: {name} needs {error.name}. Install it with: pip install 'mcgm[train]'", file=sys.stderr)
    except BrokenPipeError:
        sys.stderr.close()
    except KeyboardInterrupt:
        print("mcgm: interrupted", file=sys.stderr)
        return 130
    return 2


def usage() -> str:
    """The help of `mcgm` itself."""
    lines = [f"  {name:10} {summary}" for name, (_, summary) in COMMANDS.items()]
    head = "usage: mcgm COMMAND [arguments]\n\nLong-range, global context for atomistic graph networks.\n\nCommands:\n"
    return head + "\n".join(lines) + "\n\n" + EXAMPLE
