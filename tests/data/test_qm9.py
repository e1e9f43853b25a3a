"""QM9 as the csv of qm9pack."""

import pytest

from mcgm.data import Dataset, Labels, open_structures
from mcgm.errors import DataError
from mcgm.units import factor

HEADER = "XYZ_file,SMILES,Elements,XYZ_Ang,InternalEnergy_0K_au\n"
ROWS = [
    """"dsgdb9nsd_000002.xyz","N","['N','H','H','H']","[[0,0,0],[0,0,1.0],[0,1.0,0],[1.0,0,0]]",-56.525887""",
    """"dsgdb9nsd_000003.xyz","O","['O','H','H']","[[0.,0,-0.],[0,0,0.96],[0,0.93,-0.24]]",-76.404702""",
]


def write(folder, name, rows):
    path = folder / name
    path.write_text(HEADER + "\n".join(rows) + "\n")
    return path


def test_rows_of_all_files_are_molecules(tmp_path):
    for number, row in enumerate(ROWS, start=1):
        write(tmp_path, f"qm9_part{number}.csv", [row])
    ammonia, water = Dataset.open(tmp_path / "qm9_part*.csv", "qm9")
    assert (ammonia.name, len(ammonia)) == ("dsgdb9nsd_000002.xyz", 4)
    assert water.numbers.tolist() == [8, 1, 1]
    assert water.positions.tolist() == [[0, 0, 0], [0, 0, 0.96], [0, 0.93, -0.24]]  # 0. as the package has it
    assert water.energy == pytest.approx(-76.404702 * factor("energy", "hartree"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ROWS[0].replace("'N'", "'Xx'"), "line 2, row 0: 'Xx'"),
        (ROWS[0].replace("[[0,0,0]", "[[0,0]"), "line 2, row 0"),
        (ROWS[0].replace("-56.5", "x"), "line 2, row 0: could not convert"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        list(open_structures(write(tmp_path, "a.csv", [row])))


def test_another_csv_is_told_what_is_missing(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"no numbers under the key 'Elements'.*Keys found: a, b"):
        list(open_structures(tmp_path / "a.csv", Labels(numbers="Elements")))
