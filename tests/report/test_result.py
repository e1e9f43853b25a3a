import dataclasses
import json

import numpy as np
import pytest

from mcgm.errors import DataError
from mcgm.report import (
    ClusteredMolecule,
    ClusterLevel,
    Predictions,
    RunResult,
    load_molecules,
    read_results,
    save_molecules,
)


def test_a_result_is_the_same_after_saving_and_loading(result_maker, tmp_path):
    result = result_maker("schnet_mcgm", 3, 0.1, peak_memory_mb=np.float32(512), parameters=np.int64(7))
    result.save(tmp_path / "cell.json")
    assert RunResult.load(tmp_path / "cell.json") == result
    assert [path.name for path in tmp_path.iterdir()] == ["cell.json"]


def test_a_failed_write_leaves_the_earlier_file(result_maker, tmp_path):
    result = result_maker("schnet", 0, 0.1)
    result.save(tmp_path / "cell.json")
    with pytest.raises(DataError, match="plain JSON"):
        dataclasses.replace(result, config={"path": object()}).save(tmp_path / "cell.json")
    assert RunResult.load(tmp_path / "cell.json") == result


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values | {"format": 2}, "format 2"),
        (lambda values: values | {"kind": "other"}, "not the result of a run"),
        (lambda values: values | {"sed": 1}, "'seed'"),
        (lambda values: values | {"seed": "one"}, "RunResult.seed"),
        (lambda values: values | {"seed": True}, "RunResult.seed"),
        (lambda values: values | {"metrics": {"n_structures": 1}}, "energy_mae_mev"),
        (lambda values: values | {"curves": [{"epoch": 1}]}, r"curves\[0\]"),
        (lambda values: values | {"predictions": "../secret.npz"}, "predictions"),
        (lambda values: {name: value for name, value in values.items() if name != "label"}, "'label'"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_field(change, message, result_maker, tmp_path):
    path = tmp_path / "cell.json"
    result_maker("schnet", 0, 0.1).save(path)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(DataError, match=message) as caught:
        RunResult.load(path)
    assert "cell.json" in str(caught.value)


def test_a_broken_file_is_refused_with_its_line(tmp_path):
    (tmp_path / "cell.json").write_text('{"kind":\n')
    with pytest.raises(DataError, match=r"cell\.json, line 2"):
        RunResult.load(tmp_path / "cell.json")


def test_numbers_that_are_not_finite_are_refused(result_maker):
    with pytest.raises(DataError, match="seconds_per_epoch is nan"):
        result_maker("schnet", 0, 0.1, seconds_per_epoch=float("nan"))


def test_only_results_are_read_from_a_folder(comparison):
    (comparison / "settings.json").write_text("{}")
    (comparison / ".schnet-0.json").write_text('{"kind": "mcgm run')
    assert [(run.variant, run.seed) for run in read_results(comparison)] == [
        ("schnet", 0),
        ("schnet", 1),
        ("schnet_mcgm", 0),
        ("schnet_mcgm", 1),
    ]


def test_a_folder_without_results_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no results"):
        read_results(tmp_path)


def test_metrics_are_those_of_the_arrays():
    predictions = Predictions(["a", "b"], [1, 2], [0.0, 0.0], [0.1, -0.3], np.zeros((3, 3)), np.full((3, 3), 0.02))
    metrics = predictions.metrics
    assert metrics.energy_mae_mev == pytest.approx(200)
    assert metrics.energy_mae_mev_per_atom == pytest.approx((100 + 150) / 2)
    assert metrics.energy_rmse_mev == pytest.approx(np.sqrt((100**2 + 300**2) / 2))
    assert metrics.force_mae_mev_per_A == pytest.approx(20)


def test_predictions_are_the_same_after_saving_and_loading(tmp_path):
    predictions = Predictions(["a"], [1], [1.0], [2.0], baseline=[0.5])
    predictions.save(tmp_path / "cell.npz")
    loaded = Predictions.load(tmp_path / "cell.npz")
    assert loaded.metrics == predictions.metrics
    assert loaded.names.tolist() == ["a"]
    assert loaded.baseline.tolist() == [0.5]
    assert loaded.forces is None


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", b"text"])
def test_a_file_without_predictions_is_refused(content, tmp_path):
    (tmp_path / "cell.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"cell\.npz"):
        Predictions.load(tmp_path / "cell.npz")


def test_pickled_predictions_are_never_loaded(tmp_path):
    np.savez(tmp_path / "cell.npz", names=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match=r"cell\.npz"):
        Predictions.load(tmp_path / "cell.npz")


def test_forces_of_the_wrong_length_are_refused():
    with pytest.raises(DataError, match=r"forces has shape \(2, 3\); required: \(3, 3\)"):
        Predictions(["a"], [3], [1.0], [1.0], np.zeros((2, 3)), np.zeros((3, 3)))


def test_molecules_are_the_same_after_saving_and_loading(tmp_path):
    level = ClusterLevel(np.array([0, 1]), np.array([1.0, 0.5]), ["H", "O"])
    molecules = (ClusteredMolecule("<b>", np.array([1, 8]), np.zeros((2, 3)), [level]),)
    save_molecules(tmp_path / "clusters.json", molecules)
    assert load_molecules(tmp_path / "clusters.json") == molecules


def test_labels_of_the_wrong_number_are_refused():
    with pytest.raises(DataError, match="level 1 has 1 labels for 2 atoms"):
        ClusteredMolecule("m", (1, 1), ((0, 0, 0), (1, 0, 0)), (ClusterLevel((0,), (1.0,)),))
