"""What a user gets wrong, or has in a file, from the command line: nothing is lost, and the message says what to do."""

import fcntl
import json

import ase.db
import ase.io
import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mcgm.cli import main
from mcgm.training.recipe import merge


@pytest.fixture
def trained(small_recipe, tmp_path):
    """The recipe's file and the folder of a short training."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(small_recipe))
    assert main(["train", str(recipe), "-o", str(tmp_path / "run")]) == 0
    return recipe, tmp_path / "run"


def refused(capsys, *words):
    """The one message of a command that fails."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    return shown


def test_no_command_writes_over_what_it_reads(trained, data_file, capsys):
    _, run = trained
    before = data_file.read_bytes()
    for words in (("predict", run, data_file, "-o"), ("relax", run, data_file, "-o"), ("data", "convert", data_file)):
        assert "is what is read from" in refused(capsys, *words, data_file)
    link = data_file.with_name("link.extxyz")
    link.symlink_to(data_file)
    assert "is what is read from" in refused(capsys, "predict", run, data_file, "-o", link)
    assert data_file.read_bytes() == before


@pytest.mark.parametrize("command", ["train", "md"])
def test_a_folder_that_another_process_writes_is_left_alone(trained, data_file, tmp_path, capsys, command):
    recipe, run = trained
    folder = run if command == "train" else tmp_path / "md"
    words = {
        "train": ("train", recipe, "-o", folder, "--resume", "--training.epochs", 4),
        "md": ("md", run, data_file, "--index", 0, "-o", folder, "--steps", 2),
    }[command]
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        files = sorted(path.name for path in folder.iterdir())
        assert f"{folder}: another process is writing it" in refused(capsys, *words)
        assert sorted(path.name for path in folder.iterdir()) == files
    assert main([str(word) for word in words]) == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.loss.force_weight", -1),
        ("training.loss.huber_delta", 0),
        ("training.ema", 1.5),
        ("training.clip", -1),
        ("training.schedule.warmup", 2),
        ("training.batch_atoms", 0),
        ("training.epochs", 0),
        ("training.epochs", -3),
        ("training.early_stopping", 0),
        ("training.learning_rate", -1),
        ("training.learning_rate", ".nan"),
        ("model.cutoff", 0),
        ("model.cutoff", ".inf"),
        ("data.limit", 0),
    ],
)
def test_a_setting_that_no_training_can_mean_is_named(data_file, tmp_path, capsys, key, value):
    shown = refused(capsys, "train", data_file, "-o", tmp_path / "run", f"--{key}", value)
    assert shown.startswith(f"mcgm: {key} is ")
    assert "required: " in shown
    assert not (tmp_path / "run").exists()


def test_a_loss_without_any_term_and_a_network_without_layers_are_refused(data_file, tmp_path, capsys):
    words = ("train", data_file, "-o", tmp_path / "run")
    weights = ("--training.loss.energy_weight", 0, "--training.loss.force_weight", 0)
    assert "all weights are zero" in refused(capsys, *words, *weights)
    assert "layers is 0" in refused(capsys, *words, "--model.backbone_options", "{layers: 0}")


def test_a_training_is_not_resumed_with_fewer_epochs_than_it_has(trained, capsys):
    recipe, run = trained
    before = (run / "recipe.json").read_bytes()
    shown = refused(capsys, "train", recipe, "-o", run, "--resume", "--training.epochs", 1)
    assert "is in epoch 3 already; 1 are asked for" in shown
    assert (run / "recipe.json").read_bytes() == before, "what was refused is not what the folder holds"


def test_a_device_that_is_not_there_is_refused_with_those_that_are(trained, data_file, capsys):
    _, run = trained
    for device in ("cuda:77", "foo"):
        shown = refused(capsys, "evaluate", run, data_file, "--device", device)
        assert f"device '{device}': cannot be used" in shown
        assert "There are here: cpu" in shown


def test_data_that_changed_since_the_training_have_no_known_test_part(trained, data_file, labelled, capsys):
    _, run = trained
    assert main(["evaluate", str(run)]) == 0
    ase.io.write(data_file, labelled(24, seed=7))
    assert "has changed since the training" in refused(capsys, "evaluate", run)
    assert main(["evaluate", str(run), str(data_file)]) == 0


def test_an_unknown_element_is_named_by_its_place_in_the_file(trained, labelled, tmp_path, capsys):
    _, run = trained
    frames = labelled(5)
    frames[3].numbers[0] = 29
    ase.io.write(tmp_path / "copper.extxyz", frames)
    assert "have Cu, which this potential was not trained on; the first is 3 (m3)" in refused(
        capsys, "evaluate", run, tmp_path / "copper.extxyz"
    )
    assert "entry 3 (structure 'm3')" in refused(
        capsys, "explore", run, tmp_path / "copper.extxyz", "-o", tmp_path / "page.html"
    )


# --- files in which some structures have a label, under its usual name or under one of their own


def renamed(frames, *, without_forces):
    """The same labels as REF_energy and dft_forces, the latter not for all."""
    made = []
    for k, atoms in enumerate(frames):
        other = Atoms(
            atoms.numbers, atoms.positions, info={"name": f"m{k}", "REF_energy": atoms.get_potential_energy()}
        )
        if k not in without_forces:
            other.arrays["dft_forces"] = atoms.get_forces()
        made.append(other)
    return made


KEYS = ("--data.keys.energy", "REF_energy", "--data.keys.forces", "dft_forces")


def errors(run):
    return json.loads((run / "metrics.json").read_text())["test"]


def test_forces_that_some_structures_have_are_learnt_compared_and_reported(small_recipe, labelled, tmp_path, capsys):
    half = range(0, 24, 2)
    usual = labelled(24)
    for k in half:
        usual[k].calc = SinglePointCalculator(usual[k], energy=usual[k].get_potential_energy())
    ase.io.write(tmp_path / "usual.extxyz", usual)
    ase.io.write(tmp_path / "own.extxyz", renamed(labelled(24), without_forces=half))
    recipe = tmp_path / "recipe.yaml"
    found = []
    for name, words in (("usual", ()), ("own", KEYS)):
        recipe.write_text(yaml.safe_dump(merge(small_recipe, {"data": {"path": str(tmp_path / f"{name}.extxyz")}})))
        assert main(["train", str(recipe), "-o", str(tmp_path / name), *words]) == 0
        found.append(errors(tmp_path / name))
    assert found[0] == pytest.approx(found[1])
    assert found[0]["force_mae_mev_per_A"] > 0
    # the same by hand
    output = tmp_path / "predicted.extxyz"
    assert main(["predict", str(tmp_path / "own"), str(tmp_path / "own.extxyz"), "-o", str(output)]) == 0
    differences = [
        predicted.get_forces() - atoms.arrays["dft_forces"]
        for predicted, atoms in zip(ase.io.read(output, ":"), ase.io.read(tmp_path / "own.extxyz", ":"), strict=True)
        if "dft_forces" in atoms.arrays
    ]
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "own"), str(tmp_path / "own.extxyz"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["force_mae_mev_per_A"]
    assert told == pytest.approx(1000 * np.abs(np.concatenate(differences)).mean(), rel=1e-3)


def test_a_key_that_no_structure_has_is_refused_with_the_nearest(labelled, tmp_path, capsys):
    ase.io.write(tmp_path / "own.extxyz", renamed(labelled(24), without_forces=range(0, 24, 2)))
    words = ("train", tmp_path / "own.extxyz", "-o", tmp_path / "run", *KEYS[:2], "--data.keys.forces", "dft_force")
    shown = refused(capsys, *words)
    assert "no forces under the key 'dft_force'. Did you mean 'dft_forces'?" in shown


def test_keys_can_be_said_to_the_commands_that_look_at_files(trained, labelled, tmp_path, capsys):
    _, run = trained
    ase.io.write(tmp_path / "own.extxyz", renamed(labelled(24), without_forces=()))
    said = "energy=REF_energy, forces=dft_forces"
    assert main(["data", "inspect", str(tmp_path / "own.extxyz"), "--labels", said]) == 0
    assert "energy 24, forces 24" in capsys.readouterr().out
    assert main(["data", "convert", str(tmp_path / "own.extxyz"), str(tmp_path / "own.npz"), "--labels", said]) == 0
    assert main(["evaluate", str(run), str(tmp_path / "own.extxyz"), "--labels", said, "--json"]) == 0
    assert main(["evaluate", str(run), str(tmp_path / "own.npz"), "--json"]) == 0
    in_kcal = f"{said}, energy_unit=kcal/mol"
    assert main(["data", "inspect", str(tmp_path / "own.extxyz"), "--labels", in_kcal]) == 0
    shown = refused(capsys, "data", "inspect", tmp_path / "own.extxyz", "--labels", "enrgy=REF_energy")
    assert "'data.keys.enrgy'" in shown
    assert "energy" in shown


def test_keys_of_later_structures_are_told(labelled, tmp_path, capsys):
    frames = labelled(12)
    frames[5].info["virial_only_here"] = 1.0
    ase.io.write(tmp_path / "data.extxyz", frames)
    assert main(["data", "inspect", str(tmp_path / "data.extxyz")]) == 0
    assert "virial_only_here" in "".join(capsys.readouterr().out.split())


def test_ases_own_json_is_read(labelled, tmp_path, capsys):
    with ase.db.connect(tmp_path / "data.json", type="json") as database:
        for atoms in labelled(12):
            database.write(atoms)
    assert main(["data", "inspect", str(tmp_path / "data.json")]) == 0
    assert "energy 12, forces 12" in capsys.readouterr().out


def test_a_charge_that_is_text_is_said_to_be_text(trained, labelled, tmp_path, capsys):
    _, run = trained
    frames = labelled(2)
    frames[1].info["charge"] = "one"
    ase.io.write(tmp_path / "text.extxyz", frames)
    assert "text" in refused(capsys, "predict", run, tmp_path / "text.extxyz", "-o", tmp_path / "out.npz")


def test_a_training_is_not_resumed_with_another_loss(trained, capsys):
    recipe, run = trained
    words = ("train", recipe, "-o", run, "--resume", "--training.epochs", 5)
    assert "another training.loss" in refused(capsys, *words, "--training.loss.force_weight", 1000)
    assert main([str(word) for word in words]) == 0


@pytest.mark.parametrize("key", ["training.seed", "data.split.seed"])
def test_seeds_below_zero_are_refused(data_file, tmp_path, capsys, key):
    assert f"{key} is -1" in refused(capsys, "train", data_file, "-o", tmp_path / "run", f"--{key}", -1)


def test_a_loss_of_forces_that_nobody_has_is_refused(labelled, tmp_path, capsys):
    ase.io.write(tmp_path / "data.extxyz", labelled(24, forces=False))
    words = ("train", tmp_path / "data.extxyz", "-o", tmp_path / "run", "--training.loss.energy_weight", 0)
    assert "no structure to train on has any" in refused(capsys, *words)


def test_a_committee_a_split_file_and_a_pattern_notice_other_data_too(small_recipe, labelled, tmp_path, capsys):
    for k in range(2):
        ase.io.write(tmp_path / f"part-{k}.extxyz", labelled(12, seed=k))
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"train": list(range(14)), "val": [14, 15, 16], "test": [17, 18, 19]}))
    recipe = merge(small_recipe, {"data": {"path": str(tmp_path / "part-*.extxyz")}, "training": {"epochs": 1}})
    recipe["data"]["split"] = {"file": str(split)}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    for name, words in (("one", ()), ("two", ("--seeds", "2"))):
        assert main(["train", str(tmp_path / "recipe.yaml"), "-o", str(tmp_path / name), *words]) == 0
        assert main(["evaluate", str(tmp_path / name)]) == 0
    split.write_text(json.dumps({"train": list(range(14)), "val": [14, 15, 16], "test": [0, 1, 2]}))
    for name in ("one", "two"):
        assert f"{split}: has changed" in refused(capsys, "evaluate", tmp_path / name)
    split.write_text(json.dumps({"train": list(range(14)), "val": [14, 15, 16], "test": [17, 18, 19]}))
    assert main(["evaluate", str(tmp_path / "two")]) == 0
    ase.io.write(tmp_path / "part-9.extxyz", labelled(2, seed=9))
    for name in ("one", "two"):
        assert "part-*.extxyz: has changed" in refused(capsys, "evaluate", tmp_path / name)


def test_forces_in_one_of_several_files_are_enough(small_recipe, labelled, tmp_path):
    ase.io.write(tmp_path / "a.extxyz", renamed(labelled(12), without_forces=range(12)))
    ase.io.write(tmp_path / "b.extxyz", renamed(labelled(12, seed=1), without_forces=()))
    ase.io.write(tmp_path / "test.extxyz", renamed(labelled(4, seed=2), without_forces=range(4)))
    data = {"path": str(tmp_path / "[ab].extxyz"), "test": str(tmp_path / "test.extxyz")}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(merge(small_recipe, {"data": data})))
    run = tmp_path / "run"
    assert main(["train", str(tmp_path / "recipe.yaml"), "-o", str(run), *KEYS]) == 0
    assert main(["evaluate", str(run), str(tmp_path / "test.extxyz")]) == 0


def test_where_a_file_system_has_no_locks_work_goes_on(data_file, tmp_path, monkeypatch):
    def no_locks(*arguments):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert main(["train", str(data_file), "-o", str(tmp_path / "run"), "--training.epochs", "1"]) == 0


def test_numbers_of_a_split_that_has_a_name_are_refused(data_file, tmp_path, capsys):
    words = ("train", data_file, "-o", tmp_path / "run", "--data.split.name", "aqm", "--data.split.train", 12)
    assert "data.split.name is 'aqm', which says all: train has no effect" in refused(capsys, *words)


# --- ions and virials


def ions(frames):
    for k, atoms in enumerate(frames):
        atoms.info["q"] = k % 3 - 1
    return frames


def test_a_file_that_does_not_tell_charges_is_not_silently_neutral(small_recipe, labelled, tmp_path, caplog):
    ase.io.write(tmp_path / "ions.extxyz", ions(labelled(24)))
    ase.io.write(tmp_path / "untold.extxyz", labelled(6))
    recipe = tmp_path / "recipe.yaml"
    data = {"path": str(tmp_path / "ions.extxyz"), "keys": {"charge": "q"}}
    recipe.write_text(yaml.safe_dump(merge(small_recipe, {"data": data})))
    run = tmp_path / "run"
    assert main(["train", str(recipe), "-o", str(run)]) == 0
    for name, is_told in (("ions", True), ("untold", False)):
        caplog.clear()
        words = ["evaluate", str(run), str(tmp_path / f"{name}.extxyz"), "--labels", "charge=q" if is_told else "ase"]
        assert main(words) == 0
        assert ("trained on total charges of -1, 0, +1 e" in caplog.text) is not is_told


def test_virials_are_stresses_where_they_are_declared(labelled, tmp_path, capsys):
    stress = np.array([[0.01, 0.002, 0.0], [0.002, -0.03, 0.004], [0.0, 0.004, 0.02]])
    crystal, molecule = labelled(2)
    crystal.set_cell([5, 6, 7])
    crystal.pbc = True
    crystal.info["virial"] = -stress * crystal.get_volume()
    ase.io.write(tmp_path / "data.extxyz", [molecule, crystal])
    assert main(["data", "inspect", str(tmp_path / "data.extxyz")]) == 0
    assert "stress=virial, stress_kind=virial" in " ".join(capsys.readouterr().out.split())
    words = [str(tmp_path / "data.extxyz"), str(tmp_path / "out.extxyz")]
    assert main(["data", "convert", *words, "--labels", "stress=virial, stress_kind=virial"]) == 0
    first, second = ase.io.read(tmp_path / "out.extxyz", ":")
    np.testing.assert_allclose(second.get_stress(voigt=False), stress, atol=1e-8)
    assert "stress" not in first.calc.results


def test_many_files_are_predicted_by_a_pattern(trained, labelled, tmp_path, capsys):
    _, run = trained
    for k in range(3):
        ase.io.write(tmp_path / f"part-{k}.extxyz", labelled(3, seed=k))
    output = tmp_path / "all.extxyz"
    assert main(["predict", str(run), str(tmp_path / "part-*.extxyz"), "-o", str(output)]) == 0
    frames = [atoms for k in range(3) for atoms in labelled(3, seed=k)]
    for found, atoms in zip(ase.io.read(output, ":"), frames, strict=True):
        np.testing.assert_allclose(found.positions, atoms.positions, atol=1e-7)
    over = tmp_path / "part-1.extxyz"
    assert "is what is read from" in refused(capsys, "predict", run, tmp_path / "part-*.extxyz", "-o", over)
    assert "no file fits this pattern" in refused(capsys, "predict", run, tmp_path / "odd-*.xyz", "-o", output)


def test_a_recipe_whose_data_are_elsewhere_says_where_it_looked(small_recipe, data_file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(data_file.parent)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(merge(small_recipe, {"data": {"path": data_file.name}})))
    assert main(["train", str(recipe), "-o", "run"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert f"seen from {tmp_path / 'elsewhere'}" in refused(capsys, "evaluate", data_file.parent / "run")
