"""Runs `mcgm predict` again and again on one output, each time killed with -9 at a given moment; then to its end.

Moments are numbered: before, within and after the writing of each piece, syncs and renames of files. Processes are
forked, so that importing is paid for once.

Usage: python killed_prediction.py JOBS, a file of [[[word, ...], [moment, ...]], ...]; prints the statuses of each.
"""

import io
import json
import os
import signal
import sys
from pathlib import Path

import torch

import mcgm.prediction.file as imported_before_the_forks
from mcgm.cli import main
from mcgm.prediction import sinks, unfinished

unfinished.SAVE_EVERY = 0.0


class Halting:
    """A file that may die in the middle of a piece, half of which is then on the disk."""

    def __init__(self, file, passing):
        self.file, self.passing = file, passing

    def write(self, content):
        half = len(content) // 2
        self.file.write(content[:half])
        self.file.flush()
        self.passing()
        self.file.write(content[half:])

    def __getattr__(self, name):
        return getattr(self.file, name)


def watch(moment):
    """Die at this moment; 0: never."""
    passed = 0

    def passing():
        nonlocal passed
        passed += 1
        if passed == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    sync, rename = os.fsync, Path.replace
    os.fsync = lambda *args: (passing(), sync(*args))[1]
    Path.replace = lambda *args: (passing(), rename(*args), passing())[1]
    original = sinks.Sink.__init__

    def halting(self, *args):
        original(self, *args)
        self.files = {name: Halting(file, passing) for name, file in self.files.items()}

    sinks.Sink.__init__ = halting


def run(words, moment):
    """Status of a process: -9 if it was killed."""
    child = os.fork()
    if child == 0:
        watch(moment)
        sys.stdout = io.StringIO()
        os._exit(main(["predict", *words]))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    assert imported_before_the_forks
    for words, moments in json.loads(Path(sys.argv[1]).read_text()):
        print(*[run(words, moment) for moment in [*moments, 0]], flush=True)
