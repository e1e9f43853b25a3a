"""i-PI: path integrals, with the quantum kinetic energy of the nuclei.

    pip install '.[ipi]'
    python examples/with_ipi.py

It runs what you would type into two terminals:

    i-pi input.xml
    i-pi-py_driver -m custom -P "$(python -m mcgm.interfaces.ipi)" -u -a mcgm -o template=template.xyz,model=FILE
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from small_model import FILE, ammonia, small_model

from mcgm.interfaces.ipi import DRIVER_FILE

BEADS, STEPS, TEMPERATURE_K = 4, 10, 300
ADDRESS = f"mcgm-{os.getpid()}"

INPUT = f"""
<simulation verbosity="low">
  <output prefix="ammonia">
    <properties filename="out"> [ step, potential{{electronvolt}}, kinetic_cv{{electronvolt}} ] </properties>
  </output>
  <total_steps> {STEPS} </total_steps>
  <prng><seed> 1 </seed></prng>
  <ffsocket name="mcgm" mode="unix"><address> {ADDRESS} </address></ffsocket>
  <system>
    <initialize nbeads="{BEADS}">
      <file mode="ase"> start.xyz </file>
      <velocities mode="thermal" units="kelvin"> {TEMPERATURE_K} </velocities>
    </initialize>
    <forces><force forcefield="mcgm"/></forces>
    <ensemble><temperature units="kelvin"> {TEMPERATURE_K} </temperature></ensemble>
    <motion mode="dynamics">
      <dynamics mode="nvt">
        <timestep units="femtosecond"> 0.25 </timestep>
        <thermostat mode="pile_g"><tau units="femtosecond"> 20 </tau></thermostat>
      </dynamics>
    </motion>
  </system>
</simulation>
"""


def program(name: str) -> list[str]:
    """A script that was installed beside Python."""
    return [sys.executable, str(Path(sys.executable).with_name(name))]


def main() -> None:
    small_model()  # trains it, if there is none yet

    # i-PI wants a box; the template says which axes are periodic: here none.
    atoms = ammonia()
    atoms.write("template.xyz")
    atoms.set_cell([20, 20, 20])
    atoms.write("start.xyz")
    Path("input.xml").write_text(INPUT)

    with subprocess.Popen([*program("i-pi"), "input.xml"], stdout=subprocess.DEVNULL) as server:
        try:
            while not Path(f"/tmp/ipi_{ADDRESS}").exists() and server.poll() is None:
                time.sleep(0.1)
            options = f"template=template.xyz,model={FILE},precision=double"
            driver = [*program("i-pi-py_driver"), "-m", "custom", "-P", str(DRIVER_FILE), "-u", "-a", ADDRESS]
            subprocess.run([*driver, "-o", options], check=True, stdout=subprocess.DEVNULL)
            server.wait(timeout=60)
        finally:
            server.kill()

    _, _, kinetic = np.loadtxt("ammonia.out", unpack=True)
    classical = 1.5 * len(atoms) * 8.617e-5 * TEMPERATURE_K
    print(f"kinetic energy of the nuclei: {kinetic[STEPS // 2 :].mean():.2f} eV; classical: {classical:.2f} eV")


if __name__ == "__main__":
    main()
