"""Data files as they arrive: cut off, damaged, in another encoding, without a key; and what must come of each."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import h5py
import numpy as np
from hypothesis import strategies as st

from mcgm.cli import main
from mcgm.data import Dataset, Labels, open_structures
from mcgm.data.readers import keys_found
from mcgm.data.writers import labelled_atoms, write_extxyz, write_npz
from mcgm.errors import MCGMError
from mcgm.structure import Structure

FORMATS = {
    "a.extxyz": None,
    "a.xyz": None,
    "a.extxyz.gz": None,
    "a.db": None,
    "a.traj": None,
    "a.npz": None,
    "padded.npz": "qm7",
    "fixed.npz": "md17",
    "a.hdf5": "aqm",
    "a.json": "oe62",
}
"""Name of a file -> labels to read it with."""


def molecules() -> list[Structure]:
    """Two geometries of water with every label."""
    random = np.random.default_rng(0)
    positions = np.array([[0.0, 0.0, 0.1], [0.0, 0.8, -0.5], [0.0, -0.8, -0.5]])
    return [
        Structure(
            numbers=[8, 1, 1],
            positions=positions + 0.01 * k,
            energy=-76.0 + k,
            forces=random.normal(size=(3, 3)),
            dipole=random.normal(size=3),
            charges=random.normal(size=3),
            name=f"water {k}",
            group="water",
        )
        for k in range(2)
    ]


def write_all(folder: Path) -> None:
    """One sound file of every format."""
    both = molecules()
    write_extxyz(both, folder / "a.extxyz")
    ase.io.write(folder / "a.xyz", [item.to_atoms() for item in both], format="xyz")
    (folder / "a.extxyz.gz").write_bytes(gzip.compress((folder / "a.extxyz").read_bytes()))
    with ase.db.connect(folder / "a.db") as database:
        for item in both:
            database.write(labelled_atoms(item), name=item.name, data={"U0": np.array([1.0])})
    ase.io.write(folder / "a.traj", [labelled_atoms(item) for item in both])
    write_npz(both, folder / "a.npz")
    positions = np.stack([item.positions for item in both])
    numbers, energies = np.stack([item.numbers for item in both]), np.array([item.energy for item in both])
    np.savez(folder / "padded.npz", Z=numbers, R=positions, T=energies)
    np.savez(folder / "fixed.npz", z=numbers[0], R=positions, E=energies, F=np.stack([item.forces for item in both]))
    with h5py.File(folder / "a.hdf5", "w") as file:
        for k, item in enumerate(both):
            group = file.create_group(f"water/Geom-m1-c{k}")
            group["atNUM"], group["atXYZ"], group["totFOR"] = item.numbers, item.positions, item.forces.ravel()
            group["ePBE0+MBD"] = np.array([item.energy])
    text = "3\n\nO 0 0 0.1\nH 0 0.8 -0.5\nH 0 -0.8 -0.5\n"
    table = {
        "columns": ["refcode_csd", "xyz_pbe_relaxed", "total_energy_pbe0_vac_tier2"],
        "index": [0, 1],
        "data": [["A", text, -2000.0], ["B", text, -2001.0]],
    }
    (folder / "a.json").write_text(json.dumps(table), encoding="utf-8")


def _flipped(random, content):
    array = np.frombuffer(content, dtype=np.uint8).copy()
    places = random.integers(len(array), size=random.integers(1, 9))
    array[places] ^= (1 << random.integers(8, size=len(places))).astype(np.uint8)
    return array.tobytes()


def _overwritten(random, content):
    start = int(random.integers(len(content)))
    block = bytes(random.integers(256, size=64, dtype=np.uint8)) if random.random() < 0.5 else bytes(64)
    return content[:start] + block + content[start + 64 :]


def _recoded(encoding):
    return lambda random, content: content.decode("latin-1").encode(encoding)


def _without(random, content):
    start = int(random.integers(len(content)))
    return content[:start] + content[start + int(random.integers(1, 200)) :]


def _worded(random, content):
    """One number or word of a text in another's place."""
    words = content.split(b" ")
    k = int(random.integers(len(words)))
    choice = [b"nan", b"inf", b"1e400", b"-1", b"Xx", b"", b"1e9", b"99999999999", b"\xff", b"caf\xc3\xa9", b"NaN\n"]
    words[k] = choice[int(random.integers(len(choice)))]
    return b" ".join(words)


DAMAGES = {
    "none": lambda random, content: content,
    "truncated": lambda random, content: content[: int(random.integers(1, len(content)))],
    "bits flipped": _flipped,
    "a block overwritten": _overwritten,
    "bytes left out": _without,
    "a word replaced": _worded,
    "a line doubled": lambda random, content: content + content[: int(random.integers(1, len(content)))],
    "garbage appended": lambda random, content: content + bytes(random.integers(256, size=50, dtype=np.uint8)),
    "garbage": lambda random, content: bytes(random.integers(256, size=200, dtype=np.uint8)),
    "nothing": lambda random, content: b"",
    "blank lines": lambda random, content: b"\n" * 5,
    "zeros": lambda random, content: bytes(len(content)),
    "utf-16": _recoded("utf-16"),
    "utf-8 with a mark": _recoded("utf-8-sig"),
    "latin-1": lambda random, content: content.replace(b"water", "wässer".encode("latin-1")),
    "old line ends": lambda random, content: content.replace(b"\n", b"\r\n"),
    "another format": lambda random, content: b"3\n\nO 0 0 0\nH 0 0 1\nH 0 1 0\n",
}
PLACES = ("folder", "absent", "pipe", "device", "strange name", "no permission")
LABELS = {
    "the format's": None,
    "the wrong preset": "aqm-atomisation",
    "an unknown preset": "qm77",
    "a missing key": Labels(energy="enrgy", forces="forces"),
    "a key of another shape": Labels(energy="forces", positions="R", numbers="z"),
    "a key that is text": Labels(energy="name", forces="name", charge="name"),
    "another unit": Labels(energy="energy", energy_unit="kcal/mol", length_unit="bohr"),
}
READERS = ("open_structures", "Dataset", "inspect", "convert", "predict", "keys")


@st.composite
def cases(draw) -> dict[str, Any]:
    """A format, what happened to the file, how it is declared, and who reads it."""
    return {
        "file": draw(st.sampled_from(sorted(FORMATS))),
        "damage": draw(st.sampled_from([*sorted(DAMAGES), "truncated", "bits flipped", "bytes left out"])),
        "place": draw(st.sampled_from([*PLACES, *["file"] * 30])),
        "labels": draw(st.sampled_from([*sorted(LABELS), *["the format's"] * 5])),
        "reader": draw(st.sampled_from(READERS)),
        "seed": draw(st.integers(0, 2**32 - 1)),
    }


def outcome(case: dict[str, Any], sound: Path, folder: Path, model: Path) -> str:
    """ "answered", "refused: <error>" or "skipped: …".

    Raises:
        AssertionError: an error that does not name the file, or structures that are not finite.
        Exception: anything else is a crash.
    """
    path = folder / case["file"]
    content = (sound / case["file"]).read_bytes()
    path.write_bytes(DAMAGES[case["damage"]](np.random.default_rng(case["seed"]), content))
    if case["place"] == "no permission" and os.geteuid() == 0:
        return "skipped: the superuser may read everything"
    path = _moved(path, case["place"])
    labels = LABELS[case["labels"]]
    declared = FORMATS[case["file"]] if labels is None else labels
    try:
        return _read(case["reader"], path, declared, folder, model)
    except MCGMError as error:
        about_labels = isinstance(declared, str) and repr(declared) in str(error)
        if not about_labels and path.name not in str(error):
            raise AssertionError(f"does not name the file: {error}") from error
        return f"refused: {type(error).__name__}"


def _moved(path: Path, place: str) -> Path:
    if place == "file":
        return path
    if place == "device":
        return Path("/dev/null")
    if place == "strange name":
        return path.with_name("a\0b" + path.suffix)
    if place == "no permission":
        path.chmod(0)
        return path
    path.unlink()
    if place == "folder":
        path.mkdir()
    elif place == "pipe":
        os.mkfifo(path)
    return path


def _read(reader: str, path: Path, labels: Labels | str | None, folder: Path, model: Path) -> str:
    if reader == "open_structures":
        structures = list(open_structures(path, labels))
        assert structures, "no structure and no error"
    elif reader == "Dataset":
        dataset = Dataset.open(path, labels)
        assert len(dataset), "no structure and no error"
        assert all(np.isfinite(item.positions).all() for item in dataset)
    elif reader == "keys":
        keys_found(path)
    else:
        # on the command line an error is one line and exit status 2
        preset = ["--labels", labels] if isinstance(labels, str) else []
        command = {
            "inspect": ["data", "inspect", str(path), *preset],
            "convert": ["data", "convert", str(path), str(folder / "out.npz"), *preset],
            "predict": ["predict", str(model), str(path), "-o", str(folder / "out.extxyz")],
        }[reader]
        said = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            status = main(command)
        if status:
            assert status == 2, f"exit status {status}"
            assert said.getvalue().startswith("mcgm: "), f"no message: {said.getvalue()}"
            return "refused: on the command line"
    return "answered"
