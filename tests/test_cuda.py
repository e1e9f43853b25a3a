"""What holds on a GPU: the same figures as on the CPU, no waiting for the device, and a GPU whose memory runs out.

Skipped where there is none.
"""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import ase.io
import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.build import bulk, molecule

from mcgm import Batch, Structure, build, load
from mcgm.backbones import BACKBONES
from mcgm.cli import main
from mcgm.data import Dataset
from mcgm.errors import TooLargeError
from mcgm.interfaces.ase import MCGMCalculator
from mcgm.interfaces.torch_sim import MCGMModel
from mcgm.long_range import BLOCKS
from mcgm.prediction.stream import predictions
from mcgm.training.batches import Collate
from mcgm.training.filling import Filling
from mcgm.training.recorded import RecordedNetwork

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

CUTOFF = 4.0
SMALL = {
    "schnet": {"channels": 32, "filters": 32, "radial": 8, "layers": 2},
    "painn": {"channels": 32, "radial": 8, "layers": 2},
    "visnet": {"channels": 32, "heads": 4, "radial": 8, "layers": 2},
    "dimenet++": {"channels": 32, "layers": 2},
    "gemnet-t": {"channels": 32, "layers": 2},
}
WAITS = {
    "neural_p3m": "a mesh's size is a number of the host",
    "charges": "sums of torch-pme are made structure by structure",
    "mcgm_charges": "sums of torch-pme are made structure by structure",
    "mcgm_oriented_charges": "sums of torch-pme are made structure by structure",
}
"""Blocks that may wait for the device in `forward`, each with the reason."""


def structures() -> list[Structure]:
    """Molecules of several sizes, one of them charged, and a crystal."""
    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    ion = molecule("HCOOH")
    ion.info["charge"] = -1.0
    made = [molecule("CH3CH2OH"), molecule("C6H6"), ion, salt]
    generator = np.random.default_rng(0)
    for atoms in made:
        atoms.positions += generator.normal(scale=0.05, size=atoms.positions.shape)
    return [Structure.from_atoms(atoms) for atoms in made]


def potential(backbone: str, block: str, **options):
    torch.manual_seed(0)
    return build(backbone=backbone, long_range=block, cutoff=CUTOFF, backbone_options=SMALL[backbone], **options).eval()


def collated(model, chosen: list[Structure], device: str) -> Batch:
    return Batch.from_structures(chosen, cutoff=CUTOFF, dtype=model.dtype).to(device)


@contextmanager
def no_waiting():
    """Where an operation waits for the device, it is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@contextmanager
def little_memory(mebibytes: int):
    """This process may have so much more of the GPU than now."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + mebibytes * 2**20) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_energies_forces_and_stress_are_those_of_the_cpu(backbone: str, block: str):
    model = potential(backbone, block).double()
    expected = model(collated(model, structures(), "cpu"))
    found = model.to("cuda")(collated(model, structures(), "cuda"))
    assert found.energy.cpu().numpy() == pytest.approx(expected.energy.numpy(), rel=1e-10, abs=1e-9)
    for name in ("forces", "stress"):
        one, other = getattr(found, name).cpu(), getattr(expected, name)
        assert (one - other).abs().max() < 1e-8 * max(1.0, float(other.abs().max()))


@pytest.mark.parametrize("block", [name for name in BLOCKS if name not in WAITS])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_training_step_never_waits_for_the_device(backbone: str, block: str):
    model = potential(backbone, block).to("cuda").train()
    batch = model.index(collated(model, structures(), "cuda"))
    generator = torch.Generator().manual_seed(0)

    def step():
        prediction = model(batch, generator=generator)
        (prediction.energy.square().sum() + prediction.forces.square().sum()).backward()

    step()  # libraries are initialised
    model.zero_grad()
    with no_waiting():
        step()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_gradients_of_a_training_step_are_those_of_the_cpu(backbone: str):
    model = potential(backbone, "mcgm").double().train()
    gradients = {}
    for device in ("cpu", "cuda"):
        model.to(device).zero_grad()
        prediction = model(collated(model, structures(), device))
        (prediction.energy.square().sum() + prediction.forces.square().sum()).backward()
        gradients[device] = {name: p.grad.cpu().clone() for name, p in model.named_parameters() if p.grad is not None}
    assert gradients["cuda"].keys() == gradients["cpu"].keys()
    for name, expected in gradients["cpu"].items():
        assert (gradients["cuda"][name] - expected).abs().max() <= 1e-9 * max(1e-3, float(expected.abs().max()))


def grown(atoms: int) -> Structure:
    """A dense piece of H, C and O."""
    generator = np.random.default_rng(atoms)
    side = int(np.ceil(atoms ** (1 / 3)))
    grid = 1.3 * np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[:atoms]
    numbers = generator.choice([1, 6, 8], size=atoms)
    return Structure(
        numbers=numbers, positions=grid + generator.normal(scale=0.05, size=(atoms, 3)), name=f"piece of {atoms}"
    )


def test_a_batch_that_does_not_fit_is_predicted_in_parts_with_the_same_result(caplog):
    model = potential("schnet", "mcgm").to("cuda")
    pieces = [grown(300 + k) for k in range(40)]
    whole = list(predictions(model, pieces, batch_atoms=20_000))
    assert not caplog.records
    with little_memory(300):
        parts = list(predictions(model, pieces, batch_atoms=20_000))
    assert "does not fit into memory" in caplog.text
    for one, other in zip(parts, whole, strict=True):
        assert one.get_potential_energy() == pytest.approx(other.get_potential_energy(), abs=1e-3)
        assert one.get_forces() == pytest.approx(other.get_forces(), abs=1e-3)


def test_a_structure_that_does_not_fit_is_named_with_what_would():
    model = potential("schnet", "mcgm").to("cuda")
    with little_memory(200), pytest.raises(TooLargeError, match=r"piece of 20000.*about \d+ atoms") as caught:
        list(predictions(model, [grown(20_000)]))
    fits = int(str(caught.value).split("about ")[1].split(" atoms")[0].replace(",", ""))
    assert 100 < fits < 20_000
    with little_memory(200), pytest.raises(TooLargeError, match="calculator"):
        MCGMCalculator(model, device="cuda").get_forces(grown(20_000).to_atoms())


def test_calculator_and_dynamics_run_on_the_gpu(tmp_path, capsys):
    path = tmp_path / "model.safetensors"
    model = potential("painn", "mcgm").double()
    model.save(path)
    atoms = molecule("CH3CH2OH")
    energies = []
    for device in ("cpu", "cuda"):
        atoms.calc = MCGMCalculator(path, device=device)
        energies.append(atoms.get_potential_energy())
    assert energies[1] == pytest.approx(energies[0], abs=1e-8)
    ase.io.write(tmp_path / "start.xyz", molecule("CH3CH2OH"))
    output = tmp_path / "md"
    words = ["md", str(path), str(tmp_path / "start.xyz"), "--steps", "20", "--device", "cuda"]
    assert main([*words, "-o", str(output)]) == 0
    assert main([*words, "--cuda-graphs", "-o", str(tmp_path / "recorded")]) == 0
    last = [ase.io.read(folder / "trajectory.extxyz", -1) for folder in (output, tmp_path / "recorded")]
    assert np.abs(last[0].positions - last[1].positions).max() < 1e-6


def labelled(folder):
    generator = np.random.default_rng(0)
    frames = []
    for k in range(24):
        piece = grown(20 + k).to_atoms()
        piece.positions += generator.normal(scale=0.05, size=piece.positions.shape)
        piece.info["energy"] = float(generator.normal())
        piece.arrays["forces"] = generator.normal(size=piece.positions.shape)
        frames.append(Atoms(piece.numbers, piece.positions, info=piece.info))
        frames[-1].arrays["forces"] = piece.arrays["forces"]
    ase.io.write(folder / "data.extxyz", frames)
    return folder / "data.extxyz"


@pytest.mark.parametrize("block", ["mcgm", "mcgm_paper"])
def test_training_on_the_gpu_makes_a_model_that_the_cpu_reads(tmp_path, block: str):
    recipe = {
        "data": {"path": str(labelled(tmp_path)), "split": {"train": 16, "val": 4, "test": 4}},
        "model": {"backbone": "schnet", "long_range": block, "cutoff": 4.0, "backbone_options": SMALL["schnet"]},
        "training": {"epochs": 2, "accelerator": "gpu", "tensorboard": False},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["train", str(tmp_path / "recipe.yaml"), "-o", str(tmp_path / "out")]) == 0
    model = load(tmp_path / "out" / "model.safetensors")
    energies = [
        model.to(device)(collated(model, [grown(30)], device)).energy.cpu().item() for device in ("cpu", "cuda")
    ]
    assert energies[1] == pytest.approx(energies[0], abs=1e-3)


SYSTEMS = {"molecule": lambda: molecule("CH3CH2OH"), "crystal": lambda: bulk("NaCl", "rocksalt", a=5.64, cubic=True)}


def frames(system: str, count: int = 40) -> list[Atoms]:
    """Atoms that move further than the skin lasts."""
    start, generator = SYSTEMS[system](), np.random.default_rng(0)
    step = generator.normal(scale=0.01, size=start.positions.shape)
    found = []
    for k in range(count):
        atoms = start.copy()
        atoms.positions += k * step
        atoms.info["charge"] = float(k % 2)
        found.append(atoms)
    return found


def results(calculator: MCGMCalculator, system: str) -> list[dict]:
    """Of all frames."""
    found = []
    for atoms in frames(system):
        atoms.calc = calculator
        atoms.get_forces()
        found.append(dict(calculator.results))
    return found


def assert_replays_agree(model, system: str, **options) -> MCGMCalculator:
    recorded = MCGMCalculator(model, device="cuda", cuda_graphs=True, skin=0.4, **options)
    plain = MCGMCalculator(model, device="cuda")
    for found, expected in zip(results(recorded, system), results(plain, system), strict=True):
        assert found["energy"] == pytest.approx(expected["energy"], rel=1e-10, abs=1e-9)
        for name in ("forces", "energies", "stress") if system == "crystal" else ("forces", "energies"):
            assert np.abs(found[name] - expected[name]).max() < 1e-8 * max(1.0, np.abs(expected[name]).max())
    assert 1 < recorded.rebuilds < 40
    return recorded


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("block", ["none", "mcgm", "mcgm_oriented"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_recorded_frames_are_those_of_the_network(backbone: str, block: str, system: str, caplog):
    recorded = assert_replays_agree(potential(backbone, block).double(), system)
    assert recorded.recordings >= recorded.rebuilds - 1  # the last search may be of the last frame
    assert not caplog.records


def test_what_waits_for_the_device_runs_as_it_is(caplog):
    before = torch.cuda.current_stream()
    recorded = assert_replays_agree(potential("schnet", "charges").double(), "crystal")
    assert recorded.recordings == 0
    assert caplog.text.count("cannot be recorded and runs as it is") == 1
    assert torch.cuda.current_stream() == before


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_frames_are_recorded_on_another_gpu_than_the_first():
    model = potential("schnet", "mcgm_oriented").double()
    for device in ("cuda:0", "cuda:1"):
        recorded = MCGMCalculator(model, device=device, cuda_graphs=True, skin=0.4)
        plain = MCGMCalculator(model, device=device)
        for found, expected in zip(results(recorded, "molecule"), results(plain, "molecule"), strict=True):
            assert found["energy"] == pytest.approx(expected["energy"], rel=1e-10, abs=1e-9)
        assert recorded.recordings > 0


@pytest.mark.filterwarnings("ignore:.*Online softmax is disabled")
def test_compiled_frames_are_recorded_too(caplog):
    recorded = assert_replays_agree(potential("schnet", "mcgm_oriented").double(), "molecule", compile=True)
    assert recorded.recordings > 0
    assert "cannot be recorded" not in caplog.text


def test_results_of_torch_sim_outlive_the_next_replay():
    model = MCGMModel(potential("schnet", "mcgm").double(), device="cuda", cuda_graphs=True)
    positions = torch.tensor(molecule("CH3CH2OH").positions, device="cuda")
    state = SimpleNamespace(
        positions=positions,
        atomic_numbers=torch.tensor(molecule("CH3CH2OH").numbers, device="cuda"),
        cell=torch.zeros(1, 3, 3, device="cuda", dtype=torch.float64),
        pbc=False,
        system_idx=torch.zeros(len(positions), dtype=torch.int64, device="cuda"),
    )
    kept = []
    for _ in range(6):
        state.positions = state.positions + 0.01 * torch.randn_like(state.positions)
        outputs = model(state)
        kept.append((outputs["forces"], outputs["forces"].clone()))
    assert all(torch.equal(one, other) for one, other in kept)
    assert not torch.equal(kept[-1][0], kept[-2][0])


@pytest.mark.parametrize("block", ["none", "mcgm", "mcgm_oriented"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_recorded_training_steps_have_the_gradients_of_the_network(backbone: str, block: str, caplog):
    dataset = Dataset.open("sample")
    torch.manual_seed(0)
    model = build(backbone=backbone, long_range=block, cutoff=CUTOFF, backbone_options=SMALL[backbone]).double().train()
    chosen = [[dataset[8 * k + j] for j in range(8)] for k in range(6)]
    exact = [Batch.from_structures(each, cutoff=CUTOFF, dtype=torch.float64) for each in chosen]
    collate = Collate(model, torch.float64, Filling.of(exact, model.specification.index_reach))
    made = [collate(each) for each in chosen]
    recorded = RecordedNetwork(model.to("cuda"))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-4)
    for data in (each.to(torch.device("cuda")) for each in made):
        found = recorded(data.batch, data.filled, forces=True)
        expected = model(model.index(data.batch))
        gradients = []
        for prediction in (found, expected):
            loss = prediction.energy.square().mean() + prediction.forces.square().mean()
            gradients.append(torch.autograd.grad(loss, parameters, allow_unused=True))
        one, other = found.forces.detach(), expected.forces.detach()
        assert (one - other).abs().max() < 1e-8 * max(1.0, float(other.abs().max()))
        for parameter, one, other in zip(parameters, *gradients, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                assert (one - other).abs().max() <= 1e-8 * max(1e-3, float(other.abs().max()))
                parameter.grad = one / max(1.0, float(one.norm()))
        optimizer.step()
    assert 1 <= recorded.recordings <= 4
    assert not caplog.records


def test_recorded_training_ends_where_the_other_does(tmp_path):
    weights = {}
    for recorded in (False, True):
        recipe = {
            "data": {"path": str(labelled(tmp_path)), "split": {"train": 16, "val": 4, "test": 4}},
            "model": {"backbone": "schnet", "cutoff": CUTOFF, "backbone_options": SMALL["schnet"]},
            "training": {
                "epochs": 3,
                "batch_structures": 4,
                "precision": "float64",
                "cuda_graphs": recorded,
                "tensorboard": False,
            },
        }
        path = tmp_path / f"{recorded}.yaml"
        path.write_text(yaml.safe_dump(recipe))
        assert main(["train", str(path), "-o", str(tmp_path / str(recorded))]) == 0
        weights[recorded] = load(tmp_path / str(recorded) / "model.safetensors").state_dict()
    for name, value in weights[False].items():
        assert torch.allclose(weights[True][name], value, rtol=1e-5, atol=1e-7), name
