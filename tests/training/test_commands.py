"""The command line, from the outside."""

import csv
import json
import subprocess
import sys
import time

import ase.io
import numpy as np
import pytest
import yaml

from mcgm.cli import COMMANDS, main
from mcgm.training.recipe import merge


@pytest.fixture
def recipe_file(small_recipe, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(small_recipe))
    return path


def test_help_comes_without_torch():
    code = "import sys; from mcgm.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    started = time.perf_counter()
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.perf_counter() - started < 5
    assert all(name in shown.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_shows_an_example(name, capsys):
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    assert f"Example:\n  mcgm {name}" in capsys.readouterr().out


def test_train_evaluate_predict_on_a_users_own_file(recipe_file, data_file, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", str(recipe_file), "-o", str(run), "--training.epochs", "2"]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), "--part", "val", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    with (run / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    best = min(rows, key=lambda row: float(row["val_loss"]))
    assert found["energy_mae_mev"] / 1000 == pytest.approx(float(best["val_energy_mae_mev"]) / 1000, abs=1e-6)
    assert found["force_mae_mev_per_A"] == pytest.approx(float(best["val_force_mae_mev_per_A"]), rel=1e-5)

    assert main(["evaluate", str(run), str(data_file), "--json"]) == 0
    on_all = json.loads(capsys.readouterr().out)
    output = tmp_path / "predicted.extxyz"
    assert main(["predict", str(run), str(data_file), "-o", str(output)]) == 0
    truth, predicted = ase.io.read(data_file, ":"), ase.io.read(output, ":")
    errors = [abs(a.get_potential_energy() - b.get_potential_energy()) for a, b in zip(truth, predicted, strict=True)]
    assert 1000 * np.mean(errors) == pytest.approx(on_all["energy_mae_mev"], abs=0.02)
    assert predicted[0].get_forces().shape == (len(truth[0]), 3)


def test_resume_goes_on_where_training_stopped(recipe_file, tmp_path):
    run = tmp_path / "run"
    assert main(["train", str(recipe_file), "-o", str(run), "--training.epochs", "1"]) == 0
    assert main(["train", str(recipe_file), "-o", str(run), "--training.epochs", "3"]) == 2
    assert main(["train", str(recipe_file), "-o", str(run), "--training.epochs", "3", "--resume"]) == 0
    with (run / "metrics.csv").open() as stream:
        assert [row["epoch"] for row in csv.DictReader(stream)] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "x.extxyz", "--training.epoch", "3"], "Did you mean 'training.epochs'"),
        (["train", "x.extxyz", "--training.epochs", "many"], "training.epochs: required: int; got 'many'"),
        (["train", "missing.extxyz"], "missing.extxyz"),
        (["train", "missing.yaml"], "missing.yaml"),
        (["compare", "x.extxyz", "--reference", "other"], "other"),
        (["compare", "x.extxyz", "--variants", "{a: {model: {sze: small}}}"], "variants.a.model.size"),
        (["evaluate", "missing.safetensors", "x.extxyz"], "missing.safetensors"),
        (["predict", "m.safetensors", "x.extxyz", "-o", "out.csv"], ".extxyz"),
        (["trian"], "Did you mean 'train'"),
    ],
)
def test_mistake_is_one_message_and_exit_status_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


def test_comparison_gives_a_report_and_keeps_finished_cells(small_recipe, tmp_path, capsys):
    recipe = merge(small_recipe, {"training": {"epochs": 1}}) | {"seeds": [0], "processes": 2}
    recipe["model"].pop("long_range")
    path, output = tmp_path / "compare.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(recipe))
    assert main(["compare", str(path), "-o", str(output)]) == 0
    assert "SchNet + MCGM + orientations" in capsys.readouterr().out
    assert (output / "report.html").stat().st_size > 10_000
    cells = sorted((output / "cells").glob("*-seed0.json"))
    assert [cell.name for cell in cells] == ["local-seed0.json", "mcgm-seed0.json"]
    assert all(json.loads(cell.read_text())["inference_ms_per_molecule"] > 0 for cell in cells)
    older = json.loads(cells[0].read_text())
    del older["config"]["data"]["val"]  # as if the setting had come later
    cells[0].write_text(json.dumps(older))
    written = [cell.stat().st_mtime_ns for cell in cells]
    assert main(["compare", str(path), "-o", str(output)]) == 0
    assert [cell.stat().st_mtime_ns for cell in cells] == written
    # finished cells are compared as is asked now, and reports of them too
    capsys.readouterr()
    assert main(["compare", str(path), "-o", str(output), "--reference", "mcgm"]) == 0
    assert "SchNet against SchNet + MCGM + orientations" in capsys.readouterr().out
    assert main(["report", str(output)]) == 0
    assert capsys.readouterr().out == f"{output / 'report.html'}\n"
    assert "SchNet against SchNet + MCGM + orientations" in (output / "report.html").read_text()
    # a model that was deleted costs its time, not the comparison
    untimed = json.loads(cells[1].read_text()) | {"inference_ms_per_molecule": None}
    cells[1].write_text(json.dumps(untimed))
    (output / "runs" / "local-seed0" / "model.safetensors").unlink()
    assert main(["compare", str(path), "-o", str(output)]) == 0
    assert "not timed" in capsys.readouterr().out
    assert json.loads(cells[1].read_text())["inference_ms_per_molecule"] > 0


def test_settings_of_the_model_are_those_of_the_default_variants_and_others_are_added(monkeypatch):
    asked = []
    monkeypatch.setattr("mcgm.commands.compare._compare", lambda config: asked.append(config) or 0)
    changes = ["--model.backbone", "painn", "--model.long_range", "mcgm", "--variants.wider.model.size", "paper"]
    assert main(["compare", "sample", *changes]) == 0
    (config,) = asked
    cells = {name: config.cell(name, 0, "out").model for name in config.variants}
    assert {name: (model.backbone, model.long_range, model.size) for name, model in cells.items()} == {
        "local": ("painn", "none", "small"),
        "mcgm": ("painn", "mcgm", "small"),
        "wider": ("painn", "mcgm", "paper"),
    }
    assert [config.label_of(name) for name in config.variants] == ["PaiNN", "PaiNN + MCGM", "wider"]


def test_other_settings_or_data_are_another_comparison(small_recipe, data_file, labelled, tmp_path, capsys):
    recipe = merge(small_recipe, {"training": {"epochs": 2}}) | {
        "seeds": [0],
        "variants": {"local": {"label": "alone"}},
    }
    path = tmp_path / "compare.yaml"

    def error(output, rate):
        path.write_text(yaml.safe_dump(merge(recipe, {"training": {"learning_rate": rate}})))
        assert main(["compare", str(path), "-o", str(tmp_path / output)]) == 0
        cell = json.loads((tmp_path / output / "cells/local-seed0.json").read_text())
        assert cell["config"]["training"]["learning_rate"] == rate
        return cell["metrics"]["energy_mae_mev"]

    def refused():
        assert main(["compare", str(path), "-o", str(tmp_path / "same")]) == 2
        assert "has results with other settings or data for local-seed0" in capsys.readouterr().err
        (tmp_path / "same/cells/local-seed0.json").unlink()  # the way out that it tells

    kept = error("same", 0.001)
    path.write_text(yaml.safe_dump(merge(recipe, {"training": {"learning_rate": 0.02}})))
    refused()
    other = error("same", 0.02)
    ase.io.write(data_file, labelled(24, seed=5))
    refused()
    assert len({kept, other, error("same", 0.02)}) == 3


def test_a_training_does_not_go_on_with_other_data(recipe_file, data_file, labelled, tmp_path, capsys):
    output = tmp_path / "run"
    assert main(["train", str(recipe_file), "--training.epochs", "1", "-o", str(output)]) == 0
    ase.io.write(data_file, labelled(24, seed=5))
    assert main(["train", str(recipe_file), "--training.epochs", "2", "-o", str(output), "--resume"]) == 2
    assert f"{data_file} has changed since its training began" in capsys.readouterr().err


def test_cells_that_fail_leave_the_others_and_are_run_again_alone(small_recipe, tmp_path, capsys):
    recipe = merge(small_recipe, {"training": {"epochs": 1}}) | {"seeds": [0]}
    recipe["variants"] = {"first": {"label": "first"}, "second": {"label": "second"}}
    path, output = tmp_path / "compare.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(recipe))
    (output / "runs").mkdir(parents=True)
    obstacle = output / "runs" / "first-seed0"
    obstacle.touch()
    assert main(["compare", str(path), "-o", str(output)]) == 2
    shown = capsys.readouterr().err
    assert "1 of 2 cells failed; the same command runs what is not finished again" in shown
    assert "first-seed0 failed (exit status 2)" in shown
    assert f"{obstacle}: cannot be written" in shown
    finished = json.loads((output / "cells" / "second-seed0.json").read_text())["date"]
    assert not (output / "cells" / "first-seed0.json").exists()
    obstacle.unlink()
    assert main(["compare", str(path), "-o", str(output)]) == 0
    assert "1 of 2 cells are finished already" in capsys.readouterr().out
    assert json.loads((output / "cells" / "second-seed0.json").read_text())["date"] == finished
    assert "second against first" in (output / "report.html").read_text()


def test_a_cell_that_is_killed_and_many_that_fail_are_told(small_recipe, tmp_path, capsys, monkeypatch):
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    program = tmp_path / "killed"
    program.write_text(f"#!{sys.executable}\n{kill}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    recipe = merge(small_recipe, {"training": {"epochs": 1}}) | {"seeds": [0, 1, 2, 3, 4], "variants": {"one": {}}}
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump(recipe))
    assert main(["compare", str(path), "-o", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err
    assert "5 of 5 cells failed" in shown
    assert "one-seed0 failed (ended by signal 9; there may be too little memory" in shown
    assert f"one-seed3, one-seed4 failed too: see {tmp_path / 'out' / 'runs'}" in shown


def test_wrong_options_of_a_variant_are_met_before_the_first_training(small_recipe, tmp_path, capsys):
    recipe = merge(small_recipe, {"training": {"epochs": 1}}) | {"seeds": [0]}
    path = tmp_path / "compare.yaml"
    for model, say in (({"long_range": "nothing"}, "'nothing'"), ({"long_range_options": {"odd": 3}}, "odd")):
        recipe["variants"] = {"good": {"label": "good"}, "bad": {"model": model}}
        path.write_text(yaml.safe_dump(recipe))
        assert main(["compare", str(path), "-o", str(tmp_path / "out")]) == 2
        shown = capsys.readouterr().err
        assert "variants.bad.model: " in shown
        assert say in shown
        assert not (tmp_path / "out" / "runs").exists()
