"""Neighbour lists against a slow search over all images, written independently."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcgm.batch import Batch
from mcgm.errors import StructureError
from mcgm.neighbors import DENSE_UP_TO, find_neighbors
from mcgm.structure import Structure

ORTHOGONAL = np.diag([7.0, 8.0, 9.0])
SKEWED = np.array([[6.0, 0.0, 0.0], [4.5, 3.0, 0.0], [-2.5, 3.5, 5.0]])
TINY = np.array([[2.1, 0.0, 0.0], [0.4, 2.3, 0.0], [0.0, 0.6, 1.9]])
OPEN, FULL = (False, False, False), (True, True, True)


def random_structure(n_atoms, cell, pbc, seed, spread=6.0):
    """Atoms at least 0.5 Å apart; some of them outside the cell."""
    random = np.random.default_rng(seed)
    chosen = []
    while len(chosen) < n_atoms:
        candidate = random.uniform(-0.3 * spread, spread, 3)
        if all(image_distances(candidate - other, cell, pbc, 2).min() > 0.5 for other in chosen):
            chosen.append(candidate)
    return Structure(numbers=np.full(n_atoms, 6), positions=np.array(chosen), cell=cell, pbc=pbc, name=f"random {seed}")


def images(pbc, reach):
    return np.array(list(itertools.product(*(range(-reach, reach + 1) if periodic else (0,) for periodic in pbc))))


def image_distances(vector, cell, pbc, reach):
    return np.linalg.norm(vector + images(pbc, reach) @ cell, axis=1)


def slow_pairs(structure, cutoff):
    """Set of (target, source, image): every image that could matter, one by one."""
    reach = 0
    if structure.pbc.any():
        complete = structure.cell.copy()
        for axis in np.flatnonzero(~structure.pbc):
            others = complete[[k for k in range(3) if k != axis]]
            normal = np.cross(*others)
            complete[axis] = normal / np.linalg.norm(normal) if np.linalg.norm(normal) > 0 else np.eye(3)[axis]
        fractional = np.linalg.solve(complete.T, structure.positions.T).T
        height = 1 / np.linalg.norm(np.linalg.inv(complete), axis=0)
        spread = np.ceil(np.ptp(fractional[:, structure.pbc], axis=0).max())
        reach = int(np.ceil(cutoff / height[structure.pbc].min()) + spread)
    shifts = images(structure.pbc, reach)
    found = set()
    for i, j in itertools.product(range(len(structure)), repeat=2):
        distance = np.linalg.norm(structure.positions[j] - structure.positions[i] + shifts @ structure.cell, axis=1)
        for shift in shifts[distance < cutoff]:
            if i != j or shift.any():
                found.add((i, j, *map(int, shift)))
    return found


def listed_pairs(neighbors):
    columns = torch.cat([neighbors.target[:, None], neighbors.source[:, None], neighbors.image], dim=1)
    return [tuple(row) for row in columns.tolist()]


@pytest.mark.parametrize("cutoff", [2.0, 5.0])
@pytest.mark.parametrize(
    ("cell", "pbc", "n_atoms"),
    [
        (np.zeros((3, 3)), OPEN, 12),
        (ORTHOGONAL, OPEN, 12),
        (ORTHOGONAL, FULL, 10),
        (SKEWED, FULL, 8),
        (TINY, FULL, 1),
        (TINY, FULL, 3),
        (ORTHOGONAL, (True, False, False), 8),
        (ORTHOGONAL, (False, True, True), 8),
        (SKEWED, (True, True, False), 6),
        (np.diag([0.0, 0.0, 4.0]), (False, False, True), 4),
    ],
    ids=["open", "open in a cell", "periodic", "skewed", "tiny 1", "tiny 3", "rod", "slab", "skewed slab", "wire"],
)
def test_pairs_are_those_of_a_slow_search_over_all_images(cell, pbc, n_atoms, cutoff):
    structure = random_structure(n_atoms, cell, pbc, seed=n_atoms, spread=4.0 if n_atoms > 3 else 2.0)
    listed = listed_pairs(find_neighbors([structure], cutoff))
    assert len(listed) == len(set(listed))
    assert set(listed) == slow_pairs(structure, cutoff)


@given(
    n_atoms=st.integers(1, 6),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    cell_seed=st.integers(0, 2**16),
    cutoff=st.floats(1.0, 5.0),
)
@settings(derandomize=True, max_examples=30, deadline=None, database=None)
def test_pairs_of_random_cells_are_those_of_a_slow_search(n_atoms, pbc, cell_seed, cutoff):
    random = np.random.default_rng(cell_seed)
    cell = np.diag(random.uniform(3.0, 7.0, 3)) + random.uniform(-1.2, 1.2, (3, 3))
    structure = random_structure(n_atoms, cell, pbc, seed=cell_seed)
    listed = listed_pairs(find_neighbors([structure], cutoff))
    assert len(listed) == len(set(listed))
    assert set(listed) == slow_pairs(structure, cutoff)


@pytest.mark.parametrize(
    ("cell", "pbc", "numbers", "reach"),
    [
        (np.array([[4.0, 0, 0], [400.0, 4.0, 0], [0, -400.0, 4.0]]), FULL, 4, 0.0),
        (np.array([[4.0, 0, 0], [1e5, 4.0, 0], [0, 0, 5.0]]), (True, True, False), 4, 0.0),
        (np.diag([1.9, 1e4, 1e4]), FULL, 3, 0.0),
        (np.zeros((3, 3)), OPEN, 180, 1e6),
        (np.diag([2.0, 2.6, 0.0]), (True, True, False), 3, 3e4),
        (np.diag([0.0, 2.6, 0.0]), (False, True, False), 3, 1e5),
    ],
    ids=["skewed", "skewed slab", "thin", "open line", "slab after dynamics", "wire far away"],
)
def test_lattices_and_distances_at_which_a_search_would_hang_or_crash(cell, pbc, numbers, reach):
    """Against the same lattice with short vectors, wrapped atoms, or no vacuum between distant parts."""
    random = np.random.default_rng(numbers)
    turn = np.linalg.qr(random.normal(size=(3, 3)))[0]
    positions = np.outer(np.arange(numbers), [0.0, 0.0, 1.1]) + random.uniform(-0.1, 0.1, (numbers, 3))
    near = Structure(numbers=np.full(numbers, 6), positions=positions, cell=short_vectors(cell), pbc=pbc)
    axis = 1 if pbc == (False, True, False) else 0
    steps = np.round(reach / cell[axis, axis]) * cell[axis, axis] if pbc[axis] else reach
    moved = positions + np.outer(np.arange(numbers) % 2, np.eye(3)[axis]) * steps
    far = Structure(numbers=near.numbers, positions=moved @ turn, cell=cell @ turn, pbc=pbc)
    found = Batch.from_structures([far], cutoff=3.0, dtype=torch.float64).edges
    expected = Batch.from_structures([near], cutoff=3.0, dtype=torch.float64).edges
    same_part = np.ones(len(expected.length), dtype=bool)
    if not any(pbc):
        same_part = ((expected.source - expected.target) % 2 == 0).numpy()
    lengths = expected.length[torch.from_numpy(same_part)]
    torch.testing.assert_close(found.length.sort().values, lengths.sort().values, rtol=0, atol=1e-8)


def short_vectors(cell):
    """The lattices above without their skew and without more vacuum than the cutoff needs."""
    return np.diag(np.minimum(np.diagonal(cell), 20.0))


def test_more_neighbors_than_any_material_has_are_refused_before_they_are_listed():
    small = Structure(numbers=[6], positions=[[0, 0, 0]], cell=0.12 * np.eye(3), pbc=True, name="dense")
    with pytest.raises(StructureError, match=r"'dense': about .* neighbours per atom within 6 Å.*unit of length"):
        find_neighbors([small], 6.0)
    clump = Structure(numbers=np.full(3000, 1), positions=np.random.default_rng(0).uniform(0, 3, (3000, 3)))
    with pytest.raises(StructureError, match="about 2,999 neighbours per atom"):
        find_neighbors([clump], 6.0)
    salt = Structure(
        numbers=np.full(8, 11), positions=np.zeros((8, 3)) + np.arange(8)[:, None], cell=4 * np.eye(3), pbc=True
    )
    with pytest.raises(StructureError, match="apart"):
        find_neighbors([salt], 12.0)


def test_a_ragged_batch_lists_the_pairs_of_each_structure_alone():
    structures = [
        random_structure(5, np.zeros((3, 3)), OPEN, 1),
        random_structure(4, SKEWED, FULL, 2, spread=3.0),
        random_structure(1, np.zeros((3, 3)), OPEN, 3),
        random_structure(9, np.zeros((3, 3)), OPEN, 4),
        random_structure(2, TINY, FULL, 5, spread=1.5),
    ]
    expected, offset = set(), 0
    for structure in structures:
        expected |= {(i + offset, j + offset, *image) for i, j, *image in slow_pairs(structure, 4.0)}
        offset += len(structure)
    neighbors = find_neighbors(structures, 4.0)
    assert set(listed_pairs(neighbors)) == expected
    assert (neighbors.target.diff() >= 0).all()


def test_both_searches_of_open_molecules_agree():
    spaced = np.stack(np.meshgrid(*[np.arange(6)] * 3), axis=-1).reshape(-1, 3)[: DENSE_UP_TO + 20] * 1.5
    positions = spaced + np.random.default_rng(0).uniform(-0.4, 0.4, spaced.shape)
    large = Structure(numbers=np.full(len(positions), 6), positions=positions)
    assert set(listed_pairs(find_neighbors([large], 4.0))) == slow_pairs(large, 4.0)


@pytest.mark.parametrize("far", [0, 3, 100_000], ids=["inside", "near", "too far for one number a pair"])
@pytest.mark.parametrize(("cell", "pbc"), [(ORTHOGONAL, FULL), (SKEWED, FULL), (ORTHOGONAL, (True, True, False))])
def test_atoms_in_other_cells_have_the_same_pairs_in_the_same_order(cell, pbc, far):
    """By target, source and image; the images count what was moved."""
    structure = random_structure(20, cell, pbc, seed=3)
    cells = np.random.default_rng(0).integers(-far, far + 1, (20, 3)) * np.array(pbc)
    moved = Structure(numbers=structure.numbers, positions=structure.positions + cells @ cell, cell=cell, pbc=pbc)
    expected = [
        (i, j, *(np.array(image) + cells[i] - cells[j]))
        for i, j, *image in listed_pairs(find_neighbors([structure], 5.0))
    ]
    neighbors = find_neighbors([moved], 5.0)
    assert listed_pairs(neighbors) == sorted(expected)
    assert neighbors.crossing.tolist() == [k for k, (_, _, *image) in enumerate(sorted(expected)) if any(image)]


@pytest.mark.parametrize(("name", "value"), [("MOST_BITS", 0), ("NEARLY", 0.0), ("NEARLY", 2.0)])
def test_ways_of_ordering_pairs_and_reading_images_agree(name, value, monkeypatch):
    cell = np.array([[4.0, 0.0, 0.0], [1.0, 5.0, 0.0], [0.0, 2.0, 4.5]])
    positions = np.random.default_rng(0).uniform(-9.0, 9.0, (5, 3))
    structure = Structure(numbers=np.ones(5, dtype=int), positions=positions, cell=cell, pbc=[True, True, True])
    expected = find_neighbors([structure], 6.0)
    monkeypatch.setattr(f"mcgm.ordered_pairs.{name}", value)
    found = find_neighbors([structure], 6.0)
    for part in ("source", "target", "image", "crossing"):
        assert torch.equal(getattr(found, part), getattr(expected, part)), part
    assert len(expected.crossing) > 100


def test_edges_hold_both_directions_and_point_from_target_to_source():
    structure = random_structure(6, SKEWED, FULL, 7, spread=4.0)
    batch = Batch.from_structures([structure], cutoff=5.0, dtype=torch.float64)
    edges, image = batch.edges, batch.neighbors.image
    forward = set(listed_pairs(batch.neighbors))
    assert {(j, i, -a, -b, -c) for i, j, a, b, c in forward} == forward
    expected = batch.positions[edges.source] - batch.positions[edges.target] + image.double() @ batch.cell[0]
    torch.testing.assert_close(edges.vector, expected, rtol=0, atol=1e-13)
    assert float(edges.length.max()) < 5.0


def test_edge_vectors_follow_a_strain_of_the_cell():
    structure = random_structure(4, SKEWED, FULL, 8, spread=4.0)
    batch = Batch.from_structures([structure], cutoff=5.0, dtype=torch.float64)
    strain = torch.eye(3, dtype=torch.float64) + 0.02 * torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    strained = batch.replace(positions=batch.positions @ strain, cell=batch.cell @ strain)
    torch.testing.assert_close(strained.edges.vector, batch.edges.vector @ strain, rtol=0, atol=1e-12)


def test_no_cap_a_dense_cluster_lists_every_pair():
    positions = np.random.default_rng(1).permutation(
        np.stack(np.meshgrid(*[np.arange(5)] * 3), axis=-1).reshape(-1, 3) * 0.5
    )
    structure = Structure(numbers=np.full(125, 6), positions=positions)
    assert len(find_neighbors([structure], 20.0).source) == 125 * 124


@pytest.mark.parametrize("pbc", [OPEN, FULL])
def test_overlapping_atoms_are_named(pbc):
    positions = np.array([[0.0, 0, 0], [3.0, 0, 0], [3.0, 0.05, 0]])
    structure = Structure(numbers=[6, 6, 8], positions=positions, cell=np.eye(3) * 9, pbc=pbc, name="twice")
    with pytest.raises(StructureError, match=r"'twice'.*atoms 1 and 2"):
        find_neighbors([structure], 4.0)


def test_an_atom_that_meets_its_own_image_is_named():
    with pytest.raises(StructureError, match="atom 0 and its own periodic image"):
        find_neighbors([Structure(numbers=[1], positions=[[0, 0, 0]], cell=np.eye(3) * 0.05, pbc=True)], 0.2)


def test_structures_without_pairs_give_no_edges():
    structures = [
        Structure(numbers=[1], positions=[[0, 0, 0]]),
        Structure(numbers=[1, 1], positions=[[0, 0, 0], [9, 0, 0]]),
    ]
    batch = Batch.from_structures(structures, cutoff=5.0)
    assert batch.edges.length.shape == (0,)
    assert batch.edges.vector.shape == (0, 3)


def test_a_cell_too_skewed_for_its_images_to_be_resolved_is_refused_with_short_vectors():
    skewed = np.array([[1.0, 0, 0], [6000.0, 1.0, 0], [0, 8000.0, 1.0]])
    crystal = Structure(numbers=[14], positions=[[0, 0, 0]], cell=skewed, pbc=True, name="skewed")
    with pytest.raises(
        StructureError, match=r"'skewed': its neighbours are sums of cell vectors .* shorter vectors: \[\["
    ):
        find_neighbors([crystal], 3.0)
