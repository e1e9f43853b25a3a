"""OpenMM: a molecule alone at constant energy, then in water, with the molecule learnt and the water a force field.

pip install '.[openmm]'
python examples/with_openmm.py
"""

from __future__ import annotations

import io

import numpy as np
import openmm
from openmm import app, unit
from openmmml import MLPotential
from small_model import FILE, ammonia, small_model

STEPS, TIMESTEP_FS, TEMPERATURE_K = 50, 0.5, 300

AMMONIA = """
<ForceField>
  <AtomTypes>
    <Type name="NH3-N" class="NH3-N" element="N" mass="14.007"/>
    <Type name="NH3-H" class="NH3-H" element="H" mass="1.008"/>
  </AtomTypes>
  <Residues>
    <Residue name="NH3">
      <Atom name="N" type="NH3-N"/>
      <Atom name="H1" type="NH3-H"/> <Atom name="H2" type="NH3-H"/> <Atom name="H3" type="NH3-H"/>
      <Bond atomName1="N" atomName2="H1"/> <Bond atomName1="N" atomName2="H2"/> <Bond atomName1="N" atomName2="H3"/>
    </Residue>
  </Residues>
  <NonbondedForce coulomb14scale="0.833333" lj14scale="0.5">
    <Atom type="NH3-N" charge="-1.02" sigma="0.342" epsilon="0.71"/>
    <Atom type="NH3-H" charge="0.34" sigma="0.1" epsilon="0.0"/>
  </NonbondedForce>
</ForceField>
"""
"""How ammonia meets the water around it; bonds and angles within it are the model's."""


def topology() -> app.Topology:
    """Ammonia as OpenMM knows it."""
    made = app.Topology()
    residue = made.addResidue("NH3", made.addChain())
    nitrogen = made.addAtom("N", app.element.nitrogen, residue)
    for name in ("H1", "H2", "H3"):
        made.addBond(nitrogen, made.addAtom(name, app.element.hydrogen, residue))
    return made


def simulation(top: app.Topology, system: openmm.System, positions: object) -> app.Simulation:
    """At constant energy, relaxed, with velocities of the temperature."""
    integrator = openmm.VerletIntegrator(TIMESTEP_FS * unit.femtosecond)
    platform = openmm.Platform.getPlatformByName("CPU")
    made = app.Simulation(top, system, integrator, platform, {"Threads": "1"})
    made.context.setPositions(positions)
    made.minimizeEnergy(maxIterations=20)
    made.context.setVelocitiesToTemperature(TEMPERATURE_K, 1)
    return made


def total_energy(running: app.Simulation) -> float:
    """kJ/mol."""
    state = running.context.getState(getEnergy=True)
    return (state.getPotentialEnergy() + state.getKineticEnergy()).value_in_unit(unit.kilojoule_per_mole)


def main() -> None:
    small_model()  # trains it, if there is none yet
    potential = MLPotential("mcgm", modelPath=FILE, precision="double")

    # 1. The molecule alone. `charge` and `spin` would be given to createSystem.
    positions = ammonia().positions * unit.angstrom
    alone = simulation(topology(), potential.createSystem(topology()), positions)
    total = []
    for _ in range(STEPS):
        alone.step(1)
        total.append(total_energy(alone))
    print(f"alone: total energy {np.mean(total):.1f} kJ/mol, spread {np.std(total):.3f} kJ/mol")
    assert np.std(total) < 0.2

    # 2. In water: the model within the molecule, TIP3P and the charges above for all else.
    forcefield = app.ForceField("tip3p.xml", io.StringIO(AMMONIA))
    modeller = app.Modeller(topology(), positions)
    modeller.addSolvent(forcefield, boxSize=openmm.Vec3(2, 2, 2) * unit.nanometer)
    water = forcefield.createSystem(
        modeller.topology, nonbondedMethod=app.PME, nonbondedCutoff=0.9 * unit.nanometer, constraints=app.HBonds
    )
    mixed = potential.createMixedSystem(modeller.topology, water, range(4))
    dissolved = simulation(modeller.topology, mixed, modeller.positions)
    before = total_energy(dissolved)
    dissolved.step(STEPS)
    atoms, change = modeller.topology.getNumAtoms(), total_energy(dissolved) - before
    print(f"in water: {atoms} atoms, 4 of them learnt; total energy changed by {change / atoms:.4f} kJ/mol per atom")
    assert abs(change) / atoms < 0.05


if __name__ == "__main__":
    main()
