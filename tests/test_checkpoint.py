"""Model files: what is written comes back to the last bit, and nothing else is read or run."""

import hashlib
import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule
from safetensors.torch import save_file

from mcgm import Batch, build, load
from mcgm.backbones import BACKBONES
from mcgm.checkpoint import FORMAT, read_header, save
from mcgm.errors import CheckpointError, ConfigError
from mcgm.files import PREFIX, replacing
from mcgm.long_range import BLOCKS, LongRangeSpec, NoLongRange
from mcgm.sealed import BLANK

ARTEFACTS = Path(__file__).parent / "artefacts"
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
    """The file with our own header changed and the right checksum for it, as by someone who means it."""
    outer, tensors = parts(content)
    header = json.loads(outer["__metadata__"]["mcgm"])
    outer["__metadata__"] = {"mcgm": change(header), "sha256": BLANK}
    text = json.dumps(outer, separators=(",", ":")).encode()
    changed = struct.pack("<Q", len(text)) + text + tensors
    return changed.replace(BLANK.encode(), hashlib.sha256(changed).hexdigest().encode(), 1)


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
    assert header["long_range"]["name"] == "together"  # MCGM and orientations, the default
    assert header["extra"] == {"note": "é", "epochs": [1, 2]}


def refused(path, content, message=""):
    path.write_bytes(content)
    for read in (read_header, load):
        with pytest.raises(CheckpointError, match=message) as refusal:
            read(path)
        assert str(path) in str(refusal.value)


def test_a_truncated_file_is_refused(written, tmp_path):
    lengths = np.random.default_rng(0).integers(0, len(written), 100).tolist()
    for length in [0, 1, 4, 7, 8, 9, 60, len(written) - 1, *lengths]:
        refused(tmp_path / "model.safetensors", written[:length], "truncated")
    refused(tmp_path / "model.safetensors", written + b"\0", "truncated or damaged")


def test_every_flipped_bit_is_an_error(written, tmp_path):
    """Every byte of the headers, and a sample of the weights; one bit, and another byte."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(written)
    load(path)
    random = np.random.default_rng(0)
    size = 8 + struct.unpack("<Q", written[:8])[0]
    places = [*range(size), *random.integers(size, len(written), 500).tolist()]
    with path.open("rb+", buffering=0) as file:
        for place in places:
            for change in (1 << int(random.integers(8)), int(random.integers(1, 256))):
                os.pwrite(file.fileno(), bytes([written[place] ^ change]), place)
                with pytest.raises(CheckpointError, match=r"model\.safetensors"):
                    load(path)
            os.pwrite(file.fileno(), written[place : place + 1], place)
    load(path)


@pytest.mark.parametrize("number", range(1, FORMAT + 1))
def test_a_file_of_every_version_predicts_what_it_did_when_it_was_written(number):
    expected = json.loads((ARTEFACTS / f"format-{number}.json").read_text(encoding="utf-8"))
    potential = load(ARTEFACTS / f"format-{number}.safetensors")
    assert read_header(ARTEFACTS / f"format-{number}.safetensors")["format"] == FORMAT
    found = predict(potential)
    torch.testing.assert_close(found.energy, torch.tensor(expected["energy"], dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(found.forces, torch.tensor(expected["forces"], dtype=torch.float64), rtol=0, atol=1e-9)


def test_the_same_model_gives_the_same_bytes(written, tmp_path):
    """safetensors alone orders its table of metadata by chance, anew at every call."""
    for _ in range(20):
        make().save(tmp_path / "model.safetensors", extra={"note": "é", "epochs": [1, 2]})
        assert (tmp_path / "model.safetensors").read_bytes() == written


def test_a_file_without_the_checksum_of_its_version_is_refused(written, tmp_path):
    unsealed = with_header(written, json.dumps).replace(b'"sha256"', b'"sha255"', 1)
    refused(tmp_path / "model.safetensors", unsealed, "checksum")


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
        lambda header: json.dumps(header | {"format": True}),
        lambda header: json.dumps(header | {"format": "1"}),
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


def test_files_of_other_kinds_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.ones(3)}, path)
    refused(path, path.read_bytes(), "not a model file of mcgm")
    np.savez(tmp_path / "arrays.npz", a=np.ones(3))
    refused(path, (tmp_path / "arrays.npz").read_bytes(), "another kind of file")
    refused(path, b"", "another kind of file")
    refused(path, b"3\n\nO 0 0 0\nH 0 0 1\nH 0 1 0\n", "another kind of file")
    refused(path, struct.pack("<Q", 2) + b"[]", "another kind of file")
    refused(path, struct.pack("<Q", 20) + b'{"__metadata__": []}', "not a model file")
    refused(path, struct.pack("<Q", 22) + b'{"__metadata__": [[1]]}'[:22], "another kind of file")


def test_what_is_not_a_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match="no such file"):
        load(tmp_path / "none.safetensors")
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(CheckpointError, match="not a regular file"):
        load(tmp_path / "pipe.safetensors")


def test_a_large_file_of_another_kind_is_not_read_to_its_end(tmp_path):
    path = tmp_path / "trajectory.xyz"
    with path.open("wb") as file:
        file.write(b"3\ncomment\n")
        file.truncate(1 << 42)  # 4 TiB, without taking any room
    with pytest.raises(CheckpointError, match="another kind of file"):
        load(path)


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_a_pickle_is_refused_and_never_run(tmp_path):
    trap = tmp_path / "trap"
    refused(tmp_path / "model.safetensors", pickle.dumps(Payload(trap)), "cannot be read as a model file")
    torch.save({"a": Payload(trap)}, tmp_path / "model.pt")
    refused(tmp_path / "model.safetensors", (tmp_path / "model.pt").read_bytes(), "cannot be read as a model file")
    assert not trap.exists()
    pickle.loads(pickle.dumps(Payload(trap)))  # noqa: S301 - the trap works
    assert trap.exists()


@pytest.mark.parametrize(
    "planted",
    [
        {"backbone": {"name": "os.system", "command": "touch {trap}"}},
        {"backbone": {"name": "schnet", "envelope": "__import__('os').system('touch {trap}')"}},
        {"backbone": {"class_path": "os.system", "init_args": {"command": "touch {trap}"}}},
        {"backbone": {"py/object/apply": "os.system", "args": ["touch {trap}"]}},
        {"long_range": {"name": "os:system", "command": "touch {trap}"}},
        {"long_range": {"name": "mcgm", "clusterers": [{"name": "subprocess.run", "args": ["touch", "{trap}"]}]}},
        {"long_range": "!!python/object/apply:os.system ['touch {trap}']"},
        {"elements": {"__reduce__": ["os.system", "touch {trap}"]}},
    ],
    ids=str,
)
def test_a_header_that_names_code_is_refused_and_nothing_runs(written, tmp_path, planted):
    trap, path = tmp_path / "trap", tmp_path / "model.safetensors"
    planted = json.loads(json.dumps(planted).replace("{trap}", str(trap)))
    path.write_bytes(with_header(written, lambda header: json.dumps(header | planted)))
    with pytest.raises(CheckpointError, match=r"describe a model"):
        load(path)
    assert not trap.exists()


def test_a_payload_beside_the_header_does_not_run(written, tmp_path):
    """Metadata that other programs would read, and a header that is one."""
    trap, path = tmp_path / "trap", tmp_path / "model.safetensors"
    outer, tensors = parts(with_header(written, json.dumps))
    code = f"__import__('os').system('touch {trap}')"
    for metadata in (
        {"mcgm": code},
        {"mcgm": pickle.dumps(Payload(trap), 0).decode()},
        {"format": code, "class": code},
    ):
        text = json.dumps(outer | {"__metadata__": metadata}).encode()
        refused(path, struct.pack("<Q", len(text)) + text + tensors, r"header")
    assert not trap.exists()


def test_a_failure_while_writing_leaves_the_old_file(written, tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    path.write_bytes(written)

    write = Path.write_bytes

    def fail(target, content):
        write(target, content[: len(content) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        make().save(path)
    monkeypatch.undo()
    assert path.read_bytes() == written
    assert [item.name for item in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_model_file_has_the_usual_permissions(tmp_path):
    make().save(tmp_path / "model.safetensors")
    (tmp_path / "plain").touch()
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


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


def test_what_a_killed_process_left_is_removed_when_it_is_old(tmp_path):
    path = tmp_path / "model.safetensors"
    names = [f"{PREFIX}{word}-model.safetensors" for word in ("old", "new")]
    others = [".model-other.safetensors", f"{PREFIX}old-other.safetensors"]
    for name in [*names, *others]:
        (tmp_path / name).touch()
    for name in [names[0], *others]:
        os.utime(tmp_path / name, (0, 0))
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
    assert sorted(item.name for item in tmp_path.iterdir()) == sorted([path.name, names[1], *others])


KILLED = """
import os, random, signal, sys, time
import torch
from pathlib import Path
from mcgm import build, load
from mcgm.files import PREFIX
torch.set_num_threads(1)
options = {"channels": 64, "filters": 64, "radial": 20, "layers": 2}
models = [build(backbone="schnet", long_range="none", scale=scale, backbone_options=options) for scale in (1.0, 2.0)]
path = Path(sys.argv[1])
ATOMIC = sys.argv[2] == "atomic"

def write(model):
    if ATOMIC:
        model.save(path)
        return
    content = contents[models.index(model)]
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(content), 1000):
            file.write(content[start : start + 1000])

contents = []
for model in reversed(models):
    model.save(path)
    contents.insert(0, path.read_bytes())
started = time.perf_counter()
for _ in range(5):
    write(models[0])
duration = (time.perf_counter() - started) / 5
random.seed(0)
least, wanted = map(int, sys.argv[3:])
kills, broken, seen, cut_off = 0, 0, set(), 0
while kills < least or (cut_off < wanted and kills < 5 * least):
    kills += 1
    ready, begun = os.pipe()
    child = os.fork()
    if child == 0:
        write(models[1])
        os.write(begun, b"1")
        while True:
            for model in models:
                write(model)
    os.read(ready, 1)
    time.sleep(random.uniform(0, 3) * duration)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(ready)
    os.close(begun)
    try:
        seen.add(float(load(path).scale))
    except Exception:
        broken += 1
    left = [item for item in path.parent.iterdir() if item.name.startswith(PREFIX)]
    cut_off += len(left)
    for item in left:
        item.unlink()
print(kills, broken, len(seen - {1.0, 2.0}), len(seen), cut_off)
"""


def kill_while_saving(folder, how, least, cut_off):
    """So many kills, and more until as many came in the middle of writing: how many do depends on the machine."""
    arguments = [str(folder / "model.safetensors"), how, str(least), str(cut_off)]
    command = [sys.executable, "-W", "ignore", "-c", KILLED, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return map(int, done.stdout.split())


def test_kill_9_at_any_moment_leaves_the_old_or_the_new_file(tmp_path):
    kills, broken, strange, seen, cut_off = kill_while_saving(tmp_path, "atomic", 60, 4)
    assert kills >= 60
    assert (broken, strange) == (0, 0)
    assert seen == 2  # both files were met
    assert cut_off > 3  # some kills came in the middle of writing


def test_kill_9_is_seen_to_break_a_file_that_is_written_in_place(tmp_path):
    _, broken, *_ = kill_while_saving(tmp_path, "in place", 15, 0)
    assert broken > 0
