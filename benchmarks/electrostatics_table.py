"""The table of `docs/electrostatics.md`, from the stored results of `electrostatics.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from electrostatics_figure import PAIRS, read

COLUMNS = {
    "local": "local",
    "mcgm": "MCGM",
    "oriented": "MCGM + orientations",
    "charges": "charges",
    "mcgm_charges": "both",
    "oriented_charges": "both + orientations",
    "charges_labelled": "charges, labels in the loss",
    "mcgm_charges_labelled": "both, labels in the loss",
    "ewald": "Ewald",
    "neural_p3m": "Neural P3M",
    "range": "RANGE",
    "neural_atoms": "Neural Atoms",
}
SETS = {
    "lode": "Dimers",
    "carbon_chain": "Carbon chains",
    "des15k": "DES15K dimers",
    "spice": "Dipeptides",
    "pubchem": "PubChem molecules",
}
QUANTITIES = {
    "energy_mev_rmse": "energy, meV",
    "force_mev_per_A_rmse": "forces, meV/Å",
    "charge_me_rmse": "charges, me",
    "charge_correlation": "charges, correlation",
    "dipole_meA_rmse": "dipole, meÅ",
}


def table(folder: Path) -> str:
    """Root mean square errors on the test parts; what a variant does not predict, or was not run, is a dash."""
    known = {cell["variant"] for name in SETS for cell in read(folder, name)}
    columns = {variant: title for variant, title in COLUMNS.items() if variant in known}
    lines = ["| | " + " | ".join(columns.values()) + " |", "|---|" + "---:|" * len(columns)]
    notes = []
    for name, title in SETS.items():
        cells = read(folder, name)
        if not cells:
            continue
        rows: dict[str, Any] = {label: _errors(key) for key, label in QUANTITIES.items()}
        if name == "lode":
            rows = {f"{text}, energy, meV": _pair(pair) for pair, text in PAIRS.items()} | {
                "forces, meV/Å": rows["forces, meV/Å"]
            }
        for label, of_cell in rows.items():
            entries = [
                _entry([of_cell(cell) for cell in cells if cell["variant"] == variant], label) for variant in columns
            ]
            if set(entries) != {"–"}:
                lines.append(f"| {title}: {label} | " + " | ".join(entries) + " |")
        notes.append(_note(title, cells))
    today = (
        "These commands belong to the commits named; today: `mcgm compare configs/electrostatics/NAME.yaml -o "
        "runs/NAME`, then `python benchmarks/electrostatics.py runs/NAME`."
    )
    return "\n".join([*lines, "", " ".join([*notes, today])])


def _errors(key: str) -> Any:
    return lambda cell: cell["errors"].get(key)


def _pair(pair: str) -> Any:
    """Error of one pair's energies at the distances that were not trained on, meV."""

    def of(cell: dict[str, Any]) -> float:
        curve = cell["curves"][pair]
        difference = np.array(curve["energy"]) - np.array(curve["reference"])
        return 1000 * float(np.sqrt(np.square(difference[curve["is_test"]]).mean()))

    return of


def _entry(values: list[float | None], label: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    digits = 3 if "correlation" in label else max(0, 2 - int(np.floor(np.log10(max(map(abs, known))))))
    error = np.std(known, ddof=1) / np.sqrt(len(known)) if len(known) > 1 else None
    spread = "" if error is None else f" ± {error:.{digits}f}"
    return f"{np.mean(known):.{digits}f}{spread}"


def _note(title: str, cells: list[dict[str, Any]]) -> str:
    first = cells[0]
    seeds = len({cell["seed"] for cell in cells})
    settings = first["settings"]
    many = f"mean ± standard error over {seeds} seeds" if seeds > 1 else "one seed"
    model, tested = settings["model"], first["errors"]["structures"]
    return (
        f"{title}: {model['backbone']}, cutoff {model['cutoff']:g} Å, {first['epochs']} epochs, tested on {tested} "
        f"structures, {many}. {_commands(cells)}."
    )


def _commands(cells: list[dict[str, Any]]) -> str:
    """What made the cells, each command with the commits that it ran at."""
    made: dict[str, set[str]] = {}
    for cell in cells:
        made.setdefault(cell["provenance"]["command"], set()).add(cell["provenance"]["commit"])
    return "; ".join(f"`{command}`, commit {' and '.join(sorted(made[command]))}" for command in sorted(made))
