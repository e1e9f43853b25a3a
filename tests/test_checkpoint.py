"""Model files: what is written comes back to the last bit, and nothing else is read or run."""

import json
import pickle
import struct

import numpy as np
import pytest
import torch
from ase.build import molecule
from safetensors.torch import save_file

from mcgm import Batch, build, load
from mcgm.backbones import BACKBONES
from mcgm.checkpoint import FORMAT, read_header, save
from mcgm.errors import CheckpointError, ConfigError
from mcgm.files import replacing
from mcgm.long_range import BLOCKS, LongRangeSpec, NoLongRange

SMALL = {"channels": 8, "filters": 8, "radial": 6, "layers": 2}
CUTOFF = 3.0


class FreeElements:
    energies = -1000.123456789 * np.arange(119.0)
    intercept = 0.1


def make(**options):
    torch.manual_seed(0)
    settings = {"backbone_options": SMALL, "cutoff": CUTOFF, "references": FreeElements(), "elements": [8, 1, 6]}
    return build(**(settings | options)).eval()


def predict(potential):
    return potential(Batch.from_atoms([molecule("CH3OH"), molecule("H2O")], cutoff=CUTOFF, dtype=potential.dtype))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The bytes of a small model file."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    make().save(path, extra={"note": "é", "epochs": [1, 2]})
    return path.read_bytes()


def parts(content):
    """Header of the format, parsed, and the tensors' bytes."""
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def with_header(content, change):
    """The file with our own header changed."""
    outer, tensors = parts(content)
    header = json.loads(outer["__metadata__"]["mcgm"])
    outer["__metadata__"]["mcgm"] = change(header)
    text = json.dumps(outer).encode()
    return struct.pack("<Q", len(text)) + text + tensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("backbone", "long_range"),
    [("schnet", name) for name in BLOCKS] + [(name, "mcgm") for name in BACKBONES if name != "schnet"],
)
def test_a_loaded_potential_predicts_the_same_bits(backbone, long_range, dtype, tmp_path):
    options = {"backbone_options": SMALL} if backbone == "schnet" else {"backbone_options": None}
    potential = make(backbone=backbone, long_range=long_range, scale=0.3, shift=-1.1, **options).to(dtype)
    potential.save(tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    before, after = predict(potential), predict(again)
    for name in ("energy", "atom_energy", "cluster_energy", "forces"):
        assert torch.equal(getattr(before, name), getattr(after, name)), name
    assert again.dtype == dtype
    assert again.elements == (1, 6, 8)
    assert again.specification == potential.specification
    assert again.backbone.hyperparameters == potential.backbone.hyperparameters
    assert not again.training


def test_the_header_says_what_the_model_is(written, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(written)
    header = read_header(path)
    assert header["format"] == FORMAT
    assert header["units"] == {"energy": "eV", "length": "Å", "charge": "e"}
    assert header["elements"] == [1, 6, 8]
    assert header["backbone"]["name"] == "schnet"
    assert header["long_range"]["name"] == "mcgm"
    assert header["extra"] == {"note": "é", "epochs": [1, 2]}


def refused(path, content, message=""):
    path.write_bytes(content)
    for read in (read_header, load):
        with pytest.raises(CheckpointError, match=message) as refusal:
            read(path)
        assert str(path) in str(refusal.value)


def test_a_truncated_file_is_refused(written, tmp_path):
    for length in (0, 4, 8, 60, len(written) // 2, len(written) - 1):
        refused(tmp_path / "model.safetensors", written[:length], "truncated")


def test_flipped_bits_in_the_header_give_an_error_or_a_model_and_nothing_else(written, tmp_path):
    path = tmp_path / "model.safetensors"
    size = struct.unpack("<Q", written[:8])[0]
    random = np.random.default_rng(0)
    start = written.index(b"mcgm")  # our own header; the other places are anywhere in that of the format
    places = [*random.integers(0, 8 + size, 60), *random.integers(start, start + 900, 100)]
    errors = 0
    for place in places:
        damaged = bytearray(written)
        damaged[place] ^= 1 << int(random.integers(7))
        path.write_bytes(bytes(damaged))
        try:
            load(path)
        except CheckpointError:
            errors += 1
    assert errors > len(places) / 2


def test_a_model_of_a_newer_version_says_to_upgrade(written, tmp_path):
    newer = with_header(written, lambda header: json.dumps(header | {"format": FORMAT + 1}))
    refused(tmp_path / "model.safetensors", newer, "Upgrade mcgm")


@pytest.mark.parametrize(
    "change",
    [
        lambda header: "no json",
        lambda header: "[]",
        lambda header: "{}",
        lambda header: json.dumps(header | {"format": "one"}),
        lambda header: json.dumps(header | {"format": float("inf")}),
        lambda header: json.dumps(header | {"format": 0}),
        lambda header: json.dumps(header | {"format": -1}),
        lambda header: "[" * 100_000,
    ],
)
def test_a_damaged_header_is_refused(written, tmp_path, change):
    refused(tmp_path / "model.safetensors", with_header(written, change), "header")


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": {"name": "os.system"}},
        {"backbone": {"name": None}},
        {"backbone": {"name": ["schnet"]}},
        {"backbone": None},
        {"backbone": {"name": "schnet", "channels": -8}},
        {"backbone": {"name": "schnet", "channels": "8"}},
        {"backbone": {"name": "schnet", "envelope": "none such"}},
        {"backbone": {"name": "schnet"}},
        {"long_range": {"name": "none such"}},
        {"long_range": {"name": "mcgm", "clusterers": [{"name": "eval"}]}},
        {"long_range": {"name": "mcgm", "clusterers": 3}},
        {"long_range": {"name": "none"}},
        {"elements": "HCO"},
    ],
    ids=str,
)
def test_a_header_that_does_not_describe_the_weights_is_refused(written, tmp_path, changes):
    path = tmp_path / "model.safetensors"
    path.write_bytes(with_header(written, lambda header: json.dumps(header | changes)))
    with pytest.raises(CheckpointError, match=r"describe a model|do not fit"):
        load(path)


def test_another_librarys_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.ones(3)}, path)
    refused(path, path.read_bytes(), "not of mcgm")


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match="no such file"):
        load(tmp_path / "none.safetensors")


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_is_refused_and_never_run(tmp_path):
    trap = tmp_path / "trap"
    refused(tmp_path / "model.safetensors", pickle.dumps(Payload(trap)), "cannot be read as a model file")
    torch.save({"a": Payload(trap)}, tmp_path / "model.pt")
    refused(tmp_path / "model.safetensors", (tmp_path / "model.pt").read_bytes(), "cannot be read as a model file")
    assert not trap.exists()


def test_a_failure_while_writing_leaves_the_old_file(written, tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    path.write_bytes(written)

    def fail(tensors, target, metadata):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("mcgm.checkpoint.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        make().save(path)
    assert path.read_bytes() == written
    assert [item.name for item in tmp_path.iterdir()] == ["model.safetensors"]


def test_what_json_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match="serializable"):
        make().save(tmp_path / "model.safetensors", extra={"a": object()})
    assert not list(tmp_path.iterdir())


def test_a_block_that_no_table_knows_is_refused_before_anything_is_written(tmp_path):
    class Own(LongRangeSpec):
        def build(self, channels, layers):
            return NoLongRange().build(channels, layers)

    with pytest.raises(ConfigError, match="Own is in no table"):
        save(make(long_range=Own()), tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_file_appears_whole_with_the_usual_permissions_or_not_at_all(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    with replacing(path) as temporary:
        temporary.write_text("new", encoding="utf-8")
        assert not path.exists()
    plain = tmp_path / "plain"
    plain.touch()
    assert path.read_text(encoding="utf-8") == "new"
    assert path.stat().st_mode == plain.stat().st_mode
