"""Runs `mcgm train` again and again in one folder, each time killed with -9 at a given moment; then to its end.

Moments are numbered: steps of training and validation, syncs and renames of files. Every process notes the structures
of its steps and what torch's generator gives there. Processes are forked, so that importing is paid for once.

Usage: python killed_training.py JOBS, a file of [[recipe, folder, [moment, ...]], ...]; writes FOLDER/statuses.txt.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

import mcgm.training.fit as imported_before_the_forks
from mcgm.cli import main
from mcgm.training.module import PotentialModule


def watch(moment):
    """Die at this moment; 0: never."""
    passed = 0

    def passing():
        nonlocal passed
        passed += 1
        if passed == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def noted(self, data, batch_idx):
        words = [self.current_epoch, batch_idx, self.global_step, *data.names, torch.rand(()).item()]
        with Path("order.txt").open("a") as file:
            file.write(" ".join(map(str, words)) + "\n")

    step, validation = PotentialModule.training_step, PotentialModule.validation_step
    sync, rename = os.fsync, Path.replace
    PotentialModule.training_step = lambda *args: (noted(*args), passing(), step(*args), passing())[2]
    PotentialModule.validation_step = lambda *args: (passing(), validation(*args))[1]
    os.fsync = lambda *args: (passing(), sync(*args))[1]
    Path.replace = lambda *args: (passing(), rename(*args), passing())[1]


def run(recipe, folder, moment):
    """Status of a process: -9 if it was killed."""
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        watch(moment)
        os._exit(main(["train", recipe, "-o", "run", "--resume"]))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    assert imported_before_the_forks
    for recipe, folder, moments in json.loads(Path(sys.argv[1]).read_text()):
        Path(folder).mkdir()
        statuses = [run(recipe, folder, moment) for moment in [*moments, 0]]
        (Path(folder) / "statuses.txt").write_text(" ".join(map(str, statuses)))
