"""RANGE: against a slow evaluation molecule by molecule, and what it promises and does not."""

from copy import deepcopy
from functools import cache

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from mcgm import Batch, attach, build, load
from mcgm.backbones import BACKBONES
from mcgm.errors import ConfigError
from mcgm.long_range import RANGE
from mcgm.testing import DOUBLE, InvarianceSuite, PhysicsSuite, copies_apart, unlike_apart, zoo
from mcgm.testing.independence import supercell
from mcgm.testing.limits import degenerate
from mcgm.testing.predict import predict
from mcgm.testing.symmetry import lattice_translation

CUTOFF = 4.0
CHANNELS, LAYERS = 6, 2
SMALL = {"nodes": 3, "node_channels": 8, "heads": 2, "radial": 5}


def salt():
    atoms = bulk("NaCl", "rocksalt", 5.64, cubic=True)
    atoms.rattle(0.1, seed=1)
    return atoms


def batch_of(*atoms):
    return Batch.from_atoms(list(atoms), cutoff=CUTOFF, dtype=torch.float64)


def make_block(**options):
    torch.manual_seed(0)
    return RANGE(**SMALL | options).build(CHANNELS, LAYERS).double()


@cache
def make_potential(backbone="schnet", **options):
    torch.manual_seed(3)
    widths = {"channels": 8, "layers": 2} | ({"heads": 2} if backbone == "visnet" else {})
    settings = {"backbone_options": widths, "cutoff": CUTOFF, "long_range_options": SMALL | options}
    potential = build(backbone=backbone, long_range="range", **settings)
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        # fresh weights have no unit: limits are meant for forces of ordinary size
        (labelled,) = predict(potential.eval(), [zoo()["alanine dipeptide"]])
        potential.scale.mul_(2.0 / abs(labelled.forces).max())
    return potential.double()


# --- the oracle: equations as they stand, one molecule, one master node, one atom and one head at a time


def norm(values, layer):
    centred = values - values.mean()
    return centred / torch.sqrt((centred**2).mean() + layer.eps) * layer.weight + layer.bias


def split(values, heads):
    return values.reshape(heads, -1)


def score(scores, head, hidden):
    part = split(hidden, scores.heads)[head]
    return (scores.direction[head] * torch.where(part > 0, part, 0.01 * part)).sum()


def places_of(block, atoms):
    """Basis functions of the distance to the centroid, nearest image by fractions of the cell."""
    positions = atoms.positions - atoms.positions.mean(axis=0)
    if atoms.pbc.any():
        fractions = np.linalg.solve(atoms.cell.T, positions.T).T
        positions = (fractions - np.round(fractions)) @ atoms.cell
    distance = np.sqrt((positions**2).sum(axis=1) + 0.1**2) - 0.1
    relative = distance / distance.max() if distance.max() > 0 else distance
    radial = SMALL["radial"]
    spacing = 1 / (radial - 1)
    return torch.tensor([[np.exp(-(((x - k * spacing) / spacing) ** 2) / 2) for k in range(radial)] for x in relative])


def strengths_of(block, count):
    if not hasattr(block.strength, "base"):
        return torch.ones(SMALL["nodes"], dtype=torch.float64)
    found, module = [torch.tensor(1.0, dtype=torch.float64)], block.strength
    size = (count - 5) / (100 - 5)
    for base, steepness, ratio in zip(module.base, module.steepness, module.ratio, strict=True):
        first = 1 + abs(steepness)
        last = first * torch.tanh(abs(ratio))
        found.append(abs(base) ** abs(first * (1 - size) + last * size))
    return torch.stack(found)


def aggregated(module, features, masters, places):
    heads, new = module.scores.heads, []
    for master in masters:
        pooled = []
        for head in range(heads):
            hidden = [
                module.query.weight @ master + module.key.weight @ h + module.place.weight @ e
                for h, e in zip(features, places, strict=True)
            ]
            weight = torch.softmax(torch.stack([score(module.scores, head, item) for item in hidden]), dim=0)
            values = [split(module.value.weight @ h, heads)[head] for h in features]
            pooled.append(sum(w * v for w, v in zip(weight, values, strict=True)))
        new.append(torch.tanh(norm(torch.cat(pooled), module.output[0])))
    return new


def broadcast(module, h, masters, place, strength):
    heads, mixed = module.scores.heads, []
    query = module.query.weight @ h
    for head in range(heads):
        keys = [
            torch.cat([split(m, heads)[k] @ module.node_key[k] for k in range(heads)]) + module.place.weight @ place
            for m in masters
        ]
        keys.append(module.key.weight @ h)
        weight = torch.softmax(torch.stack([score(module.scores, head, query + key) for key in keys]), dim=0)
        values = [split(m, heads)[head] @ module.node_value[head] for m in masters]
        relayed = sum(t * w * v for t, w, v in zip(strength, weight[:-1], values, strict=True))
        mixed.append(relayed + weight[-1] * split(module.value.weight @ h, heads)[head])
    first, normalise, _, last = module.output
    return last.weight @ torch.tanh(norm(first.weight @ torch.cat(mixed), normalise))


def slowly(block, structures, features):
    """Updates of both layers when the scalars of the second are the first's with the update."""
    updates = []
    for atoms, scalars in zip(structures, features, strict=True):
        places, strength = places_of(block, atoms), strengths_of(block, len(atoms))
        masters, found = list(block.masters), []
        for layer in range(LAYERS):
            masters = aggregated(block.aggregations[layer], scalars, masters, places)
            new = [
                broadcast(block.broadcasts[layer], h, masters, e, strength)
                for h, e in zip(scalars, places, strict=True)
            ]
            found.append(torch.stack(new) - (scalars if block.update.__name__ == "replaced" else 0))
            scalars = scalars + found[-1]
        updates.append(torch.stack(found))
    return torch.cat(updates, dim=1)


@pytest.mark.parametrize("options", [{}, {"regularisation": "none", "update": "add"}], ids=["paper", "plain, added"])
def test_a_batch_gives_what_the_equations_give_one_by_one(options):
    structures = [molecule("CH3OH"), Atoms("He"), salt(), molecule("H2O")][:: 1 if not options else 3]
    batch, block = batch_of(*structures), make_block(**options)
    scalars = torch.randn(batch.n_atoms, CHANNELS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    state, found = block.begin(batch, block.index(batch), clusters=None, generator=None), []
    features = scalars.split([len(atoms) for atoms in structures])
    for layer in range(LAYERS):
        update, state = block.exchange(layer, scalars, state)
        scalars = scalars + update
        found.append(update)
    expected = slowly(block, structures, features)
    torch.testing.assert_close(torch.stack(found), expected, rtol=1e-10, atol=1e-12)
    assert expected.std() > 0.1
    assert len(block.contribution(scalars, state).energy) == 0


def test_strengths_begin_with_one_and_grow_with_the_size():
    strength = make_block().strength
    sizes = [5, 40, 100]
    members = make_block().index(batch_of(*(Atoms("H" * n, np.arange(3 * n).reshape(n, 3)) for n in sizes))).members
    found = strength(members)
    assert found[:, 0].tolist() == [1, 1, 1]
    assert (found[1:, 1:] > found[:-1, 1:]).all()
    torch.testing.assert_close(found, torch.stack([strengths_of(make_block(), n) for n in sizes]))


def test_the_penalty_is_the_mean_size_of_the_bases():
    block = make_block(penalty=0.5)
    torch.testing.assert_close(block.penalty(), 0.5 * block.strength.base.abs().mean())
    for options in ({"penalty": 0.0}, {"regularisation": "none"}, {"nodes": 1}):
        assert make_block(**options).penalty() is None


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_takes_it_and_a_file_keeps_it(backbone, tmp_path):
    potential = make_potential(backbone)
    structures = [zoo()["HCN"], zoo()["alanine dipeptide"]]
    assert set(potential.not_promised) == {"smooth", "derivatives", "wrapping", "copies", "supercell", "isolation"}
    potential.save(tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert again.specification == potential.specification
    for before, after in zip(predict(potential, structures), predict(again, structures), strict=True):
        assert before.energy == after.energy
        assert np.isfinite(before.forces).all()


def test_it_can_be_attached(bare_network):
    torch.manual_seed(0)

    batch = batch_of(molecule("CH3OH"), molecule("H2O")).to(torch.float32)
    inputs = batch.numbers, batch.positions, batch.molecule
    model = bare_network()
    before = model(*inputs)
    attach(model, "range", layers=list(model.layers), channels=6)
    assert (model(*inputs) - before).abs().min() > 1e-4


@pytest.mark.parametrize(
    "options",
    [
        {"nodes": 0},
        {"heads": 3, "node_channels": 8},
        {"radial": 1},
        {"activation": "relu"},
        {"regularisation": "l1"},
        {"largest": 5},
        {"penalty": -1.0},
        {"softening": 0.0},
        {"update": "mix"},
    ],
    ids=str,
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigError, match=r"required|choice"):
        RANGE(**options)


# --- what it promises


def without_ties():
    """No two atoms equally far from the centroid, where another would become the farthest one."""
    animals = zoo()
    rattled = animals["CH4"].positions + np.random.default_rng(0).normal(scale=0.1, size=(5, 3))
    return [animals["HCN"], animals["CH4"].replace(positions=rattled), animals["alanine dipeptide"]]


class RangeClaims:
    count = 3

    def structures(self):
        return [*without_ties(), zoo()["NaCl cell"]]

    def not_promised(self):
        """Derivatives are right where no two atoms tie."""
        return {key: why for key, why in self.potential().not_promised.items() if key != "derivatives"}


class TestInDouble(RangeClaims, PhysicsSuite):
    # numerical in all coordinates; the check of the Hessian along one direction says the same
    test_gradgradcheck_accepts_positions_and_cell = None

    def potential(self):
        return make_potential()


class TestAddedInSingle(RangeClaims, InvarianceSuite):
    def structures(self):
        return [zoo()["HCN"], zoo()["NaCl cell"]]

    def potential(self):
        return deepcopy(make_potential("painn", update="add", regularisation="none")).float()


# --- what it does not


def test_forces_jump_where_another_atom_becomes_the_farthest():
    """Continuous energy, broken slope: four hydrogens tie in methane."""
    potential, methane = make_potential(), zoo()["CH4"]

    def moved(step):
        positions = methane.positions.copy()
        positions[1] *= 1 + step
        return methane.replace(positions=positions)

    steps = (1e-4, 1e-6)
    changes = []
    for step in steps:
        inside, outside = predict(potential, [moved(-step), moved(step)])
        changes.append((abs(inside.energy - outside.energy), abs(inside.forces - outside.forces).max()))
    assert changes[1][0] < 0.1 * changes[0][0]
    assert changes[1][1] > 0.5 * changes[0][1] > 1e-4


def test_the_centroid_follows_an_atom_that_is_wrapped_and_lone_atoms_feel_others():
    potential = make_potential()
    assert lattice_translation(potential, zoo()["NaCl cell"], count=3).energy > 100 * DOUBLE.energy
    assert 0 < degenerate(potential) < 10.0


def test_copies_cells_and_far_molecules_do_not_add_up():
    potential, animals = make_potential(), zoo()
    assert copies_apart(potential, animals["alanine dipeptide"]) > 100 * DOUBLE.copies
    assert unlike_apart(potential, animals["caffeine"], animals["CH4"]) > 100 * DOUBLE.unlike
    assert supercell(potential, animals["NaCl cell"]).energy > 100 * DOUBLE.energy


def test_the_place_relative_to_the_centroid_is_felt_beyond_every_cutoff():
    potential, water = make_potential(), molecule("H2O")
    far = [water + Atoms("Ar", [[0, 0, z]]) for z in (30.0, 40.0)]
    batch = batch_of(*far)
    near, away = potential(batch, forces=False).energy.detach()
    assert abs(near - away) > 1e-6
