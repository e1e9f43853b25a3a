import io
import json
from itertools import islice

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from rich.console import Console

from mcgm.data import Labels, open_structures
from mcgm.data.commands import convert_command, inspect_command
from mcgm.data.inspect import inspect
from mcgm.data.writers import write_extxyz
from mcgm.structure import Structure
from mcgm.units import HARTREE

NAMES = (
    "H2O",
    "CH4",
    "NH3",
    "CH3OH",
    "C2H6",
    "C2H4",
    "H2CO",
    "HCN",
    "N2H4",
    "H2O2",
    "CH3CHO",
    "C6H6",
    "CO2",
    "N2",
    "HCOOH",
)
TOTAL = {1: -0.6 * HARTREE, 6: -38.0 * HARTREE, 7: -54.7 * HARTREE, 8: -75.2 * HARTREE}


@pytest.fixture
def sound():
    """Thirty structures of fifteen molecules, with energies of a harmonic well and their forces."""
    random = np.random.default_rng(0)
    items = []
    for name in NAMES:
        atoms: Atoms = molecule(name)
        for _ in range(4):
            shift = random.normal(size=(len(atoms), 3)) * 0.05
            shift -= shift.mean(axis=0)
            items.append(
                Structure(
                    numbers=atoms.numbers,
                    positions=atoms.positions + shift,
                    energy=sum(TOTAL[z] for z in atoms.numbers) + 10 * float((shift**2).sum()),
                    forces=-20 * shift,
                    name=name,
                    group=name,
                )
            )
    return items


def warnings_of(structures, path, labels=None):
    write_extxyz(structures, path)
    return inspect(path, labels).warnings


def test_counts_and_statistics_are_told(tmp_path, sound):
    write_extxyz(sound, tmp_path / "a.extxyz")
    report = inspect(tmp_path / "a.extxyz")
    assert report.structures == 60
    assert report.groups == 15
    assert report.elements["N"] == (16, 6 * 4)
    assert report.sizes.most == 12
    assert report.labels == {"energy": 60, "forces": 60, "stress": 0, "dipole": 0, "charges": 0}
    assert report.forces_rms == pytest.approx(
        np.sqrt(np.concatenate([s.forces for s in sound]).ravel().var()), rel=1e-3
    )
    assert report.warnings == ()
    assert json.loads(json.dumps(report.as_dict()))["structures"] == 60


def test_duplicates_are_found_also_when_shifted(tmp_path, sound):
    twin = sound[7].replace(positions=sound[7].positions + 1.5)
    assert "1 duplicate structures; the first: 7 and 60" in warnings_of([*sound, twin], tmp_path / "a.extxyz")[0]


def test_cells_tell_crystals_of_one_atom_apart(tmp_path):
    crystals = [Structure([13], [[0, 0, 0]], cell=np.eye(3) * a, pbc=True) for a in (2.4, 2.5, 2.6, 2.5)]
    told = [line for line in warnings_of(crystals, tmp_path / "a.extxyz") if "duplicate" in line]
    assert told == ["1 duplicate structures; the first: 1 and 3. Splits may leak."]


def test_missing_labels_are_counted(tmp_path, sound):
    sound[5] = sound[5].replace(forces=None)
    assert "1 of 60 structures have no forces; first: 5" in warnings_of(sound, tmp_path / "a.extxyz")[0]
    bare = [s.replace(energy=None, forces=None) for s in sound]
    told = "No structure has an energy. Declare its key: data.keys.energy, or --labels 'energy=KEY'."
    assert warnings_of(bare, tmp_path / "b.extxyz") == (told,)


def test_overlapping_atoms_are_found(tmp_path, sound):
    positions = sound[3].positions.copy()
    positions[1] = positions[0] + 0.02
    sound[3] = sound[3].replace(positions=positions)
    assert any("1 structures have atoms closer than 0.5" in w for w in warnings_of(sound, tmp_path / "a.extxyz"))


def test_huge_forces_are_found(tmp_path, sound):
    forces = sound[3].forces.copy()
    forces[0], forces[1] = 200.0, -200.0 + forces[0] + forces[1]
    sound[3] = sound[3].replace(forces=forces)
    assert any(
        "1 structures have forces above 50 eV/Å; the first is 3" in w for w in warnings_of(sound, tmp_path / "a.xyz")
    )


def test_forces_that_push_the_molecule_are_found(tmp_path, sound):
    sound[3] = sound[3].replace(forces=sound[3].forces + 1)
    assert any("1 structures have forces that sum to" in w for w in warnings_of(sound, tmp_path / "a.extxyz"))


def test_an_energy_far_from_its_composition_is_found(tmp_path, sound):
    random = np.random.default_rng(0)
    noisy = [s.replace(energy=s.energy + random.normal()) for s in sound]
    noisy[9] = noisy[9].replace(energy=noisy[9].energy + 500)
    assert any(w.startswith("1 energies are more than 20") for w in warnings_of(noisy, tmp_path / "a.extxyz"))


@pytest.mark.parametrize(("unit", "size"), [("hartree", HARTREE), ("kcal/mol", 0.0433641), ("meV", 1e-3)])
def test_energies_in_another_unit_are_recognised(tmp_path, sound, unit, size):
    wrong = [s.replace(energy=s.energy / size, forces=s.forces / size) for s in sound]
    assert any(f"Energies look like {unit}" in w for w in warnings_of(wrong, tmp_path / "a.extxyz"))


def test_energies_of_one_molecule_in_another_unit_are_recognised(tmp_path, sound):
    wrong = [s.replace(energy=s.energy / 0.0433641, forces=None) for s in sound if s.name == "C6H6"] * 6
    assert any("Energies look like kcal/mol" in w for w in warnings_of(wrong, tmp_path / "a.extxyz"))


def test_forces_in_another_unit_than_energies_are_recognised(tmp_path, sound):
    wrong = [s.replace(forces=s.forces / 27.2114) for s in sound]
    assert any("energies in eV and forces in hartree/Å" in w for w in warnings_of(wrong, tmp_path / "a.extxyz"))


def test_gradients_are_recognised(tmp_path, sound):
    wrong = [s.replace(forces=-s.forces) for s in sound]
    assert any("Forces point uphill" in w for w in warnings_of(wrong, tmp_path / "a.extxyz"))


def test_the_report_is_printed(tmp_path, sound):
    write_extxyz(sound[:4], tmp_path / "a.extxyz")
    stream = io.StringIO()
    inspect(tmp_path / "a.extxyz").print(Console(file=stream, width=100))
    assert "H 8 in 4, O 4 in 4" in stream.getvalue()
    assert "Nothing looks wrong." in stream.getvalue()


def test_commands_inspect_and_convert(tmp_path, sound, capsys):
    write_extxyz(sound, tmp_path / "a.extxyz")
    inspect_command(tmp_path / "a.extxyz", json=True)
    assert json.loads(capsys.readouterr().out)["atoms"] == sum(len(s) for s in sound)
    convert_command(tmp_path / "a.extxyz", tmp_path / "b.npz")
    convert_command(tmp_path / "b.npz", tmp_path / "c.extxyz", Labels(energy="energy", energy_unit="meV"))
    first = next(open_structures(tmp_path / "c.extxyz"))
    assert first.energy == pytest.approx(sound[0].energy * 1e-3)
    convert_command(tmp_path / "a.extxyz")
    assert "60 structures" in capsys.readouterr().out


def test_the_wrong_unit_of_published_files_is_found_and_the_right_one_is_not(tmp_path, shared_data):
    file = shared_data / "md_small" / "md17_ethanol_sampledata_kcal.xyz"
    kcal = Labels(energy="energy", forces="forces", energy_unit="kcal/mol")
    wrong = list(islice(open_structures(file), 400))
    right = list(islice(open_structures(file, kcal), 400))
    assert any("kcal/mol" in warning for warning in warnings_of(wrong, tmp_path / "a.extxyz"))
    assert warnings_of(right, tmp_path / "b.extxyz") == ()
