"""Compiled potentials predict what the network does, for all batches of a form, and train as it does."""

import copy
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase.build import bulk
from torch._inductor.exc import CppCompileError, InductorError
from torch.fx.experimental.proxy_tensor import make_fx

from mcgm import Batch, Committee, build, load
from mcgm.compiled import CompiledPotential, fused
from mcgm.errors import ConfigError
from mcgm.interfaces.ase import MCGMCalculator
from mcgm.testing import zoo

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")

CUTOFF = 4.0
MIXED = (["caffeine", "benzene"], ["alanine dipeptide", "CH4", "HCN"], ["benzene", "benzene", "CH4", "caffeine"])


def make(long_range="mcgm", backbone="schnet", **options):
    torch.manual_seed(0)
    small = {"channels": 16, "layers": 1} if backbone in ("painn", "visnet") else {"layers": 1}
    return build(
        backbone=backbone, long_range=long_range, cutoff=CUTOFF, scale=0.3, backbone_options=small, **options
    ).double()


def batches(mixes=MIXED, dtype=torch.float64):
    animals = zoo()
    return [Batch.from_structures([animals[name] for name in names], cutoff=CUTOFF, dtype=dtype) for names in mixes]


def gradients(potential, batch, parameters):
    prediction = potential(batch)
    loss = prediction.energy.square().sum() + prediction.forces.square().sum()
    return torch.autograd.grad(loss, parameters, allow_unused=True)


def assert_same_gradients(compiled, potential, batch, relative=1e-6):
    parameters = list(potential.parameters())
    both = (gradients(each, batch, parameters) for each in (compiled, potential))
    for mine, other in zip(*both, strict=True):
        if other is None:
            assert mine is None or mine.abs().max() == 0
        else:
            assert (mine - other).abs().max() <= relative * other.abs().max().clamp(min=1e-6)


def assert_alike(found, expected, limit=1e-10):
    for name in ("energy", "atom_energy", "cluster_energy", "forces"):
        assert (getattr(found, name) - getattr(expected, name)).abs().max() < limit
    assert [len(layer) for layer in found.clusters] == [len(layer) for layer in expected.clusters]
    for layer, other in zip(found.clusters, expected.clusters, strict=True):
        for level, same in zip(layer, other, strict=True):
            assert torch.equal(level.assignment.cluster, same.assignment.cluster)
            assert level.assignment.clusters == same.assignment.clusters


def test_one_compiled_graph_serves_batches_of_all_sizes_and_can_be_trained():
    potential = make("element_mean").train()
    compiled = CompiledPotential(potential)
    sizes = batches()
    compiled(sizes[0])
    for batch in sizes:
        found = compiled(batch)
        assert_alike(found, potential(batch))
        assert_same_gradients(compiled, potential, batch)
    assert compiled._graphs.count == 1


def test_a_compiling_calculator_stays_on_the_same_way(traced_graphs):
    potential = make().eval()
    atoms = zoo()["caffeine"].to_atoms()
    fused, plain = (MCGMCalculator(potential, compile=choice) for choice in (True, False))
    for step in range(4):
        atoms.positions += 0.02 * np.random.default_rng(step).normal(size=atoms.positions.shape)
        energy, forces = (fused.get_potential_energy(atoms), fused.get_forces(atoms))
        assert energy == pytest.approx(plain.get_potential_energy(atoms), abs=1e-10)
        assert np.abs(forces - plain.get_forces(atoms)).max() < 1e-10
    assert len(traced_graphs) == 1


@pytest.mark.parametrize("backbone", ["painn", "visnet", "dimenet++", "gemnet-t"])
def test_backbones_are_traced_for_any_sizes(backbone, traced_graphs):
    potential = make(backbone=backbone).train()
    compiled = CompiledPotential(potential)
    first, *others = batches()
    compiled(first)
    for batch in (first, *others):
        assert_alike(compiled(batch), potential(batch))
    assert_same_gradients(compiled, potential, others[-1])
    assert len(traced_graphs) == 1


@pytest.mark.parametrize("block", ["ewald", "neural_p3m"])
def test_rivals_are_traced_and_never_used_where_they_do_not_fit(block, traced_graphs):
    potential = make(block).eval()
    compiled = CompiledPotential(potential)
    first, other = batches(MIXED[:2])
    compiled(first)
    for batch in (first, other, first):
        assert_alike(compiled(batch), potential(batch))
    assert traced_graphs


@pytest.mark.parametrize("block", ["charges", "mcgm_oriented", "mcgm_paper"])
def test_blocks_are_traced_for_periodic_structures_with_stress(block, traced_graphs):
    potential = make(block).eval()
    compiled = CompiledPotential(potential)
    salt = zoo()["NaCl cell"]
    pair, three = (Batch.from_structures([salt] * k, cutoff=CUTOFF, dtype=torch.float64) for k in (2, 3))
    compiled(pair)
    for batch in (pair, three, pair):
        found, expected = compiled(batch), potential(batch)
        assert_alike(found, expected)
        assert (found.stress - expected.stress).abs().max() < 1e-12
    assert (len(traced_graphs) == 0) == (block == "mcgm_paper"), "labels are looked for, uncompiled"


def test_prescribed_clusters_are_compiled(traced_graphs):
    potential = make("mcgm_paper").eval()
    compiled = CompiledPotential(potential)
    for batch in batches()[:2] * 2:
        labels = tuple(tuple(level.assignment for level in layer) for layer in potential(batch).clusters)
        assert_alike(compiled(batch, clusters=labels), potential(batch, clusters=labels))
    assert traced_graphs


def test_a_graph_whose_conditions_fail_is_not_used(traced_graphs):
    """A network that looks at a length gets a graph of its own for every answer."""
    potential = make("none").eval()
    inner = potential.backbone.atom_energies
    potential.backbone.atom_energies = lambda state: inner(state) * (2.0 if state.features.shape[0] > 40 else 1.0)
    compiled = CompiledPotential(potential)
    small, large = batches((["benzene", "CH4"], ["caffeine", "alanine dipeptide"]))
    compiled(small)
    for batch in (small, large, small, large):
        assert_alike(compiled(batch), potential(batch))
    assert len(traced_graphs) == 2


def test_it_follows_weights_casts_and_copies(traced_graphs):
    compiled = CompiledPotential(make().eval())
    batch = batches()[0]
    before = [compiled(batch).energy for _ in range(2)][-1]
    with torch.no_grad():
        compiled.network.backbone.head.energy.weight.mul_(3.0)
    after = compiled(batch)
    assert_alike(after, compiled.network(batch))
    assert not torch.allclose(after.energy, before)
    single = copy.deepcopy(compiled).float()
    rough = [single(batches(dtype=torch.float32)[0]) for _ in range(2)][-1]
    assert rough.forces.dtype == torch.float32
    assert (rough.energy - after.energy).abs().max() < 1e-3


@pytest.mark.parametrize("training", [True, False], ids=["training", "prediction"])
def test_what_the_compiler_gets_wrong_is_found_and_not_used(training, monkeypatch, caplog):
    """Forces alone are off, as torch 2.13 had those of PaiNN under MCGM in training."""
    compiled_graphs = []

    def wrong(graph, arguments):
        compiled_graphs.append(graph)
        return lambda *given: [1.02 * v if torch.is_tensor(v) and v.shape[1:] == (3,) else v for v in graph(*given)]

    monkeypatch.setattr("mcgm.compiled.compile_fx", wrong)
    potential = make().train(training)
    compiled = CompiledPotential(potential)
    with caplog.at_level("WARNING", logger="mcgm"):
        for batch in batches() * 2:
            assert torch.equal(compiled(batch).forces, potential(batch).forces)
    assert compiled._graphs.count == 0
    assert len(compiled_graphs) == 1
    assert ["forces off by 2e-02" in record.getMessage() for record in caplog.records] == [True]


def test_where_the_compiler_fails_all_runs_uncompiled_and_it_is_said(monkeypatch, caplog):
    output = "In file included from kernel.cpp:1:\nkernel.cpp:3:10: fatal error: Python.h: No such file or directory"

    def failing(graph, arguments):
        raise InductorError(CppCompileError(["g++", "kernel.cpp"], output), None)

    monkeypatch.setattr("mcgm.compiled.compile_fx", failing)
    potential = make().eval()
    compiled = CompiledPotential(potential)
    with caplog.at_level("WARNING", logger="mcgm"):
        for batch in batches() * 2:
            assert torch.equal(compiled(batch).forces, potential(batch).forces)
    assert compiled._graphs.count == 0
    (said,) = [record.getMessage() for record in caplog.records]
    assert "CppCompileError: kernel.cpp:3:10: fatal error: Python.h: No such file or directory" in said
    assert "runs uncompiled" in said


def test_zeros_that_are_summed_into_are_not_those_of_another_matrix():
    """Two layers of PaiNN under MCGM have this in their derivatives; wrong by the sums where constants are merged."""

    def joined(index, rows, columns):
        matrix = torch.cat([torch.zeros(5, 4), columns], dim=1)
        return torch.zeros(5, 4).index_add(0, index, rows).T, matrix.T

    given = torch.tensor([0, 3, 3, 4]), torch.ones(4, 4, requires_grad=True), torch.ones(5, 4, requires_grad=True)
    function = fused(make_fx(joined)(*given), given, create_graph=True)
    for found, expected in zip(function(*given), joined(*given), strict=True):
        assert torch.equal(found, expected)


class Halved(torch.autograd.Function):
    """A value whose derivative is wrong."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return 0.5 * gradient


HEAVY = SimpleNamespace(energies=-1e3 * np.arange(119.0), intercept=0.0)
"""Free atoms beside whose energies those of the network are nothing."""


def changed(change):
    """A compiler that does this to every result, given all that a graph is given."""

    def compile_fx(graph, arguments):
        def function(*given):
            return [
                change(value, given) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
                for value in graph(*given)
            ]

        return function

    return compile_fx


def test_a_gradient_that_the_compiler_gets_wrong_is_found(monkeypatch, caplog):
    monkeypatch.setattr("mcgm.compiled.compile_fx", changed(lambda value, given: Halved.apply(value)))
    potential = make(references=HEAVY).train()
    compiled = CompiledPotential(potential)
    for batch in batches():
        assert_same_gradients(compiled, potential, batch)
    assert compiled._graphs.count == 0
    assert "gradient of the weights" in caplog.text


def test_wrong_energies_are_found_however_large_those_of_free_atoms_are(monkeypatch, caplog):
    monkeypatch.setattr("mcgm.compiled.compile_fx", changed(lambda value, given: value + 1e-3))
    potential = make(references=HEAVY).eval()
    compiled = CompiledPotential(potential)
    for batch in batches():
        assert torch.equal(compiled(batch, forces=False).energy, potential(batch, forces=False).energy)
    assert "energy off" in caplog.text


def test_rounding_of_forces_that_vanish_is_no_mistake_of_the_compiler(monkeypatch):
    monkeypatch.setattr("mcgm.compiled.compile_fx", changed(lambda value, given: value + 1e-12))
    potential = make().eval()
    compiled = CompiledPotential(potential)
    crystal = Batch.from_atoms([bulk("NaCl", "rocksalt", a=5.64, cubic=True)] * 2, cutoff=CUTOFF, dtype=torch.float64)
    assert potential(crystal).forces.abs().max() < 1e-9
    compiled(crystal), compiled(crystal)
    assert compiled._graphs.count == 1


def test_weights_without_effect_may_have_a_gradient_of_zero(monkeypatch):
    """Compiled graphs give them one; the network gives them none."""

    def touching_all(value, given):
        weights = [g for g in given if isinstance(g, torch.Tensor) and g.requires_grad]
        return value + 0 * sum(weight.sum() for weight in weights)

    monkeypatch.setattr("mcgm.compiled.compile_fx", changed(touching_all))
    potential = make("none").train()
    potential.backbone.spare = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    compiled = CompiledPotential(potential)
    for batch in batches()[:2]:
        compiled(batch)
    assert compiled._graphs.count == 1


def test_what_cannot_be_compiled_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match="single network"):
        CompiledPotential(Committee([make().float(), make().float()]))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="C\\+\\+ compiler"):
        CompiledPotential(make())


def test_a_block_that_looks_at_values_is_refused(traced_graphs):
    potential = make("none").eval()
    inner = potential.backbone.atom_energies
    potential.backbone.atom_energies = lambda state: (
        inner(state) * (2.0 if float(state.features.detach().sum()) > 0 else 1.0)
    )
    compiled = CompiledPotential(potential)
    batch = batches()[0]
    compiled(batch)
    with pytest.raises(ConfigError, match="depends on values"):
        compiled(batch)


def test_files_and_committees_of_compiled_potentials_are_those_of_networks(tmp_path, traced_graphs):
    networks = [make("none").eval(), make("element_mean").eval()]
    path = tmp_path / "model.safetensors"
    batch = batches()[0]
    for network in networks:
        CompiledPotential(network).save(path)
        assert torch.equal(load(path)(batch).energy, network(batch).energy)
    committee = Committee([CompiledPotential(networks[0]), CompiledPotential(networks[0])])
    for _ in range(2):
        assert torch.allclose(committee(batch).energy, networks[0](batch).energy, atol=1e-10)
    assert traced_graphs
