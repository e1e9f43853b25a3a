"""`mcgm train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mcgm.commands.arguments import configure, make_parser
from mcgm.training.config import TrainConfig

EXAMPLE = """  mcgm train data.extxyz                                  defaults, into runs/data
  mcgm train configs/oe62/schnet.yaml --resume            go on after an interruption
  mcgm train data.extxyz -o runs/painn --model.backbone painn --training.epochs 50
  mcgm train data.extxyz --seeds 4                        a committee: mean and spread of four models
  mcgm train new.extxyz --from runs/data --training.freeze backbone    fine-tune on other labels"""


def run(arguments: list[str]) -> int:
    """Train, then print the errors on validation and test part."""
    parser = make_parser("train", "Train a potential from a recipe (.yaml) or on a data file.", EXAMPLE)
    parser.add_argument("source", metavar="CONFIG|DATA", help="recipe (.yaml), data file, or 'sample'")
    parser.add_argument("-o", "--output", help="folder for the model, logs and checkpoints (default: runs/NAME)")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint, if there is one")
    parser.add_argument("--from", dest="start", metavar="MODEL", help="start with the weights of a saved model")
    parser.add_argument("--devices", type=int, help="processes on this machine (training.devices)")
    parser.add_argument("--num-nodes", "--num_nodes", type=int, help="machines (training.num_nodes)")
    parser.add_argument_group("settings", "any key of a recipe: --section.key VALUE, e.g. --training.epochs 50")
    known, settings = parser.parse_known_args(arguments)
    config = configure(known.source, settings, TrainConfig, _changes(known), _completed)
    return _train(config, resume=known.resume)


def _completed(content: dict[str, Any]) -> dict[str, Any]:
    """Without a saved model to start from nothing is to be read, and torch not to be waited for."""
    if not (content.get("start") or {}).get("model"):
        return content
    from mcgm.training.start import completed

    return completed(content)


def _changes(known: Any) -> dict[str, Any]:
    counts = {"devices": known.devices, "num_nodes": known.num_nodes}
    changes: dict[str, Any] = {"training": {key: value for key, value in counts.items() if value is not None}}
    if known.start is not None:
        changes["start"] = {"model": known.start, "sha256": None}
    if known.output is not None:
        changes["output"] = known.output
    elif not known.source.endswith((".yaml", ".yml")):
        changes["output"] = f"runs/{Path(known.source).stem}"
    return changes


def _train(config: TrainConfig, *, resume: bool) -> int:
    from rich.console import Console

    from mcgm.commands.evaluate import show
    from mcgm.training.fit import final_metrics, train
    from mcgm.training.progress import terminal_reporter

    output = Path(config.output)
    trained = train(config, output, resume=resume, reporter=terminal_reporter())
    if not trained.is_main:
        return 0
    found = final_metrics(trained, output)
    console = Console()
    show(found, console)
    made = f"best of {len(trained.curves)} epochs" if config.seeds == 1 else f"a committee of {config.seeds}"
    console.print(f"{output / 'model.safetensors'}: {made}, {trained.seconds:.0f} s")
    return 0
