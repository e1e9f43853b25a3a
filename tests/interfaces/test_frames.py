"""Frames whose pairs stay listed in the skin: the same predictions, from an index that is made once."""

from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk, molecule

from mcgm import Batch, Structure
from mcgm.backbones import BACKBONES
from mcgm.errors import ConfigError, StructureError
from mcgm.interfaces.admission import admit
from mcgm.interfaces.ase import MCGMCalculator
from mcgm.interfaces.frames import RecordedFrames
from mcgm.interfaces.skin import KeptNeighbors
from mcgm.interfaces.torch_sim import MCGMModel
from mcgm.long_range import BLOCKS
from mcgm.long_range.orientation import OrientationExchange

CUTOFF, SKIN = 4.0, 0.6


@pytest.fixture
def potential(small_network):
    """The function that makes one of this cutoff."""
    return lambda *names, **options: small_network(*names, cutoff=CUTOFF, **options).eval()


def can_be_kept(block: str) -> bool:
    specification = BLOCKS[block]()
    return specification.index_reads != "positions" and not specification.has_labels


KEPT = [name for name in BLOCKS if can_be_kept(name)]


def start() -> list[Structure]:
    """An ion in the open and a sheared crystal."""
    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    salt.set_cell([[5.64, 0, 0], [0.5, 5.5, 0], [-0.4, 0.3, 5.8]], scale_atoms=True)
    ion = molecule("CH3CH2OH")
    ion.info["charge"] = 1.0
    return [Structure.from_atoms(atoms) for atoms in (ion, salt)]


def moved(structures: list[Structure], frame: int) -> list[Structure]:
    """As they are at first; then four fifths of what the skin allows, and a small strain of the cells."""
    if frame == 0:
        return structures
    generator = np.random.default_rng(frame)
    found = []
    for structure in structures:
        strain = np.eye(3) + generator.uniform(-0.002, 0.002, size=(3, 3))
        steps = generator.normal(size=structure.positions.shape)
        steps *= 0.4 * SKIN / np.linalg.norm(steps, axis=1, keepdims=True)
        if structure.pbc.any():
            cell = structure.cell @ strain
            found.append(structure.replace(positions=structure.positions @ strain + steps, cell=cell))
        else:
            found.append(structure.replace(positions=structure.positions + steps, charge=float(frame)))
    return found


def frames_of(model) -> RecordedFrames:
    admitted, _ = admit(model, allow_discontinuous=True)
    return RecordedFrames(KeptNeighbors(CUTOFF, SKIN), admitted)


def expected(model, structures):
    return model(Batch.from_structures(structures, cutoff=CUTOFF, dtype=model.dtype), stress=True)


def assert_kept_frames_are_right(model, tolerance=1e-9):
    frames, structures = frames_of(model), start()
    for frame in range(4):
        now = moved(structures, frame)
        found = frames.predict(now, stress=True, name="frame")
        wanted = expected(model, now)
        for name in ("energy", "forces", "stress"):
            one, other = getattr(found, name), getattr(wanted, name)
            assert (one - other).abs().max() <= tolerance * max(1.0, float(other.abs().max())), (name, frame)
    assert frames.neighbors.rebuilds == len(structures)


@pytest.mark.filterwarnings("ignore:this potential promises no invariance")
@pytest.mark.parametrize("block", KEPT)
def test_blocks_agree_with_what_is_made_for_every_frame(block, potential):
    assert_kept_frames_are_right(potential(long_range=block))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_backbones_agree_with_what_is_made_for_every_frame(backbone, potential):
    assert_kept_frames_are_right(potential(backbone))


def test_float32_agrees(potential):
    assert_kept_frames_are_right(potential().float(), tolerance=1e-5)


def test_an_index_without_the_skin_is_found_out(monkeypatch, potential):
    whole = OrientationExchange.index
    monkeypatch.setattr(OrientationExchange, "index", lambda self, batch: whole(self, replace(batch, skin=0.0)))
    with pytest.raises(AssertionError):
        assert_kept_frames_are_right(potential())


def test_the_index_is_made_once_per_search(monkeypatch, potential):
    model, calls = potential(), []
    whole = OrientationExchange.index
    monkeypatch.setattr(OrientationExchange, "index", lambda self, batch: calls.append(1) or whole(self, batch))
    frames, structures = frames_of(model), start()
    for frame in range(4):
        frames.predict(moved(structures, frame), stress=False, name="frame")
    assert len(calls) == 1
    far = [
        structure.replace(positions=structure.positions * 1.2, cell=structure.cell * 1.2) for structure in structures
    ]
    found = frames.predict(far, stress=True, name="frame")
    assert len(calls) == 2
    assert (found.forces - expected(model, far).forces).abs().max() < 1e-9


def test_atoms_wrapped_into_the_cell_are_searched_again(potential):
    model = potential()
    frames, (_, salt) = frames_of(model), start()
    frames.predict([salt], stress=False, name="frame")
    positions = salt.positions.copy()
    positions[3] += salt.cell[1]
    found = frames.predict([salt.replace(positions=positions)], stress=False, name="frame")
    assert frames.neighbors.rebuilds == 2
    assert (found.forces - expected(model, [salt]).forces).abs().max() < 1e-9


def test_other_lists_of_structures_are_searched(potential):
    model = potential()
    frames, (ion, salt) = frames_of(model), start()
    for structures in ([ion, salt], [ion], [salt], [ion, ion]):
        found = frames.predict(structures, stress=True, name="frame")
        wanted = expected(model, structures)
        assert (found.energy - wanted.energy).abs().max() < 1e-9
        assert (found.stress - wanted.stress).abs().max() < 1e-9


def test_nothing_of_before_is_left_after_an_error(potential):
    model = potential(elements=[1, 6, 8, 11, 17])
    frames, (ion, salt) = frames_of(model), start()
    frames.predict([ion], stress=False, name="frame")
    unknown = ion.replace(numbers=np.where(ion.numbers == 8, 16, ion.numbers))
    for _ in range(2):
        with pytest.raises(StructureError, match="not trained on"):
            frames.predict([unknown], stress=False, name="frame")
    frames.predict([ion, salt], stress=False, name="frame")
    stretched, touching = ion.replace(positions=1.2 * ion.positions), salt.positions.copy()
    touching[1] = touching[0]
    with pytest.raises(StructureError, match="Å apart"):
        frames.predict([stretched, salt.replace(positions=touching)], stress=False, name="frame")
    found = frames.predict([stretched, salt], stress=False, name="frame")
    assert (found.forces - expected(model, [stretched, salt]).forces).abs().max() < 1e-9


def test_what_cannot_be_recorded_is_refused(potential):
    for long_range, options, words in (
        ("mcgm_paper", {}, "looks for clusters in every frame"),
        ("mcgm", {"long_range_options": {"scope": "molecule"}}, "which atoms know of each other"),
        ("neural_p3m", {}, "which atoms know of each other"),
    ):
        model = potential(long_range=long_range, **options)
        with pytest.raises(ConfigError, match=words):
            RecordedFrames(KeptNeighbors(CUTOFF, SKIN), model)
    for make in (MCGMCalculator, MCGMModel):
        with pytest.raises(ConfigError, match="cuda_graphs needs a GPU; the device is cpu"):
            make(potential(), cuda_graphs=True)
