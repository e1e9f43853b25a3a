"""`mcgm predict`."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from mcgm.commands.arguments import make_parser, model_path
from mcgm.commands.inputs import inputs, labels_argument
from mcgm.files import require_another

EXAMPLE = """  mcgm predict runs/data molecules.xyz -o predicted.extxyz
  mcgm predict runs/data molecules.xyz -o predicted.extxyz --resume    goes on after it was interrupted
  mcgm predict runs/data large.npz -o predicted.npz --batch-atoms 500"""


def run(arguments: list[str]) -> int:
    """Predict all structures of a file, one batch in memory at a time."""
    parser = make_parser(
        "predict", "Energies, forces and (if periodic) stress of the structures in a file, in their order.", EXAMPLE
    )
    parser.add_argument("model", metavar="MODEL", help="model file, or the folder of a training")
    parser.add_argument("structures", metavar="IN", help="any format that is read (extxyz, db, npz, ...)")
    parser.add_argument("-o", "--output", required=True, type=Path, help="file to write: .extxyz, .xyz or .npz")
    labels_argument(parser)
    parser.add_argument("--batch-atoms", type=int, default=2000, metavar="N", help="atoms in a batch, at most (2000)")
    parser.add_argument("--resume", action="store_true", help="go on after the last finished batch, if there is one")
    parser.add_argument("--device", default="cpu", help="e.g. cpu, cuda")
    known = parser.parse_args(arguments)

    from mcgm.prediction.file import predict_file, require_writable

    require_writable(known.output)
    from mcgm.checkpoint import load
    from mcgm.data.readers import count_structures, matching
    from mcgm.memory import bounded_memory, keep_freed_memory
    from mcgm.prediction.progress import Watcher

    path = model_path(known.model)
    if known.structures != "sample":
        require_another(known.output, path, *matching(Path(known.structures)))
    potential = load(path, device=known.device)
    keep_freed_memory()
    with (
        inputs(path, known.structures, known.labels) as given,
        bounded_memory(),
        Watcher(count_structures(given.path, given.labels)) as watcher,
    ):
        outcome = predict_file(
            potential,
            given.path,
            known.output,
            labels=given.labels,
            model=hashlib.sha256(path.read_bytes()).hexdigest(),
            batch_atoms=known.batch_atoms,
            resume=known.resume,
            watch=watcher,
        )
    resumed = f", {outcome.resumed_at} of them before it was resumed" if outcome.resumed_at else ""
    print(f"{known.output}: {outcome.structures} structures{resumed}")
    if outcome.out_of_domain:
        print(
            f"mcgm: {outcome.out_of_domain} of {outcome.structures} structures are out of domain: {potential.domain}. "
            "They are marked (out_of_domain) in the output.",
            file=sys.stderr,
        )
    return 0
