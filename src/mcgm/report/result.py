"""What one finished training run leaves behind: one JSON file that the report, and nothing else, is made of."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcgm.errors import DataError
from mcgm.report.fields import check_fields, from_plain
from mcgm.report.files import write_whole

FORMAT = 1
KIND = "mcgm run result"


@dataclass(frozen=True)
class CurvePoint:
    """One validation during training.

    `epoch` counts finished epochs, `step` optimiser steps, `seconds` wall time since the start of training with the
    time of validation in it. Validation errors are those of the weights that would be saved (EMA where it is used).
    `rand_index` is the adjusted Rand index of the clusters against those of the validation before, for each of the
    `rand_index_levels` (1 the lowest); empty at the first validation, and without clusters that can change.

    Raises:
        DataError: a field of the wrong type, or not one index for each level.
    """

    epoch: float
    step: int
    seconds: float
    learning_rate: float
    train_loss: float | None
    val_energy_mae_mev: float
    val_force_mae_mev_per_A: float | None = None
    val_stress_mae_mev_per_A3: float | None = None
    rand_index: tuple[float, ...] = ()
    rand_index_levels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        if len(self.rand_index) != len(self.rand_index_levels):
            raise DataError(
                f"CurvePoint: {len(self.rand_index)} values in rand_index; required: {len(self.rand_index_levels)}, "
                "one for each of rand_index_levels."
            )


@dataclass(frozen=True)
class Metrics:
    """Errors on the test set; the mean is over structures for energies, over Cartesian components for forces.

    `Predictions.metrics` computes them. Force errors are `None` when the data hold no forces,
    those of charges (milli-e) and dipoles (milli-eÅ, per component) when data or model have none, that of stress
    (meV/Å³, per component; 6.24 are 1 GPa) when the data have none.
    """

    n_structures: int
    energy_mae_mev: float
    energy_mae_mev_per_atom: float
    energy_rmse_mev: float
    force_mae_mev_per_A: float | None = None
    force_rmse_mev_per_A: float | None = None
    charge_mae_me: float | None = None
    dipole_mae_meA: float | None = None
    stress_mae_mev_per_A3: float | None = None

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class RunResult:
    """One cell of a comparison: one variant, trained with one seed and tested.

    `variant` is a key without spaces, `label` what a person reads ("SchNet + MCGM"). `reference` is the key of the
    variant to compare with; `None`, or the own key, for a variant that is compared with no other.
    `predictions` and `clusters` are names of files in the same folder, written by `Predictions.save` and
    `save_molecules`. `inference_ms_per_molecule` is energy (and forces, if trained on them) per test structure.
    `part` is that of the data on which it was tested: "test", or "validation" where nothing was kept for a test.
    `config` is every setting as plain JSON values; `data` the files that were read, each with its size and a digest of
    its ends; `machine` at least cpu, cores, torch, python; `date` is ISO 8601;
    `command` repeats the run.

    Raises:
        DataError: a field of the wrong type, or a number that is not finite.
    """

    variant: str
    label: str
    backbone: str
    long_range: str
    dataset: str
    seed: int
    parameters: int
    metrics: Metrics
    seconds_per_epoch: float
    inference_ms_per_molecule: float | None = None
    reference: str | None = None
    curves: tuple[CurvePoint, ...] = ()
    peak_memory_mb: float | None = None
    predictions: str | None = None
    clusters: str | None = None
    commit: str = ""
    command: str = ""
    date: str = ""
    machine: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    part: str = "test"

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("predictions", "clusters"):
            file = getattr(self, name)
            # A result may come from someone else: it must not make the report read outside its folder.
            if file is not None and (Path(file).name != file or file in ("", ".", "..")):
                raise DataError(
                    f"RunResult.{name} is {file!r}; required: the name of a file in the folder of the result."
                )

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all.

        Raises:
            DataError: `config` or `machine` hold something that JSON cannot say.
        """
        values = {"kind": KIND, "format": FORMAT} | dataclasses.asdict(self)
        try:
            text = json.dumps(values, indent=1, allow_nan=False, ensure_ascii=False)
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}: config and machine must be plain JSON values: {error}.") from error
        write_whole(Path(path), (text + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> RunResult:
        """Read what `save` wrote.

        Raises:
            DataError: not a file of this kind and format, or fields that are missing, unknown or of the wrong type.
        """
        values = read_json(Path(path))
        if not _is_result(values):
            raise DataError(f'{path}: not the result of a run (required: "kind": "{KIND}").')
        return cls._from(values, path)

    @classmethod
    def _from(cls, values: Mapping[str, Any], path: Path) -> RunResult:
        if values.get("format") != FORMAT:
            raise DataError(
                f"{path}: format {values.get('format')!r}; this version reads format {FORMAT}. "
                "Read it with the version of mcgm that wrote it, or run that cell again."
            )
        fields = {name: value for name, value in values.items() if name not in ("kind", "format")}
        return from_plain(cls, fields, str(path))


def read_json(path: Path) -> Any:
    """The values of a JSON file.

    Raises:
        DataError: cannot be read, or is not JSON; names the file and the line.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON: {error.msg}.") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}.") from error


def read_results(folder: Path) -> tuple[RunResult, ...]:
    """Every run result among the JSON files of a folder (not of folders inside), ordered by file name.

    JSON files of another kind are passed over.

    Raises:
        DataError: no result there, or one that cannot be read.
    """
    # A process that was killed while it wrote leaves a hidden file behind.
    paths = sorted(path for path in Path(folder).glob("*.json") if not path.name.startswith("."))
    found = {path: values for path in paths if _is_result(values := read_json(path))}
    if not found:
        raise DataError(
            f"{folder}: holds no results. Run `mcgm compare` first, or name the folder with its *.json files."
        )
    return tuple(RunResult._from(values, path) for path, values in found.items())


def _is_result(values: Any) -> bool:
    return isinstance(values, dict) and values.get("kind") == KIND


def require_one_experiment(results: Sequence[RunResult]) -> None:
    """Refuse seeds of one variant that differ in more than the seed; settings that one of them lacks are passed over.

    Raises:
        DataError: names two of them, and the setting.
    """
    first: dict[str, RunResult] = {}
    for result in results:
        other = first.setdefault(result.variant, result)
        for section in ("data", "model", "training"):
            for key in differing(section, other, result):
                theirs, ours = (item.config[section][key] for item in (other, result))
                raise DataError(
                    f"{result.variant}: seeds {other.seed} and {result.seed} differ in {section}.{key} "
                    f"({theirs}, {ours}); required: one experiment. Move the cells of the other one away."
                )


def differing(section: str, first: RunResult, second: RunResult) -> list[str]:
    """Settings that both have, with other values; the seed apart, and where the same data may lie elsewhere."""
    ours, theirs = (item.config.get(section) or {} for item in (first, second))
    keys = sorted(ours.keys() & theirs.keys() - {"seed", "path", "val", "test", "name"})
    return [key for key in keys if ours[key] != theirs[key]]
