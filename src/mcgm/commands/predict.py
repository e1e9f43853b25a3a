"""`mcgm predict`."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from mcgm.commands.arguments import make_parser, model_path

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
    parser.add_argument(
        "--labels", help="named declaration of keys and units (default: the training's, or the format's)"
    )
    parser.add_argument("--batch-atoms", type=int, default=2000, metavar="N", help="atoms in a batch, at most (2000)")
    parser.add_argument("--resume", action="store_true", help="go on after the last finished batch, if there is one")
    parser.add_argument("--device", default="cpu", help="e.g. cpu, cuda")
    known = parser.parse_args(arguments)

    from mcgm.prediction.file import predict_file, require_writable

    require_writable(known.output)

    from mcgm.checkpoint import load, read_header
    from mcgm.data import sample_path
    from mcgm.data.declaration import as_trained, inputs_alone, read_as_trained
    from mcgm.data.labels import declared
    from mcgm.data.readers import count_structures
    from mcgm.memory import bounded_memory, keep_freed_memory
    from mcgm.prediction.progress import Watcher

    path = model_path(known.model)
    potential = load(path, device=known.device)
    source = sample_path() if known.structures == "sample" else Path(known.structures)
    trained = None if known.labels else as_trained(source, read_header(path).get("extra", {}).get("recipe"))
    labels = declared(known.labels) if known.labels else trained
    labels = None if labels is None else inputs_alone(labels)
    keep_freed_memory()
    with bounded_memory(), read_as_trained(trained), Watcher(count_structures(source, labels)) as watcher:
        outcome = predict_file(
            potential,
            source,
            known.output,
            labels=labels,
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
