"""OpenMM: the calculator's numbers in its units, alone and mixed with a force field."""

import copy
import io
from importlib import metadata

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule

from mcgm.errors import CheckpointError, ConfigError, StructureError
from mcgm.interfaces.ase import MCGMCalculator
from mcgm.units import KJ_PER_MOL

openmm = pytest.importorskip("openmm", reason="OpenMM is not installed: pip install 'mcgm[openmm]'")
openmmml = pytest.importorskip("openmmml", reason="openmmml is not installed: pip install 'mcgm[openmm]'")

from openmm import app  # noqa: E402

from mcgm.interfaces.openmm import MCGMPotentialFactory, python_force  # noqa: E402

NM, PS = 0.1, 1e-3
"""An Å and a fs in OpenMM's units."""
VELOCITY = NM / PS * units.fs
"""ASE's unit of velocity in nm/ps."""

AMMONIA_IN_WATER = """
<ForceField>
  <AtomTypes>
    <Type name="N" class="N" element="N" mass="14.007"/><Type name="HN" class="HN" element="H" mass="1.008"/>
    <Type name="O" class="O" element="O" mass="15.999"/><Type name="HO" class="HO" element="H" mass="1.008"/>
  </AtomTypes>
  <Residues>
    <Residue name="NH3">
      <Atom name="N" type="N"/><Atom name="H1" type="HN"/><Atom name="H2" type="HN"/><Atom name="H3" type="HN"/>
      <Bond atomName1="N" atomName2="H1"/><Bond atomName1="N" atomName2="H2"/><Bond atomName1="N" atomName2="H3"/>
    </Residue>
    <Residue name="HOH">
      <Atom name="O" type="O"/><Atom name="H1" type="HO"/><Atom name="H2" type="HO"/>
      <Bond atomName1="O" atomName2="H1"/><Bond atomName1="O" atomName2="H2"/>
    </Residue>
  </Residues>
  <HarmonicBondForce>
    <Bond class1="N" class2="HN" length="0.1014" k="300000"/><Bond class1="O" class2="HO" length="0.097" k="400000"/>
  </HarmonicBondForce>
  <NonbondedForce coulomb14scale="0.8" lj14scale="0.5">
    <Atom type="N" charge="-0.9" sigma="0.34" epsilon="0.7"/><Atom type="HN" charge="0.3" sigma="0.1" epsilon="0.05"/>
    <Atom type="O" charge="-0.8" sigma="0.31" epsilon="0.6"/><Atom type="HO" charge="0.4" sigma="0.1" epsilon="0.05"/>
  </NonbondedForce>
</ForceField>
"""


def topology_of(atoms):
    topology = app.Topology()
    residue = topology.addResidue("ALL", topology.addChain())
    for symbol in atoms.symbols:
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
    if atoms.pbc.any():
        topology.setPeriodicBoxVectors(atoms.cell[:] * NM * openmm.unit.nanometer)
    return topology


def context_of(system, positions, platform="Reference"):
    context = openmm.Context(system, openmm.VerletIntegrator(0.0005), openmm.Platform.getPlatformByName(platform))
    context.setPositions(positions * NM)
    return context


def results(context, **groups):
    """Energy (eV), forces (eV/Å)."""
    state = context.getState(getEnergy=True, getForces=True, **groups)
    return state.getPotentialEnergy()._value * KJ_PER_MOL, state.getForces(asNumpy=True)._value * KJ_PER_MOL * NM


def ml_potential(potential, **options):
    return openmmml.MLPotential("mcgm", modelPath=potential, **options)


@pytest.fixture(scope="module", autouse=True)
def registered():
    """What the entry point does for an installed mcgm."""
    openmmml.MLPotential.registerImplFactory("mcgm", MCGMPotentialFactory())


def test_openmmml_finds_the_entry_point():
    found = {entry.name: entry.value for entry in metadata.entry_points(group="openmmml.potentials")}
    assert found.get("mcgm") == "mcgm.interfaces.openmm:MCGMPotentialFactory"


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
@pytest.mark.parametrize("kind", ["dipeptide", "crystal"])
def test_energy_and_forces_are_those_of_the_calculator(kind, platform, smooth_potential, reference):
    expected = reference(kind)
    atoms = expected.start
    options = {"charge": atoms.info["charge"], "spin": atoms.info["spin"]}
    system = ml_potential(smooth_potential).createSystem(topology_of(atoms), **options)
    energy, forces = results(context_of(system, atoms.positions, platform))
    assert energy == pytest.approx(expected.energy, abs=1e-7)
    np.testing.assert_allclose(forces, expected.forces, rtol=0, atol=1e-7)
    assert system.usesPeriodicBoundaryConditions() == (kind == "crystal")
    assert np.abs(expected.forces).max() > 0.05


def test_a_barostat_sees_the_energy_of_the_new_box(crystal, smooth_potential):
    context = context_of(ml_potential(smooth_potential).createSystem(topology_of(crystal)), crystal.positions)
    before = results(context)[0]
    crystal.set_cell(crystal.cell[:] * 1.02, scale_atoms=True)
    context.setPeriodicBoxVectors(*(crystal.cell[:] * NM))
    context.setPositions(crystal.positions * NM)
    crystal.calc = MCGMCalculator(smooth_potential)
    assert results(context)[0] == pytest.approx(crystal.get_potential_energy(), abs=1e-7)
    assert abs(results(context)[0] - before) > 1e-3


@pytest.mark.parametrize("kind", ["dipeptide", "crystal"])
def test_dynamics_is_that_of_ase_and_conserves_energy(kind, smooth_potential, reference):
    expected = reference(kind)
    atoms = expected.start
    charge = {"charge": atoms.info["charge"], "spin": atoms.info["spin"]}
    system = ml_potential(smooth_potential, **charge).createSystem(topology_of(atoms), removeCMMotion=False)
    for k, mass in enumerate(expected.masses):
        system.setParticleMass(k, mass)
    context = context_of(system, atoms.positions)
    # OpenMM's velocities are those of half a step earlier
    half = expected.forces / expected.masses[:, None] * 0.25 * units.fs
    context.setVelocities((expected.velocities - half) * VELOCITY)
    total = []
    for positions in expected.positions[1:]:
        context.getIntegrator().step(1)
        state = context.getState(getPositions=True, getEnergy=True)
        np.testing.assert_allclose(state.getPositions(asNumpy=True)._value / NM, positions, rtol=0, atol=1e-6)
        total.append((state.getPotentialEnergy() + state.getKineticEnergy())._value * KJ_PER_MOL)
    expected.assert_conserves(total)


@pytest.fixture
def solution():
    """An ammonia molecule among two of water: topology, positions (Å), force field."""
    atoms = molecule("NH3")
    for shift in ([3.2, 0.3, 0.5], [-1.0, 3.4, -0.4]):
        water = molecule("H2O")
        water.positions += shift
        atoms += water
    topology = app.Topology()
    chain = topology.addChain()
    for name, symbols in (("NH3", "NHHH"), ("HOH", "OHH"), ("HOH", "OHH")):
        residue, hydrogens, heavy = topology.addResidue(name, chain), 0, None
        for symbol in symbols:
            hydrogens += symbol == "H"
            label = symbol if symbol != "H" else f"H{hydrogens}"
            atom = topology.addAtom(label, app.Element.getBySymbol(symbol), residue)
            heavy = heavy or atom
            if atom is not heavy:
                topology.addBond(heavy, atom)
    return topology, atoms.positions, app.ForceField(io.StringIO(AMMONIA_IN_WATER))


def ammonia_alone(positions, potential, **info):
    atoms = Atoms("NH3", positions=positions[:4], info=info, calculator=MCGMCalculator(potential))
    return atoms.get_potential_energy(), atoms.get_forces()


@pytest.mark.parametrize("interpolate", [False, True])
def test_a_mixed_system_replaces_what_the_force_field_says_within_the_chosen_atoms(
    solution, smooth_potential, interpolate
):
    topology, positions, forcefield = solution
    whole = forcefield.createSystem(topology, constraints=None, rigidWater=False)
    alone = app.Topology()
    residue = alone.addResidue("NH3", alone.addChain())
    atoms = [alone.addAtom(name, app.Element.getBySymbol(name[0]), residue) for name in ("N", "H1", "H2", "H3")]
    for hydrogen in atoms[1:]:
        alone.addBond(atoms[0], hydrogen)
    guest = forcefield.createSystem(alone, constraints=None, rigidWater=False)
    mixed = ml_potential(smooth_potential).createMixedSystem(
        topology, whole, range(4), charge=-1.0, interpolate=interpolate
    )
    energy, forces = results(context_of(mixed, positions))
    learnt, learnt_forces = ammonia_alone(positions, smooth_potential, charge=-1.0)
    all_mm, all_forces = results(context_of(whole, positions))
    guest_mm, guest_forces = results(context_of(guest, positions[:4]))
    assert energy == pytest.approx(all_mm - guest_mm + learnt, abs=1e-6)
    all_forces = all_forces.copy()
    all_forces[:4] += learnt_forces - guest_forces
    np.testing.assert_allclose(forces, all_forces, rtol=0, atol=1e-6)
    if interpolate:
        context = context_of(mixed, positions)
        context.setParameter("lambda_interpolate", 0.0)
        assert results(context)[0] == pytest.approx(all_mm, abs=1e-6)


def test_bonds_that_are_cut_are_capped_and_forces_stay_the_slope_of_the_energy(solution, smooth_potential):
    """One O-H bond of water crosses: the atoms chosen get a hydrogen on it, whose force goes to the bond's ends."""
    topology, positions, forcefield = solution
    whole = forcefield.createSystem(topology, constraints=None, rigidWater=False)
    mixed = ml_potential(smooth_potential).createMixedSystem(topology, whole, [0, 1, 2, 3, 4, 5], returnInfo=True)
    sites = np.vstack([positions, np.zeros((mixed["system"].getNumParticles() - len(positions), 3))])
    assert len(sites) == len(positions) + 1
    context = context_of(mixed["system"], sites)
    context.computeVirtualSites()
    forces = results(context)[1]
    for atom, axis in ((4, 0), (6, 2)):
        energies = []
        for move in (1e-3, -1e-3):
            moved = sites.copy()
            moved[atom, axis] += move
            context.setPositions(moved * NM)
            context.computeVirtualSites()
            energies.append(results(context)[0])
        assert (energies[1] - energies[0]) / 2e-3 == pytest.approx(forces[atom, axis], abs=1e-4)


def test_only_charges_reach_all_images(smooth_potential, charged_potential):
    assert ml_potential(charged_potential)._impl.getMLLongRange() is True
    assert ml_potential(smooth_potential)._impl.getMLLongRange() is False


def test_a_mixed_system_is_periodic_where_the_force_field_is(solution, smooth_potential):
    topology, _, forcefield = solution
    topology.setUnitCellDimensions([2.0, 2.0, 2.0])
    for method, periodic in ((app.NoCutoff, False), (app.CutoffPeriodic, True)):
        whole = forcefield.createSystem(topology, nonbondedMethod=method, constraints=None, rigidWater=False)
        mixed = ml_potential(smooth_potential).createMixedSystem(topology, whole, range(4))
        force = next(force for force in mixed.getForces() if isinstance(force, openmm.PythonForce))
        assert force.usesPeriodicBoundaryConditions() == periodic


def test_openmm_alone_is_enough_for_a_force(dipeptide, model_file, reference):
    expected = reference("dipeptide")
    system = openmm.System()
    for mass in dipeptide.get_masses():
        system.addParticle(mass)
    force = python_force(model_file, dipeptide.numbers, periodic=False, charge=1.0, multiplicity=2, precision="double")
    system.addForce(force)
    assert results(context_of(system, dipeptide.positions))[0] == pytest.approx(expected.energy, abs=1e-7)


def test_openmmmls_way_to_any_ase_calculator_gives_the_same(dipeptide, smooth_potential, reference):
    calculator = MCGMCalculator(smooth_potential)
    system = openmmml.MLPotential("ase").createSystem(
        topology_of(dipeptide), calculator=calculator, info=dict(dipeptide.info)
    )
    energy = results(context_of(system, dipeptide.positions))[0]
    assert energy == pytest.approx(reference("dipeptide").energy, abs=1e-6)


def test_precision_may_be_chosen(dipeptide, smooth_potential):
    energies = {}
    for name in ("single", "double"):
        system = ml_potential(smooth_potential, precision=name).createSystem(topology_of(dipeptide))
        energies[name] = results(context_of(system, dipeptide.positions))[0]
    assert energies["single"] == pytest.approx(energies["double"], abs=1e-4)
    assert energies["single"] != energies["double"]


def test_a_system_written_as_xml_holds_no_potential_and_says_so(dipeptide, smooth_potential, monkeypatch):
    system = ml_potential(smooth_potential).createSystem(topology_of(dipeptide))
    again = copy.deepcopy(system)
    assert results(context_of(again, dipeptide.positions)) is not None
    text = openmm.XmlSerializer.serialize(system)
    assert len(text) < 20_000
    monkeypatch.setattr("mcgm.interfaces.openmm._Computation._alive", {})  # as in another process
    context = context_of(openmm.XmlSerializer.deserialize(text), dipeptide.positions)
    with pytest.raises(Exception, match="Make it anew with MLPotential"):
        results(context)


def test_jumps_must_be_asked_for(dipeptide, jumping_potential):
    topology = topology_of(dipeptide)
    with pytest.raises(ConfigError, match="allow_discontinuous"):
        ml_potential(jumping_potential).createSystem(topology)
    ml_potential(jumping_potential, clusters="frozen").createSystem(topology)
    ml_potential(jumping_potential).createSystem(topology, allow_discontinuous=True)


def test_errors_of_the_potential_stop_the_simulation_with_their_message(dipeptide, smooth_potential):
    context = context_of(ml_potential(smooth_potential).createSystem(topology_of(dipeptide)), dipeptide.positions)
    moved = dipeptide.positions.copy()
    moved[1] = moved[0]
    context.setPositions(moved * NM)
    with pytest.raises(Exception, match="atoms 0 and 1"):
        results(context)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"presision": "single"}, "Did you mean 'precision'"),
        ({"precision": "half"}, "'single' or 'double'"),
        ({"spin": 1, "multiplicity": 2}, "one number in two ways"),
    ],
)
def test_wrong_options_are_named(dipeptide, smooth_potential, options, message):
    with pytest.raises(ConfigError, match=message):
        ml_potential(smooth_potential, **options).createSystem(topology_of(dipeptide))


def test_misspelt_options_of_a_system_are_named(dipeptide, smooth_potential):
    with pytest.raises(ConfigError, match="Did you mean 'charge'"):
        ml_potential(smooth_potential).createSystem(topology_of(dipeptide), charges=1)


def test_particles_are_one_for_each_number_in_their_order(crystal, smooth_potential):
    chosen = [6, 1, 4]
    expected = crystal[chosen]
    expected.pbc = False
    expected.calc = MCGMCalculator(smooth_potential)
    system = openmm.System()
    for mass in crystal.get_masses():
        system.addParticle(mass)
    system.addForce(python_force(smooth_potential, expected.numbers, periodic=False, particles=chosen))
    context = openmm.Context(system, openmm.VerletIntegrator(0.001))
    context.setPositions(crystal.positions / 10)
    forces = context.getState(getForces=True).getForces(asNumpy=True)._value * KJ_PER_MOL / 10
    np.testing.assert_allclose(forces[chosen], expected.get_forces(), atol=1e-5)
    for wrong in ([6, 1], [6, 1, 1], [-1, 1, 4]):
        with pytest.raises(ConfigError, match="one for each of the 3 atomic numbers"):
            python_force(smooth_potential, expected.numbers, periodic=False, particles=wrong)


def test_files_and_atoms_that_will_not_do_are_refused(dipeptide, tmp_path, smooth_potential):
    (tmp_path / "text.safetensors").write_text("no model")
    with pytest.raises(CheckpointError, match=r"text\.safetensors"):
        ml_potential(tmp_path / "text.safetensors")
    with pytest.raises(ConfigError, match="needs modelPath"):
        openmmml.MLPotential("mcgm")
    topology = topology_of(dipeptide)
    next(topology.atoms()).element = None
    with pytest.raises(StructureError, match=r"atom 0 .* has no element"):
        ml_potential(smooth_potential).createSystem(topology)
