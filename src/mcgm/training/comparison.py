"""Variants x seeds under one budget: cells run in worker processes, finished ones are kept."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from mcgm.errors import ConfigError, DataError, TrainingError, unknown_name
from mcgm.files import LOCK, claimed
from mcgm.report.files import write_whole
from mcgm.report.result import RunResult
from mcgm.training.cell import cell_name, cell_settings, deciding_settings
from mcgm.training.checks import require_sound
from mcgm.training.config import CompareConfig, TrainConfig
from mcgm.training.recipe import as_plain, to_config
from mcgm.training.widening import parameters, widened

Cell = tuple[str, int]

SHOWN = 3
"""Failed cells whose logs are in the message."""


def check(config: CompareConfig) -> None:
    """Refuse a comparison that cannot be run.

    Raises:
        ConfigError: no variants or seeds, a name with odd characters, or a reference that is none of the variants.
    """
    if not config.variants or not config.seeds:
        raise ConfigError("a comparison needs at least one entry in variants and one in seeds.")
    for name in config.variants:
        if not re.fullmatch(r"[A-Za-z0-9_.+-]+", name):
            raise ConfigError(f"variants.{name}: required: a name of letters, digits and _ . + - only.")
        require_sound(config.cell(name, config.seeds[0], ""))
    if len(set(config.seeds)) < len(config.seeds):
        raise ConfigError(f"seeds: required: different ones; got {config.seeds}.")
    wanted = {"reference": config.reference}
    for name, variant in config.variants.items():
        wanted |= {f"variants.{name}.{key}": getattr(variant, key) for key in ("reference", "widened_to")}
    for key, reference in wanted.items():
        if reference is not None and reference not in config.variants:
            raise ConfigError(f"{key}: " + unknown_name("variant", reference, config.variants))
    if config.processes < 1 or config.threads < 1:
        raise ConfigError(f"processes and threads: at least 1; got {config.processes} and {config.threads}.")


def compare(config: CompareConfig, output: Path, console: Console) -> list[RunResult]:
    """Run what is not finished yet, time the variants side by side, and give the results of all cells.

    Results are in `output/cells`, models and logs in `output/runs`.

    Raises:
        ConfigError: see `check`.
        TrainingError: cells failed, after all others are finished; the message has the end of their logs.
    """
    check(config)
    with claimed(output / LOCK, str(output)):
        return _compare(config, output, console)


def _compare(config: CompareConfig, output: Path, console: Console) -> list[RunResult]:
    config = widened(config)
    for name in config.variants:
        _require_buildable(config, name)
    cells = [(variant, seed) for seed in config.seeds for variant in config.variants]
    recipe = output / "recipe.json"
    write_whole(recipe, (json.dumps(as_plain(config), indent=1) + "\n").encode())
    pending = [cell for cell in cells if finished(config, cell, output) is None]
    _require_own(pending, output)
    if len(pending) < len(cells):
        console.print(f"{len(cells) - len(pending)} of {len(cells)} cells are finished already")
    if pending:
        _open_data_once(config)
        _run_all(pending, recipe, config, output, console)
    results = [_as_asked(config, _require(config, cell, output), output) for cell in cells]
    if any(result.inference_ms_per_molecule is None for result in results):
        console.print("timing the variants side by side")
        results = _timed(config, results, output, console)
    return results


def _require_buildable(config: CompareConfig, variant: str) -> None:
    """Meet wrong options before the first training."""
    model = config.cell(variant, config.seeds[0], "").model
    try:
        parameters(model)
    except ConfigError as error:
        raise ConfigError(f"variants.{variant}.model: {error}") from error


def _require_own(pending: list[Cell], output: Path) -> None:
    """Refuse to write over results of another comparison."""
    others = [cell_name(*cell) for cell in pending if (output / "cells" / f"{cell_name(*cell)}.json").exists()]
    if others:
        raise ConfigError(
            f"{output}: has results with other settings or data for {', '.join(others)}. Use another -o; or remove "
            f"{output / 'cells' / others[0]}.json (and the like), and they are run again."
        )


def finished(config: CompareConfig, cell: Cell, output: Path) -> RunResult | None:
    """The result of a cell that was run with the same settings on the same data, if there is one.

    A setting that did not exist when it was run has its default. Data that are no longer there are taken for the same.
    """
    from mcgm.training.preparation import files_of, have_changed

    path = output / "cells" / f"{cell_name(*cell)}.json"
    try:
        result = RunResult.load(path)
        stored = deciding_settings(to_config(result.config, TrainConfig))
    except (ConfigError, DataError):
        return None
    if stored != cell_settings(config, *cell) or have_changed(result.data, files_of(config.data)):
        return None
    return result


def _require(config: CompareConfig, cell: Cell, output: Path) -> RunResult:
    result = finished(config, cell, output)
    if result is None:
        raise TrainingError(f"{cell_name(*cell)}: ended without a result. Run the same command again.")
    return result


def _as_asked(config: CompareConfig, result: RunResult, output: Path) -> RunResult:
    """A result with the label and the reference of now, which no training depends on; kept so where they are others."""
    name = result.variant
    asked = dataclasses.replace(result, label=config.label_of(name), reference=config.reference_of(name))
    if asked != result:
        asked.save(output / "cells" / f"{cell_name(name, result.seed)}.json")
    return asked


def _open_data_once(config: CompareConfig) -> None:
    """Convert the data before the workers start, and meet its errors here."""
    from mcgm.training.preparation import open_parts

    open_parts(config.data)


def _run_all(pending: list[Cell], recipe: Path, config: CompareConfig, output: Path, console: Console) -> None:
    columns = (TextColumn("{task.description:32}"), BarColumn(), TextColumn("{task.fields[errors]}"))
    running: list[subprocess.Popen[str]] = []
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        workers = [_Worker(cell, recipe, output, config, progress, running) for cell in pending]
        with ThreadPoolExecutor(max_workers=config.processes) as pool:
            futures = [pool.submit(worker.run) for worker in workers]
            try:
                failures = [failure for future in futures if (failure := future.result()) is not None]
            except BaseException:
                for future in futures:
                    future.cancel()
                for process in running:
                    process.terminate()
                raise
    if failures:
        raise TrainingError(_failed(failures, len(pending), output))


class _Worker:
    """Runs one cell in a process and shows what it says."""

    def __init__(
        self,
        cell: Cell,
        recipe: Path,
        output: Path,
        config: CompareConfig,
        progress: Progress,
        running: list[subprocess.Popen[str]],
    ) -> None:
        self.cell, self.recipe, self.output, self.config = cell, recipe, output, config
        self.progress, self.running = progress, running
        variant, seed = cell
        label = config.label_of(variant)
        self.task = progress.add_task(f"{label}, seed {seed}", total=None, errors="waiting", start=False)

    def run(self) -> str | None:
        """Start, follow and wait; how it failed, if it did."""
        variant, seed = self.cell
        name = cell_name(variant, seed)
        self.progress.start_task(self.task)
        self.progress.update(self.task, errors="starting")
        command = [sys.executable, "-m", "mcgm.training.cell", str(self.recipe), variant, str(seed), str(self.output)]
        threads = str(self.config.threads)
        environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        log = self.output / "runs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as stream:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=stream, text=True, env=environment, encoding="utf-8"
            )
            self.running.append(process)
            with process:
                self._follow(process)
        if process.returncode == 0:
            return None
        self.progress.update(self.task, errors="failed")
        end = "\n".join(log.read_text(encoding="utf-8").splitlines()[-8:])
        return f"{name} failed ({_ending(process.returncode)}); {log} ends with:\n{end}"

    def _follow(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                state = json.loads(line)
            except ValueError:
                continue
            force = state["force_mae_mev_per_A"]
            errors = f"val E {state['energy_mae_mev']:6.1f} meV"
            errors += f"  F {force:5.1f} meV/Å" if force is not None else ""
            self.progress.update(self.task, completed=state["step"], total=state["total_steps"], errors=errors)
            if not self.progress.console.is_terminal and state["step"] >= state["total_steps"]:
                self.progress.console.print(f"{self.progress.tasks[self.task].description}: {errors}")


def _failed(failures: Sequence[str], count: int, output: Path) -> str:
    """What went wrong, in full for the first few."""
    lines = [f"{len(failures)} of {count} cells failed; the same command runs what is not finished again."]
    lines += failures[:SHOWN]
    if len(failures) > SHOWN:
        names = ", ".join(failure.partition(" ")[0] for failure in failures[SHOWN:])
        lines.append(f"{names} failed too: see {output / 'runs'}.")
    return "\n\n".join(lines)


def _ending(returncode: int) -> str:
    if returncode >= 0:
        return f"exit status {returncode}"
    hint = "; there may be too little memory: use fewer processes" if -returncode == signal.SIGKILL else ""
    return f"ended by signal {-returncode}{hint}"


def _timed(config: CompareConfig, results: list[RunResult], output: Path, console: Console) -> list[RunResult]:
    """With the speed of every variant that has a model left, of whichever seed."""
    from mcgm.training.timing import measure

    models: dict[str, Path] = {}
    for result in results:
        path = output / "runs" / cell_name(result.variant, result.seed) / "model.safetensors"
        if path.exists():
            models.setdefault(result.variant, path)
    if gone := [name for name in config.variants if name not in models]:
        console.print(f"not timed, as their models are gone from {output / 'runs'}: {', '.join(gone)}")
    speeds = measure(config, models)
    timed = []
    for result in results:
        if result.variant in speeds:
            result = dataclasses.replace(result, **dataclasses.asdict(speeds[result.variant]))
            result.save(output / "cells" / f"{cell_name(result.variant, result.seed)}.json")
        timed.append(result)
    return timed
