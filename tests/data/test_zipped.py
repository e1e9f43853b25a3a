"""xyz files in a zip, such as the NCI Atlas and SAPT10k."""

import zipfile
from itertools import islice

import numpy as np
import pytest

from mcgm.data import Dataset, Labels, open_structures
from mcgm.errors import ConfigError, DataError
from mcgm.units import factor

DIMER = """2
charge=1 benchmark_Eint={energy} benchmark_unit=kcal/mol group=HB
  H    0.0  0.0  0.0
  He   0.0  0.0  {distance}
"""
FRAME = """2
Properties=species:S:1:pos:R:3 benchmark_Eint=-2.5 charge=0 file_name=a.xyz folder_name=HB structure_type={kind}
H 0.0 0.0 0.0
He 0.0 0.0 1.0
"""


@pytest.fixture
def curves(tmp_path):
    path = tmp_path / "curves.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for system in ("1.02", "1.01"):
            for scale, energy in ((90, -1.0), (200, -0.5)):
                text = DIMER.format(energy=energy, distance=scale / 50)
                archive.writestr(f"set/geometries/{system}_{scale:03d}.xyz", text)
        archive.writestr("set/readme.txt", "not a structure")
        archive.writestr("__MACOSX/set/._1.01_090.xyz", "not a structure either")
    return path


def test_every_file_is_a_structure_named_and_grouped_by_its_name(curves):
    found = list(open_structures(curves, "nci-atlas"))
    assert [s.name for s in found] == ["1.01_090", "1.01_200", "1.02_090", "1.02_200"]
    assert [s.group for s in found] == ["curves/1.01"] * 2 + ["curves/1.02"] * 2
    assert found[0].energy == pytest.approx(-factor("energy", "kcal/mol"))
    assert found[1].charge == 1
    np.testing.assert_allclose(found[1].positions[1], [0, 0, 4.0])


def test_structures_are_picked_by_an_entry(tmp_path):
    path, plain = tmp_path / "pairs.zip", tmp_path / "pairs.xyz"
    text = FRAME.format(kind="dimer_original") + FRAME.format(kind="dimer_translated")
    plain.write_text(text)
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(plain, "pairs.xyz")
    assert len(Dataset.open(path, Labels())) == 2
    for file in (path, plain):
        (picked,) = Dataset.open(file, "sapt10k")
        assert (picked.name, picked.group) == ("a.xyz", "HB")


@pytest.mark.parametrize(
    ("where", "message"), [("kind = a", "no entry 'kind'.*structure_type"), ("structure_type", "form 'key = value'")]
)
def test_a_condition_that_makes_no_sense_is_refused(tmp_path, where, message):
    (tmp_path / "a.xyz").write_text(FRAME.format(kind="x"))
    with pytest.raises((ConfigError, DataError), match=message):
        list(open_structures(tmp_path / "a.xyz", Labels(where=where)))


def test_a_condition_is_refused_where_it_would_be_ignored(tmp_path):
    np.savez(tmp_path / "a.npz", numbers=np.ones((1, 1)), positions=np.zeros((1, 1, 3)))
    with pytest.raises(ConfigError, match="where is for files that ASE reads"):
        list(open_structures(tmp_path / "a.npz", Labels(where="a = b")))


@pytest.mark.parametrize("damage", ["truncated", "no zip", "no xyz", "bad xyz"])
def test_what_cannot_be_read_is_told(curves, damage):
    if damage == "truncated":
        curves.write_bytes(curves.read_bytes()[:200])
    elif damage == "no zip":
        curves.write_text("text")
    else:
        with zipfile.ZipFile(curves, "w") as archive:
            archive.writestr("a.txt" if damage == "no xyz" else "a.xyz", "2\n\nH 0 0 0\n")
    with pytest.raises(DataError, match=r"curves.zip.*(copied completely|no \.xyz)"):
        list(open_structures(curves, Labels()))


def test_the_published_archives_are_read(shared_data, monkeypatch, tmp_path):
    monkeypatch.setenv("MCGM_CACHE", str(tmp_path))
    ions = Dataset.open(shared_data / "nci_atlas" / "NCIA_IHB100x10*.zip", "nci-atlas")
    assert len(ions) == 1000
    assert len(set(ions.groups)) == 100
    assert -2.5 < ions.energies.min() < -1.5
    dimers = list(islice(open_structures(shared_data / "sapt10k" / "sapt10k.zip", "sapt10k"), 5))
    assert dimers[0].energy == pytest.approx(-12.14608 * factor("energy", "kcal/mol"))
    assert all(np.ptp(dimer.positions, axis=0).max() < 100 for dimer in dimers)
