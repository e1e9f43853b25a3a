"""How long until anything happens? `import mcgm` beyond `import torch`, `mcgm --help`, each in a fresh process.

python benchmarks/speed_start.py [--rounds N]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Sequence

from side_by_side import seconds, store

PROCESSES: dict[str, Sequence[str]] = {
    "nothing": ("-c", "pass"),
    "import torch": ("-c", "import torch"),
    "import mcgm": ("-c", "import mcgm"),
    "import mcgm, all public names": (
        "-c",
        "import torch, mcgm; [getattr(mcgm, name) for name in mcgm.__all__]",
    ),
    "import the calculator": ("-c", "import torch, mcgm.interfaces.ase"),
    "mcgm --help": ("-m", "mcgm", "--help"),
    "mcgm train --help": ("-m", "mcgm", "train", "--help"),
}


def main() -> None:
    """All of them in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()

    def start(words: Sequence[str]) -> None:
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)

    times = seconds({name: lambda words=words: start(words) for name, words in PROCESSES.items()}, options.rounds)
    figures: dict[str, object] = {"question": "seconds of a fresh process, median of rounds in turns"}
    figures |= {name: round(statistics.median(values), 2) for name, values in times.items()}
    whole, alone = times["import mcgm, all public names"], times["import torch"]
    beyond = [both - torch_alone for both, torch_alone in zip(whole, alone, strict=True)]
    figures["all public names beyond import torch"] = round(statistics.median(beyond), 2)
    store("speed_start", figures)


if __name__ == "__main__":
    main()
