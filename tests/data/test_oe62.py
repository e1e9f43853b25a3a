import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pandas
import pytest
from ase.data import chemical_symbols

from mcgm.data import Labels, open_structures
from mcgm.data.labels import OE62
from mcgm.data.oe62 import parse_xyz
from mcgm.data.readers import keys_found
from mcgm.errors import DataError


def xyz(structure):
    lines = [
        f"{chemical_symbols[z]} {x:.8f} {y:.8f} {w:.8f}"
        for z, (x, y, w) in zip(structure.numbers, structure.positions, strict=True)
    ]
    return "\n".join([str(len(structure)), "relaxed", *lines]) + "\n"


def table(molecules):
    return pandas.DataFrame(
        {
            "refcode_csd": [f"ABC{k:02d}" for k in range(len(molecules))],
            "number_of_atoms": [len(s) for s in molecules],
            "xyz_pbe_relaxed": [xyz(s) for s in molecules],
            "total_energy_pbe0_vac_tier2": [s.energy for s in molecules],
            "total_energy_pbe": [s.energy + 1 for s in molecules],
            "hirshfeld_pbe": [s.charges.tolist() for s in molecules],
            "energies_occ_pbe0_vac_tier2": [[-9.0, -8.0 - k] for k in range(len(molecules))],
        }
    )


@pytest.fixture
def oe62(tmp_path, molecules):
    path = tmp_path / "df_62k.json"
    table(molecules).to_json(path, orient="split", double_precision=15)
    return path


def test_rows_become_structures(oe62, molecules):
    read = list(open_structures(oe62))
    assert [s.name for s in read] == ["ABC00", "ABC01", "ABC02", "ABC03"]
    for a, b in zip(read, molecules, strict=True):
        assert a.energy == pytest.approx(b.energy, abs=1e-9)
        np.testing.assert_array_equal(a.numbers, b.numbers)
        np.testing.assert_allclose(a.positions, b.positions, atol=1e-8)
        assert a.forces is None


def test_another_target_column_is_selected(oe62, molecules):
    read = open_structures(oe62, replace(OE62, energy="total_energy_pbe"))
    assert [s.energy for s in read] == pytest.approx([s.energy + 1 for s in molecules])


def test_an_item_of_a_list_is_selected(oe62):
    read = open_structures(oe62, replace(OE62, energy="energies_occ_pbe0_vac_tier2[-1]"))
    assert [s.energy for s in read] == [-8.0, -9.0, -10.0, -11.0]


def test_a_missing_column_lists_the_columns(oe62):
    with pytest.raises(
        DataError, match=r"'total_energy_pbe0'.*Did you mean 'total_energy_pbe.*Keys found: energies_occ"
    ):
        list(open_structures(oe62, Labels(energy="total_energy_pbe0", positions="xyz_pbe_relaxed")))
    assert "hirshfeld_pbe" in keys_found(oe62)


def test_a_truncated_file_is_told_after_the_rows_before(oe62, tmp_path):
    content = oe62.read_bytes()
    (tmp_path / "cut.json").write_bytes(content[: int(len(content) * 0.8)])
    with pytest.raises(DataError, match=r"cut.json: ends or breaks after row|after 3 rows"):
        list(open_structures(tmp_path / "cut.json"))


def test_another_json_is_refused(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"1": {"numbers": [1]}, "ids": [1]}))
    with pytest.raises(DataError, match='no "columns"; required: a table that pandas wrote'):
        list(open_structures(tmp_path / "a.json"))
    (tmp_path / "b.json").write_text("not json")
    with pytest.raises(DataError, match="not a readable JSON"):
        list(open_structures(tmp_path / "b.json"))


def test_an_empty_cell_is_told(tmp_path, molecules):
    frame = table(molecules)
    frame.loc[1, "total_energy_pbe0_vac_tier2"] = np.nan
    frame.to_json(tmp_path / "a.json", orient="split")
    with pytest.raises(DataError, match="row 1: 'total_energy_pbe0_vac_tier2' has no value"):
        list(open_structures(tmp_path / "a.json"))
    read = open_structures(tmp_path / "a.json", replace(OE62, optional=("energy",)))
    assert [s.energy is None for s in read] == [False, True, False, False]


@pytest.mark.parametrize("text", ["", "2\n\nH 0 0 0\n", "1\n\nQq 0 0 0\n", "1\n\nH 0 0 here\n", "x\n\nH 0 0 0\n"])
def test_a_broken_xyz_text_is_told(text):
    with pytest.raises(DataError, match="xyz text"):
        parse_xyz(text)


def test_a_long_table_is_streamed(tmp_path, molecules):
    path = tmp_path / "long.json"
    pandas.concat([table(molecules)] * 500, ignore_index=True).to_json(path, orient="split")
    tracemalloc.start()
    count = sum(1 for _ in open_structures(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 2000
    assert peak < path.stat().st_size / 2
