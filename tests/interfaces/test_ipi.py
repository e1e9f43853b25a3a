"""i-PI: the driver's numbers in its units, inside i-PI and over a socket."""

import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase import units
from ase.io import read

import mcgm.interfaces.ipi
from mcgm.errors import ConfigError, DataError
from mcgm.interfaces.ipi import DRIVER_FILE, MCGMDriver

pytest.importorskip("ipi", reason="i-PI is not installed: pip install 'mcgm[ipi]'")

from ipi.pes import load_pes
from ipi.utils.units import unit_to_internal

STEPS, TIMESTEP_FS = 20, 0.5
ANGSTROM, ELECTRONVOLT = unit_to_internal("length", "angstrom", 1.0), unit_to_internal("energy", "electronvolt", 1.0)


@pytest.fixture
def template(tmp_path):
    def write(atoms):
        path = tmp_path / "template.xyz"
        atoms.write(path, format="extxyz")
        return path

    return write


@pytest.mark.parametrize("kind", ["dipeptide", "crystal"])
def test_energy_forces_and_virial_are_those_of_the_calculator(kind, smooth_potential, reference, template):
    expected = reference(kind)
    atoms = expected.start
    driver = MCGMDriver(template(atoms), smooth_potential)
    cell = (atoms.cell[:] if atoms.pbc.any() else np.eye(3) * 50).T * ANGSTROM
    energy, forces, virial, extras = driver(cell, atoms.positions * ANGSTROM)
    assert energy / ELECTRONVOLT == pytest.approx(expected.energy, abs=1e-9)
    np.testing.assert_allclose(forces / ELECTRONVOLT * ANGSTROM, expected.forces, rtol=0, atol=1e-9)
    stress = expected.stress if atoms.pbc.any() else np.zeros((3, 3))
    np.testing.assert_allclose(virial / ELECTRONVOLT, -stress * atoms.cell.volume, rtol=0, atol=1e-9)
    assert extras == ""
    assert (np.abs(virial).max() > 1e-3) == (kind == "crystal")


def test_the_units_are_the_atomic_ones():
    assert pytest.approx(1 / units.Bohr, rel=1e-7) == ANGSTROM
    assert pytest.approx(1 / units.Hartree, rel=2e-7) == ELECTRONVOLT


def test_several_beads_are_computed_in_one_call(dipeptide, smooth_potential, template):
    driver = MCGMDriver(template(dipeptide), smooth_potential)
    cell, beads = np.eye(3) * 50, [dipeptide.positions * ANGSTROM, (dipeptide.positions * 1.01) * ANGSTROM]
    together = driver([cell, cell], beads)
    for (energy, forces, _, _), bead in zip(together, beads, strict=True):
        alone = driver(cell, bead)
        assert energy == pytest.approx(alone[0], abs=1e-12)
        np.testing.assert_allclose(forces, alone[1], rtol=0, atol=1e-12)


def test_charge_and_spin_are_those_of_the_template_or_of_the_parameters(dipeptide, model_file, template):
    path, energies = template(dipeptide), []
    for options in ({}, {"charge": 1.0, "spin": 1.0}, {"charge": 0, "spin": 0}):
        driver = MCGMDriver(template=path, model=model_file, **options)
        energies.append(driver(np.eye(3) * 50, dipeptide.positions * ANGSTROM)[0])
    assert energies[0] == energies[1]
    assert abs(energies[2] - energies[0]) > 1e-5


def test_charges_and_dipole_are_sent_along(dipeptide, charged_potential, template):
    extras = json.loads(
        MCGMDriver(template(dipeptide), charged_potential)(np.eye(3), dipeptide.positions * ANGSTROM)[3]
    )
    assert sum(extras["charges"]) == pytest.approx(1.0)
    arm = (dipeptide.positions - dipeptide.get_center_of_mass()) * ANGSTROM
    np.testing.assert_allclose(extras["dipole"], np.array(extras["charges"]) @ arm, atol=1e-9)


def test_precision_and_clusters_may_be_chosen(dipeptide, smooth_potential, jumping_potential, template):
    path = template(dipeptide)
    energies = [
        MCGMDriver(path, smooth_potential, precision=name)(np.eye(3), dipeptide.positions * ANGSTROM)[0]
        for name in ("single", "double")
    ]
    assert energies[0] == pytest.approx(energies[1], abs=1e-5)
    assert energies[0] != energies[1]
    with pytest.raises(ConfigError, match="allow_discontinuous"):
        MCGMDriver(path, jumping_potential)
    assert MCGMDriver(path, jumping_potential, clusters="frozen").calculator.clusters.is_smooth


def test_what_will_not_do_is_refused(dipeptide, smooth_potential, template, tmp_path):
    path = template(dipeptide)
    with pytest.raises(ConfigError, match=r"template=FILE.*model=FILE"):
        MCGMDriver()
    with pytest.raises(ConfigError, match="Did you mean 'charge'"):
        MCGMDriver(path, smooth_potential, charges=1)
    with pytest.raises(DataError, match=r"nothing\.xyz"):
        MCGMDriver(tmp_path / "nothing.xyz", smooth_potential)
    with pytest.raises(DataError, match="sends 3 atoms; the template of the driver has 22"):
        MCGMDriver(path, smooth_potential)(np.eye(3), np.zeros((3, 3)))


INPUT = """
<simulation verbosity="low">
  <output prefix="run">
    <properties filename="out"> [ step, potential{electronvolt}, kinetic_md{electronvolt}, virial_md ] </properties>
    <trajectory filename="pos" format="ase" stride="1"> positions </trajectory>
  </output>
  <total_steps> STEPS </total_steps>
  <ffsocket name="mcgm" mode="unix"><address> ADDRESS </address></ffsocket>
  <system>
    <initialize nbeads="1">
      <file mode="ase"> start.xyz </file>
      <masses mode="manual" units="dalton"> MASSES </masses>
      <velocities mode="manual"> VELOCITIES </velocities>
    </initialize>
    <forces><force forcefield="mcgm"/></forces>
    <motion mode="dynamics"><fixcom> False </fixcom>
      <dynamics mode="nve"><timestep units="femtosecond"> TIMESTEP </timestep></dynamics></motion>
  </system>
</simulation>
"""


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # which the stock driver leaves
@pytest.mark.parametrize("kind", ["dipeptide", "crystal"])
def test_dynamics_over_a_socket_is_that_of_ase_and_conserves_energy(
    kind, model_file, reference, template, tmp_path, monkeypatch
):
    """i-PI in a process of its own; its stock driver, which loads ours by path, in this one."""
    expected = reference(kind)
    start = expected.start.copy()
    if not start.pbc.any():
        start.set_cell(np.eye(3) * 50)
    start.write(tmp_path / "start.xyz", format="extxyz")
    femtosecond = unit_to_internal("time", "femtosecond", 1.0)
    address = f"mcgm-test-{os.getpid()}"
    values = {
        "STEPS": STEPS,
        "ADDRESS": address,
        "MASSES": expected.masses.tolist(),
        "VELOCITIES": (expected.velocities * units.fs * ANGSTROM / femtosecond).ravel().tolist(),
        "TIMESTEP": TIMESTEP_FS,
    }
    text = INPUT
    for word, value in values.items():
        text = text.replace(word, str(value))
    (tmp_path / "input.xml").write_text(text)
    command = [sys.executable, script("i-pi"), "input.xml"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:
        try:
            wait_for(Path(f"/tmp/ipi_{address}"), server)
            options = f"template={template(expected.start)},model={model_file}"
            arguments = ["-m", "custom", "-P", str(DRIVER_FILE), "-u", "-a", address, "-o", options]
            monkeypatch.setattr(sys, "argv", ["i-pi-py_driver", *arguments])
            runpy.run_path(script("i-pi-py_driver"), run_name="__main__")
            output, _ = server.communicate(timeout=120)
        finally:
            server.kill()
    assert server.returncode == 0, output.decode()
    step, potential, kinetic, *virial = np.loadtxt(tmp_path / "run.out", unpack=True)
    assert step.tolist() == list(range(STEPS + 1))
    assert potential[0] == pytest.approx(expected.energy, rel=1e-6)
    if kind == "crystal":
        xx, yy, zz, xy, xz, yz = np.array(virial)[:, 0] * ANGSTROM**3 / ELECTRONVOLT
        np.testing.assert_allclose([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]], -expected.stress, rtol=1e-5, atol=1e-7)
    frames = read(tmp_path / "run.pos_0.extxyz", ":")
    for frame, positions in zip(frames, expected.positions, strict=True):
        np.testing.assert_allclose(frame.positions, positions, rtol=0, atol=1e-5)
    expected.assert_conserves(potential + kinetic)


def script(name):
    return str(Path(sys.executable).with_name(name))


def wait_for(path, process):
    for _ in range(1200):
        if path.exists() or process.poll() is not None:
            return
        time.sleep(0.1)


def test_ipi_loads_the_driver_by_its_path_as_it_does_within_its_own_process(dipeptide, model_file, template):
    driver = load_pes("custom", str(DRIVER_FILE))(template=template(dipeptide), model=model_file, verbosity="high")
    assert driver(np.eye(3), dipeptide.positions * ANGSTROM)[1].shape == (22, 3)


def test_the_path_that_ipi_needs_is_printed(capsys):
    runpy.run_path(mcgm.interfaces.ipi.__file__, run_name="__main__")
    assert Path(capsys.readouterr().out.strip()) == DRIVER_FILE
    assert DRIVER_FILE.is_file()
