"""The hierarchy against a slow reference written with loops from the formulas of arXiv:2509.22028."""

import dataclasses

import pytest
import torch
from ase.build import molecule

from mcgm import Batch
from mcgm.long_range import MCGM, ElementMean, GlobalMean
from mcgm.long_range.mcgm.aggregation import STEEPEST
from mcgm.long_range.mcgm.assignment import join, split

CHANNELS, LAYERS = 10, 2
NAMES = ("CH3CH2OH", "CH4", "HCOOH", "O", "CH3SH")
PRESETS = {"smooth": MCGM.smooth, "paper": MCGM.paper, "random": MCGM.random}
BLOCKS = [
    *(preset(levels=levels, reduction=1.3) for preset in PRESETS.values() for levels in (1, 2, 3, 4)),
    MCGM.smooth(energy_per="cluster", activation="tanh"),
    MCGM.paper(energy_per="atom", scope="molecule"),
    MCGM.smooth(aggregation="attention"),
    MCGM.smooth(dissemination="mixing"),
    MCGM.paper(aggregation="attention", dissemination="mixing"),
    MCGM.mixing(),
    MCGM.alone(),
    GlobalMean(),
    ElementMean(),
]


def make_batch(names=NAMES):
    return Batch.from_atoms([molecule(name) for name in names], cutoff=4.0, dtype=torch.float64)


def make(block):
    torch.manual_seed(1)
    module = block.build(CHANNELS, LAYERS).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def features(batch, seed=0):
    """For each layer, features of atoms that depend on the atom alone."""
    generator = torch.Generator().manual_seed(seed)
    element = torch.randn(LAYERS, 20, CHANNELS, generator=generator, dtype=torch.float64)
    place = torch.randn(LAYERS, 3, CHANNELS, generator=generator, dtype=torch.float64)
    return [element[k][batch.numbers] + 0.3 * torch.tanh(batch.positions @ place[k]) for k in range(LAYERS)]


def run(module, batch, layers, *, prescribed=None, generator=None):
    """Updates of every layer and the contribution at the end."""
    state = module.begin(batch, module.index(batch), clusters=prescribed, generator=generator)
    updates = []
    for layer, scalars in enumerate(layers):
        update, state = module.exchange(layer, scalars, state)
        updates.append(update)
    return updates, module.contribution(layers[-1], state)


def importance(exchange, level, node):
    """What a member counts in its cluster's mean beside its membership, by channel."""
    aggregation = exchange.aggregations[level]
    if not hasattr(aggregation, "score"):
        return torch.ones_like(node)
    return torch.exp(STEEPEST * torch.tanh(aggregation.score.weight @ node / STEEPEST))


def taken_up(exchange, atom, received):
    """The update of an atom from weights and features of its clusters."""
    way = exchange.dissemination
    if not hasattr(way, "atom"):
        return sum(w * cluster for w, cluster in received)
    known = sum(w * (way.cluster.weight @ cluster) for w, cluster in received)
    gate = 1 + way.gate.weight @ atom if hasattr(way, "gate") else 1
    mixed = way.atom.weight @ atom + gate * known
    normal = (mixed - mixed.mean()) / (mixed.var(correction=0) + way.norm.eps).sqrt()
    return way.output(torch.nn.functional.silu(way.norm.weight * normal + way.norm.bias))


def reference(module, batch, layer, scalars, levels):  # one function, so that it reads like the paper's algorithm
    """Update of the atoms, and energy per molecule before weighting: nested loops over molecules and clusters."""
    exchange = module.exchanges[layer]
    update = torch.zeros_like(scalars)
    energies = torch.zeros(batch.n_molecules, dtype=scalars.dtype)
    for number in range(batch.n_molecules):
        atoms = torch.nonzero(batch.molecule == number).flatten()
        below = {int(i): scalars[i] for i in atoms}
        mass = dict.fromkeys(below, 1.0)
        going_up, weights, masses = [below], [], []
        for level, clusters in enumerate(levels):
            rows = [
                (int(m), int(c), w)
                for m, c, w in zip(
                    clusters.assignment.member, clusters.assignment.cluster, clusters.assignment.weight, strict=True
                )
                if int(m) in below
            ]
            weights.append(rows)
            above, heavier = {}, {}
            for k in {c for _, c, _ in rows}:
                own = [(m, w) for m, c, w in rows if c == k]
                shares = {m: w * importance(exchange, level, below[m]) for m, w in own}
                mean = sum(shares[m] * below[m] for m, _ in own) / sum(shares.values())
                above[k] = exchange.maps[level](mean)
                heavier[k] = sum(w * mass[m] for m, w in own)
            below, mass = above, heavier
            going_up.append(above)
            masses.append(heavier)
        going_down = [going_up[-1]]
        for level in range(len(levels) - 1, 0, -1):
            going_down.insert(
                0,
                {
                    node: value + sum(w * going_down[0][c] for m, c, w in weights[level] if m == node)
                    for node, value in going_up[level].items()
                },
            )
        for atom in going_up[0]:
            received = [(w, going_down[0][c]) for m, c, w in weights[0] if m == atom]
            update[atom] = taken_up(exchange, scalars[atom], received)
        for level, nodes in enumerate(going_down):
            for node, value in nodes.items():
                times = module.weighting(torch.as_tensor(masses[level][node], dtype=scalars.dtype).reshape(1))[0]
                energies[number] = energies[number] + times * module.heads[level](value[None])[0]
    return update, energies


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_updates_and_energies_are_those_of_the_formulas(block):
    module, batch = make(block), make_batch()
    layers = features(batch)
    updates, contribution = run(module, batch, layers)
    assert len(contribution.clusters) == LAYERS
    for layer in range(LAYERS):
        expected, energies = reference(module, batch, layer, layers[layer], contribution.clusters[layer])
        if getattr(block, "update", "add") == "replace":
            expected = expected - layers[layer]
        torch.testing.assert_close(updates[layer], expected, rtol=1e-10, atol=1e-12)
    total = torch.zeros(batch.n_molecules, dtype=torch.float64)
    total = total.index_add(0, contribution.molecule, contribution.energy)
    torch.testing.assert_close(total, energies, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_level_has_its_clusters_and_none_spans_molecules(preset):
    module, batch = make(PRESETS[preset](levels=4, reduction=1.5)), make_batch()
    contribution = run(module, batch, features(batch))[1]
    owner = batch.molecule
    for level, clusters in enumerate(contribution.clusters[-1]):
        rows = clusters.assignment
        assert torch.equal(clusters.molecule[rows.cluster], owner[rows.member])
        if preset != "smooth" or level == 0:
            for number, name in enumerate(NAMES):
                count = len(set(molecule(name).numbers))
                for _ in range(level):
                    count = max(1, int(count / 1.5))
                assert int((clusters.molecule == number).sum()) == count
        atoms = torch.zeros(batch.n_molecules, dtype=torch.float64).index_add(0, clusters.molecule, clusters.mass)
        torch.testing.assert_close(atoms, torch.bincount(batch.molecule).double())
        owner = clusters.molecule


def test_cluster_energies_are_read_from_the_last_layer_alone():
    module, batch = make(MCGM.smooth()), make_batch()
    *earlier, last = run(module, batch, features(batch))[1].clusters
    assert all(clusters.energy is None for layer in earlier for clusters in layer)
    assert all((clusters.energy != 0).all() for clusters in last)


@pytest.mark.parametrize("preset", PRESETS)
def test_prescribed_clusters_give_the_same_result_as_own_ones(preset):
    module, batch = make(PRESETS[preset](reduction=1.5)), make_batch()
    layers = features(batch)
    updates, own = run(module, batch, layers)
    prescribed = tuple(tuple(clusters.assignment for clusters in layer) for layer in own.clusters)
    again, given = run(module, batch, layers, prescribed=prescribed)
    assert all(torch.equal(a, b) for a, b in zip(updates, again, strict=True))
    assert torch.equal(own.energy, given.energy)


def test_prescribed_clusters_survive_being_split_by_molecule_and_joined():
    module, batch = make(MCGM.paper(reduction=1.5)), make_batch()
    layers = features(batch)
    updates, own = run(module, batch, layers)
    prescribed = []
    for layer in own.clusters:
        members, rebuilt = torch.bincount(batch.molecule), []
        for clusters in layer:
            count = torch.bincount(clusters.molecule, minlength=batch.n_molecules)
            rebuilt.append(join(split(clusters.assignment, members, count)))
            members = count
        prescribed.append(tuple(rebuilt))
    again, given = run(module, batch, layers, prescribed=tuple(prescribed))
    torch.testing.assert_close(updates, again)
    torch.testing.assert_close(own.energy, given.energy)


def test_other_prescribed_clusters_give_another_result():
    module, batch = make(MCGM.random(levels=2)), make_batch(("CH3SH",))
    layers = features(batch)
    own = run(module, batch, layers)[1]
    elements = own.clusters[0][0].assignment
    everything = dataclasses.replace(elements, cluster=torch.zeros_like(elements.cluster))
    upper = own.clusters[0][1].assignment
    other = run(module, batch, layers, prescribed=((everything, upper),) * LAYERS)[1]
    assert not torch.allclose(own.energy.sum(), other.energy.sum())


def test_gradients_flow_through_features_and_not_through_hard_labels():
    module, batch = make(MCGM.paper(reduction=1.3)), make_batch()
    layers = [scalars.requires_grad_() for scalars in features(batch)]
    updates, contribution = run(module, batch, layers)
    assert not any(clusters.assignment.weight.requires_grad for layer in contribution.clusters for clusters in layer)
    prescribed = tuple(tuple(clusters.assignment for clusters in layer) for layer in contribution.clusters)
    fixed = run(module, batch, layers, prescribed=prescribed)
    ours = torch.autograd.grad(sum(u.sum() for u in updates) + contribution.energy.sum(), layers)
    theirs = torch.autograd.grad(sum(u.sum() for u in fixed[0]) + fixed[1].energy.sum(), layers)
    for a, b in zip(ours, theirs, strict=True):
        assert a.abs().min() > 0
        torch.testing.assert_close(a, b)


def test_gradients_reach_every_weight():
    for block in BLOCKS:
        module, batch = make(block), make_batch()
        batch = batch.replace(charge=torch.ones_like(batch.charge), spin=torch.ones_like(batch.spin))
        updates, contribution = run(module, batch, features(batch))
        loss = sum(u.square().sum() for u in updates) + contribution.energy.square().sum()
        for name, gradient in zip(
            dict(module.named_parameters()), torch.autograd.grad(loss, list(module.parameters())), strict=True
        ):
            # one prototype has weight one whatever it is
            assert gradient.abs().max() > 0 or ("prototypes" in name and len(gradient) == 1), (block, name)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_order_of_atoms_and_batch_mates_do_not_matter(preset):
    module = make(PRESETS[preset](reduction=1.3))
    batch = make_batch()
    updates, contribution = run(module, batch, features(batch))
    total = torch.zeros(len(NAMES), dtype=torch.float64).index_add(0, contribution.molecule, contribution.energy)
    for number, name in enumerate(NAMES):
        atoms = molecule(name)
        order = torch.randperm(len(atoms), generator=torch.Generator().manual_seed(number))
        alone = Batch.from_atoms([atoms[order.numpy()]], cutoff=4.0, dtype=torch.float64)
        own_updates, own = run(module, alone, features(alone))
        torch.testing.assert_close(own.energy.sum(), total[number])
        for together, single in zip(updates, own_updates, strict=True):
            torch.testing.assert_close(single, together[batch.molecule == number][order])


def test_drawn_clusters_follow_the_generator():
    module, batch = make(MCGM.random(reduction=1.3)), make_batch()
    layers = features(batch)

    def energy(seed):
        return run(module, batch, layers, generator=torch.Generator().manual_seed(seed))[1].energy

    assert torch.equal(energy(0), energy(0))
    assert not torch.equal(energy(0), energy(1))


def test_an_energy_per_atom_doubles_for_a_double_system_and_one_per_cluster_does_not():
    for energy_per, factor in (("atom", 2.0), ("cluster", 1.0)):
        module = make(MCGM.smooth(energy_per=energy_per))
        once, twice = molecule("CH3CH2OH"), molecule("CH3CH2OH")
        shifted = twice.copy()
        shifted.translate([0.0, 0.0, 50.0])
        one = Batch.from_atoms([once], cutoff=4.0, dtype=torch.float64)
        two = Batch.from_atoms([twice + shifted], cutoff=4.0, dtype=torch.float64)
        single = features(one)
        double = [torch.cat([scalars, scalars]) for scalars in single]
        ratio = run(module, two, double)[1].energy.sum() / run(module, one, single)[1].energy.sum()
        torch.testing.assert_close(ratio.item(), factor)


@pytest.mark.parametrize("block", [MCGM.alone(), MCGM.mixing(levels=1)], ids=["alone", "by element"])
def test_alone_no_atom_learns_of_another_one(block):
    module, batch = make(block), make_batch(("CH3SH",))
    layers = features(batch)
    layers[0].requires_grad_()
    updates = run(module, batch, layers)[0]
    gradient = torch.autograd.grad(updates[0][-1].square().sum(), layers[0])[0]  # one of four hydrogens
    others = gradient[:-1].abs().max()
    assert (others == 0) == (block == MCGM.alone())
