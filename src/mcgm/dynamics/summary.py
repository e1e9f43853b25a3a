"""What a simulation shows at the end: a paragraph and a figure, from its log."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from mcgm.domain import Domain
from mcgm.dynamics.record import LOG, TRAJECTORY, read_log
from mcgm.dynamics.run import Outcome
from mcgm.dynamics.settings import THERMOSTATS, Settings
from mcgm.files import replacing

FIGURE, SUMMARY = "dynamics.svg", "summary.txt"


def drift(time_fs: np.ndarray, total_eV: np.ndarray, n_atoms: int) -> float | None:
    """Slope of a straight line through the total energy, meV per atom and ps; `None` of fewer than three frames."""
    if len(time_fs) < 3:
        return None
    # centred, as a total energy of 1e5 eV would leave few digits
    time_ps = (time_fs - time_fs.mean()) / 1000
    return float(1000 * (time_ps @ (total_eV - total_eV.mean())) / (time_ps @ time_ps) / n_atoms)


def summarize(folder: Path, outcome: Outcome, settings: Settings, n_atoms: int, *, domain: Domain | None = None) -> str:
    """The paragraph; it and the figure are written to the folder.

    Where matplotlib is not installed, the paragraph says so in place of the figure.
    """
    log = read_log(folder)
    time, temperature = log["time_fs"], log["temperature_K"]
    thermostat = THERMOSTATS[settings.thermostat]
    slope = drift(time, log["total_eV"], n_atoms)
    if not thermostat.conserves_energy:
        energy = f"The thermostat ({settings.thermostat}, {settings.friction_per_fs:g}/fs) exchanges energy: no drift."
    elif slope is None:
        energy = "Too few frames for a drift."
    else:
        residual = np.std(log["total_eV"] - log["total_eV"].mean() - slope * n_atoms * (time - time.mean()) / 1e6)
        energy = (
            f"Drift of the total energy {slope:+.3g} meV/atom/ps (linear fit to {len(time)} frames), "
            f"around it {1000 * residual / n_atoms:.2g} meV/atom."
        )
    has_figure = importlib.util.find_spec("matplotlib") is not None
    if has_figure:
        _draw(folder / FIGURE, log)
    no_figure = "; no figure, as matplotlib is not installed (pip install 'mcgm[train]')."
    late = temperature[len(temperature) // 2 :].mean()
    text = (
        f"{n_atoms} atoms, {time[-1] / 1000:g} ps in steps of {settings.timestep_fs:g} fs, velocities "
        f"{outcome.velocities}. {energy} Mean temperature {temperature.mean():.1f} K, of the second half {late:.1f} K "
        "(kinetic energy over 3 N / 2 k, fixed coordinates not counted). "
        f"Neighbours were searched {outcome.rebuilds} times. "
        f"{_spread(log, n_atoms, domain)}"
        f"{folder}: {TRAJECTORY}, {LOG}{f', {FIGURE}.' if has_figure else no_figure}"
    )
    with replacing(folder / SUMMARY) as path:
        path.write_text(text + "\n", encoding="utf-8")
    return text


def _spread(log: dict[str, np.ndarray], n_atoms: int, domain: Domain | None) -> str:
    """A sentence on how far the members of a committee differed; empty for a single network."""
    if "force_spread_eV_per_A" not in log:
        return ""
    forces = log["force_spread_eV_per_A"]
    text = f"Members differ by up to {forces.max():.2g} eV/Å in the force on an atom"
    if domain is None:
        return f"{text}. "
    outside = int(domain.is_left(log["energy_spread_eV"] / n_atoms, forces).sum())
    return f"{text}; {outside} of {len(forces)} frames are out of domain: {domain}. "


def _draw(path: Path, log: dict[str, np.ndarray]) -> None:
    """Energies against those of the first frame, and the temperature, over time."""
    from mcgm.report.drawing import legend, panels, svg_file

    figure, (left, right) = panels(2)
    time = log["time_fs"] / 1000
    for name, color in (("potential", "#2a78d6"), ("kinetic", "#c2571a"), ("total", "#1d7a4d")):
        energy = log[f"{name}_eV"]
        left.plot(time, energy - energy[0], label=name, color=color, linewidth=1.0)
    left.set(xlabel="Time, ps", ylabel="Energy less that of the first frame, eV")
    right.plot(time, log["temperature_K"], color="#5b4bb0", linewidth=1.0)
    right.set(xlabel="Time, ps", ylabel="Temperature, K")
    legend(figure, left)
    with replacing(path) as temporary:
        temporary.write_bytes(svg_file(figure))
