"""The figure of `electrostatics.py`, from its stored results alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from mcgm.files import replacing

PAIRS = {
    "CC": "charged – charged",
    "CP": "charged – polar",
    "PP": "polar – polar",
    "CA": "charged – apolar",
    "PA": "polar – apolar",
    "AA": "apolar – apolar",
}
VARIANTS = {"local": "C0", "mcgm": "C1", "charges": "C2", "mcgm_charges": "C3"}
RIVALS = {
    "oriented": "C6",
    "oriented_charges": "k",
    "ewald": "C4",
    "neural_p3m": "C5",
    "range": "C8",
    "neural_atoms": "C9",
}
LABELS = {
    "local": "local",
    "mcgm": "MCGM",
    "oriented": "MCGM + orientations",
    "charges": "charges",
    "mcgm_charges": "both",
    "oriented_charges": "both + orientations",
    "ewald": "Ewald",
    "neural_p3m": "Neural P3M",
    "range": "RANGE",
    "neural_atoms": "Neural Atoms",
}
LABELLED = {"charges_labelled": "C2", "mcgm_charges_labelled": "C3"}


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    """All stored results of a set, seeds in order."""
    stored = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob(f"{name}-*.json")]
    return sorted((cell for cell in stored if cell["set"] == name), key=lambda cell: cell["seed"])


def draw(folder: Path, path: Path) -> None:
    """Binding curves of every pair, and charges along the chain."""
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "mcgm"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 4, figsize=(13, 6.2), layout="constrained")
    dimers, chains = read(folder, "lode"), read(folder, "carbon_chain")
    for axis, pair in zip(axes[:, :3].flat, PAIRS, strict=True):
        _binding(axis, pair, dimers)
    for axis, (charge, title) in zip(axes[:, 3], {"+0": "C$_{10}$H$_2$", "+1": "C$_{10}$H$_3^+$"}.items(), strict=True):
        _profile(axis, charge, title, chains)
    for axis in axes[1, :3]:
        axis.set_xlabel("distance, Å")
    for axis in axes[:, 0]:
        axis.set_ylabel("interaction energy, meV")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
    plt.close(figure)


def _binding(axis: Any, pair: str, cells: list[dict[str, Any]]) -> None:
    """Mean and range over seeds; the part that no training structure reaches is shaded."""
    reference = None
    for variant, colour in (VARIANTS | RIVALS).items():
        curves = [cell["curves"][pair] for cell in cells if cell["variant"] == variant]
        if not curves:
            continue
        reference = curves[0]
        energies = 1000 * np.array([curve["energy"] for curve in curves])
        axis.plot(reference["distance"], energies.mean(0), color=colour, label=LABELS[variant])
        axis.fill_between(
            reference["distance"], energies.min(0), energies.max(0), color=colour, alpha=0.15, linewidth=0
        )
    if reference is None:
        return
    values = 1000 * np.array(reference["reference"])
    axis.plot(reference["distance"], values, "k.", label="reference")
    first = reference["is_test"].index(True)
    axis.axvspan(
        (reference["distance"][first - 1] + reference["distance"][first]) / 2,
        reference["distance"][-1] + 0.3,
        color="0.93",
        zorder=0,
    )
    margin = 0.25 * np.ptp(values) + 5
    axis.set(title=PAIRS[pair], ylim=(values.min() - margin, values.max() + margin))


def _profile(axis: Any, charge: str, title: str, cells: list[dict[str, Any]]) -> None:
    """Charges of the carbon atoms: dashed where they are latent, solid where they were trained on."""
    profile = None
    for style, variants in (("--", VARIANTS), ("-", LABELLED)):
        for variant, colour in variants.items():
            found = [cell["curves"][charge] for cell in cells if cell["variant"] == variant]
            if found and "charges" in found[0]:
                profile = found[0]
                mean = np.mean([profile["charges"] for profile in found], axis=0)
                axis.plot(range(1, len(mean) + 1), mean, style, color=colour)
    if profile is not None:
        axis.plot(range(1, len(profile["reference"]) + 1), profile["reference"], "k.")
    axis.set(title=title, ylabel="charge, e")
    axis.set_xlabel("carbon atom along the chain")
