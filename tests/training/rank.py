"""Trains each case of a file as one of several ranks: `RANK=0 RANKS=2 python rank.py CASES.json FOLDER`.

Leaves the gradient of the first step in FOLDER/NAME/gradient.pt beside what training writes.
"""

import json
import os
import sys
import warnings
from pathlib import Path

import torch

from mcgm.training.config import TrainConfig
from mcgm.training.fit import train
from mcgm.training.module import PotentialModule
from mcgm.training.recipe import to_config

first = {}


def watch():
    """Keep the gradient of the first step."""
    backward = PotentialModule.backward

    def watched(self, loss, *arguments, **options):
        backward(self, loss, *arguments, **options)
        if self.global_step == 0:
            first.update({name: p.grad.clone() for name, p in self.named_parameters() if p.grad is not None})

    PotentialModule.backward = watched


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cases, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    watch()
    for name, recipe in cases.items():
        first.clear()
        train(to_config(recipe, TrainConfig), folder / name)
        if os.environ["LOCAL_RANK"] == "0":
            torch.save(dict(first), folder / name / "gradient.pt")
