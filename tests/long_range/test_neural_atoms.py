"""Neural Atoms: against a slow evaluation molecule by molecule, and what they promise and do not."""

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
from mcgm.long_range import NeuralAtoms
from mcgm.testing import DOUBLE, InvarianceSuite, PhysicsSuite, copies_apart, unlike_apart, zoo
from mcgm.testing.independence import supercell
from mcgm.testing.predict import predict

CUTOFF = 4.0
CHANNELS, LAYERS = 6, 2
SMALL = {"expected_atoms": 20, "proportion": 0.15, "residuals": 1}


def batch_of(*atoms):
    return Batch.from_atoms(list(atoms), cutoff=CUTOFF, dtype=torch.float64)


@cache
def make_potential(backbone="schnet", **options):
    torch.manual_seed(3)
    widths = {"channels": 8, "layers": 2} | ({"heads": 2} if backbone == "visnet" else {})
    settings = {"backbone_options": widths, "cutoff": CUTOFF, "long_range_options": SMALL | options}
    potential = build(backbone=backbone, long_range="neural_atoms", **settings)
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        # fresh weights have no unit: limits are meant for forces of ordinary size
        (labelled,) = predict(potential.eval(), [zoo()["alanine dipeptide"]])
        potential.scale.mul_(2.0 / abs(labelled.forces).max())
    return potential.double()


# --- the oracle: equations as they stand, one molecule, one neural atom, one atom and one head at a time


def scaled_silu(x):
    return x * torch.sigmoid(x) / 0.6


def residual(module, x):
    hidden = scaled_silu(module.first.weight @ x)
    return (x + scaled_silu(module.second.weight @ hidden)) / 2**0.5


def norm(values, layer):
    centred = values - values.mean()
    return centred / torch.sqrt((centred**2).mean() + layer.eps) * layer.weight + layer.bias


def affine(linear, x):
    return linear.weight @ x + linear.bias


def attention(module, queries, members):
    """New features of the queries, and the weights by head, query and member."""
    heads, width = module.heads, len(members[0])
    query = [affine(module.query, q) for q in queries]
    key, value = ([affine(linear, h) for h in members] for linear in (module.key, module.value))

    def part(x, head):
        return x.reshape(heads, -1)[head]

    weights = [
        torch.softmax(
            torch.stack([torch.stack([part(q, a) @ part(k, a) for k in key]) for q in query]) / width**0.5, dim=0
        )
        for a in range(heads)
    ]
    new = []
    for k, q in enumerate(query):
        gathered = [
            part(q, a) + sum(w * part(v, a) for w, v in zip(weights[a][k], value, strict=True)) for a in range(heads)
        ]
        x = norm(torch.cat(gathered), module.norm)
        new.append(norm(x + torch.clamp(affine(module.output, x), min=0), module.last_norm))
    return new, weights


def slowly(layer, features):
    atoms = [residual(layer.before, h) for h in features]
    nodes, weights = attention(layer.projecting, list(layer.seeds), atoms)
    nodes, _ = attention(layer.exchanging, nodes, nodes)
    updates = []
    for i in range(len(atoms)):
        back = sum(sum(w[k, i] * z for k, z in enumerate(nodes)) for w in weights) / len(weights)
        x = scaled_silu(layer.dense.weight @ back)
        for module in layer.residuals:
            x = residual(module, x)
        updates.append(x)
    return torch.stack(updates)


@pytest.mark.parametrize("heads", [1, 3])
def test_a_batch_gives_what_the_equations_give_one_by_one(heads):
    torch.manual_seed(0)
    block = NeuralAtoms(**SMALL, order="descending", heads=heads).build(CHANNELS, LAYERS).double()
    structures = [molecule("CH3OH"), Atoms("He"), bulk("NaCl", "rocksalt", 5.64), molecule("H2O")]
    batch = batch_of(*structures)
    scalars = torch.randn(batch.n_atoms, CHANNELS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    state = block.begin(batch, block.index(batch), clusters=None, generator=None)
    for layer in range(LAYERS):
        update, state = block.exchange(layer, scalars, state)
        parts = scalars.split([len(atoms) for atoms in structures])
        expected = torch.cat([slowly(block.layers[layer], part) for part in parts])
        torch.testing.assert_close(update, expected, rtol=1e-10, atol=1e-12)
        assert expected.std() > 0.1
        scalars = scalars + update
    assert len(block.contribution(scalars, state).energy) == 0


def test_the_number_of_neural_atoms_follows_the_order():
    assert NeuralAtoms().counts(4) == (10, 10, 10, 10)
    assert NeuralAtoms(proportion=0.5, expected_atoms=41, order="descending").counts(4) == (21, 11, 6, 3)
    assert NeuralAtoms(proportion=0.5, expected_atoms=41, order="ascending").counts(4) == (3, 6, 11, 21)
    assert NeuralAtoms(proportion=0.01, expected_atoms=3).counts(2) == (1, 1)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_takes_them_and_a_file_keeps_them(backbone, tmp_path):
    potential = make_potential(backbone)
    structures = [zoo()["HCN"], zoo()["alanine dipeptide"]]
    potential.save(tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert again.specification == potential.specification
    for before, after in zip(predict(potential, structures), predict(again, structures), strict=True):
        assert before.energy == after.energy
        assert np.isfinite(before.forces).all()


def test_they_can_be_attached(bare_network):
    torch.manual_seed(0)
    batch = batch_of(molecule("CH3OH"), molecule("H2O")).to(torch.float32)
    inputs = batch.numbers, batch.positions, batch.molecule
    model = bare_network()
    before = model(*inputs)
    attach(model, "neural_atoms", layers=list(model.layers), channels=6)
    assert (model(*inputs) - before).abs().min() > 1e-4


@pytest.mark.parametrize(
    "options",
    [
        {"expected_atoms": 0},
        {"proportion": 0.0},
        {"order": "random"},
        {"heads": 0},
        {"residuals": -1},
        {"activation": "relu"},
        {"feed_forward": "gelu"},
    ],
    ids=str,
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigError, match=r"required|choice"):
        NeuralAtoms(**options)


def test_a_width_that_heads_cannot_share_is_refused():
    with pytest.raises(ConfigError, match="exchange_heads is 4; required"):
        NeuralAtoms(exchange_heads=4).build(6, 2)


class Claims:
    count = 3

    def structures(self):
        return [zoo()[name] for name in ("HCN", "CH4", "alanine dipeptide", "NaCl cell")]


class TestSmoothInDouble(Claims, PhysicsSuite):
    # numerical in all coordinates; the check of the Hessian along one direction says the same
    test_gradgradcheck_accepts_positions_and_cell = None

    def potential(self):
        return make_potential(feed_forward="silu")


class TestPublishedInSingle(Claims, InvarianceSuite):
    def structures(self):
        return [zoo()["HCN"], zoo()["NaCl cell"]]

    def potential(self):
        return deepcopy(make_potential("painn")).float()


def test_relu_makes_forces_jump_and_silu_does_not():
    """The largest change of a force within a step falls with the step, unless it jumps."""
    structure = zoo()["HCN"]
    direction = np.random.default_rng(0).normal(size=(3, 3))
    ratios = {}
    for name in ("relu", "silu"):
        potential = make_potential(feed_forward=name)
        assert potential.is_smooth == (name == "silu")
        largest = []
        for steps in (20, 400):
            path = [
                structure.replace(positions=structure.positions + 0.3 * x * direction) for x in np.linspace(0, 1, steps)
            ]
            forces = np.stack([labelled.forces for labelled in predict(potential, path)])
            second = np.abs(np.diff(forces, n=2, axis=0)).max()
            largest.append(second)
        ratios[name] = largest[1] / largest[0]
    assert ratios["silu"] < 0.02
    assert ratios["relu"] > 0.05


def test_copies_cells_and_far_molecules_do_not_add_up():
    potential, animals = make_potential(), zoo()
    assert {"copies", "supercell"} < set(potential.not_promised)
    assert copies_apart(potential, animals["HCN"]) > 100 * DOUBLE.copies
    assert unlike_apart(potential, animals["caffeine"], animals["CH4"]) > 100 * DOUBLE.unlike
    assert supercell(potential, animals["NaCl cell"]).energy > 100 * DOUBLE.energy
