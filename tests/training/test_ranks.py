"""Two processes on one machine (gloo) against one."""

import os
import subprocess
import sys

import torch
import yaml

from mcgm.training.recipe import merge
from mcgm.training.state import read_state


def start(recipe, folder, *arguments):
    folder.mkdir()
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-W", "ignore", "-m", "mcgm", "train", str(path), "-o", str(folder / "run"), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_two_ranks_take_the_step_of_one(small_recipe, tmp_path):
    """7 structures: batches of 4 and 3 on two ranks, one batch of 7 on one; after a step the weights are the same."""
    one_step = {"epochs": 1, "precision": "float64", "clip": None, "ema": None, "schedule": {"kind": "constant"}}
    split = {"train": 7, "val": 5}
    base = merge(small_recipe, {"training": one_step, "data": {"split": split}})
    runs = [
        start(merge(base, {"training": {"batch_structures": 7}}), tmp_path / "one"),
        start(merge(base, {"training": {"batch_structures": 4}}), tmp_path / "two", "--devices", "2"),
    ]
    for run in runs:
        text, _ = run.communicate(timeout=240)
        assert run.returncode == 0, text
    one, two = (read_state(tmp_path / name / "run/last.ckpt") for name in ("one", "two"))
    moments = [state["optimizer_states"][0]["state"] for state in (one, two)]
    assert moments[0].keys() == moments[1].keys()
    for key, value in moments[0].items():
        # the first moment after one step is a tenth of the gradient
        torch.testing.assert_close(moments[1][key]["exp_avg"], value["exp_avg"], rtol=1e-10, atol=1e-12)
    rows = [(tmp_path / name / "run/metrics.csv").read_text().splitlines()[1].split(",") for name in ("one", "two")]
    for first, second in zip(rows[0][3:], rows[1][3:], strict=True):
        assert abs(float(first) - float(second)) <= 1e-9 * max(1.0, abs(float(first)))
