"""A block attached to networks of two other libraries, which stay unedited."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor, nn

from mcgm import attach
from mcgm.attachment import AtomInputs, Output, PerAtom, PerStructure, Residual
from mcgm.attachment_inputs import Reading
from mcgm.batch import Batch
from mcgm.errors import ConfigError
from mcgm.long_range import BLOCKS, MCGM
from mcgm.long_range.mcgm.clusterers import KMeansPlusPlus

CUTOFF = 5.0
WIDTH = 16


# --- PyTorch Geometric's SchNet


def graph(positions: Tensor, structure: Tensor) -> tuple[Tensor, Tensor]:
    """Our pairs in the form of PyTorch Geometric, whose own search needs a library that is not on PyPI."""
    pairs = torch.cdist(positions.detach(), positions.detach())
    near = (pairs < CUTOFF) & (structure[:, None] == structure) & ~torch.eye(len(positions), dtype=torch.bool)
    index = near.nonzero().T
    return index, (positions[index[0]] - positions[index[1]]).norm(dim=-1)


def schnet(seed: int = 0) -> nn.Module:
    pyg = pytest.importorskip("torch_geometric.nn")
    torch.manual_seed(seed)
    return pyg.SchNet(
        hidden_channels=WIDTH, num_filters=WIDTH, num_interactions=2, cutoff=CUTOFF, interaction_graph=graph
    )


def batch_of(*atoms: Atoms) -> tuple[Tensor, Tensor, Tensor]:
    batch = Batch.from_atoms(list(atoms), cutoff=CUTOFF)
    return batch.numbers, batch.positions, batch.molecule


def attached_schnet(long_range: Any = "mcgm", **options: Any) -> nn.Module:
    model = schnet()
    attach(model, long_range, layers=model.interactions, channels=WIDTH, **options)
    return model


ETHANOL, BENZENE, WATER = molecule("CH3CH2OH"), molecule("C6H6"), molecule("H2O")


def test_it_changes_the_energies_and_keeps_the_shape() -> None:
    inputs = batch_of(ETHANOL, BENZENE)
    before, after = schnet()(*inputs), attached_schnet()(*inputs)
    assert before.shape == after.shape == (2, 1)
    assert (before - after).abs().min() > 1e-4


@pytest.mark.parametrize("long_range", ["none", MCGM.smooth(levels=2), MCGM.paper(), "global_mean"])
def test_with_zero_gain_the_predictions_of_a_trained_model_are_unchanged(long_range: Any) -> None:
    inputs = batch_of(ETHANOL, BENZENE)
    torch.testing.assert_close(attached_schnet(long_range, gain=0.0)(*inputs), schnet()(*inputs), rtol=0, atol=0)


def test_a_far_molecule_is_felt_only_with_the_block() -> None:
    pair = ETHANOL + WATER
    pair.positions[len(ETHANOL) :] += 50.0
    hotter = ETHANOL + Atoms("HOH", WATER.positions + 50.0)
    for model, felt in ((schnet(), False), (attached_schnet(), True)):
        gradient = []
        for atoms in (pair, hotter):
            numbers, positions, structure = batch_of(atoms)
            positions.requires_grad_()
            gradient.append(torch.autograd.grad(model(numbers, positions, structure).sum(), positions)[0][:9])
        assert bool((gradient[0] - gradient[1]).abs().max() > 1e-7) is felt


def test_forces_agree_with_finite_differences() -> None:
    model = attached_schnet().double()
    numbers, positions, structure = batch_of(ETHANOL, WATER)
    positions = positions.double().requires_grad_()
    (gradient,) = torch.autograd.grad(model(numbers, positions, structure).sum(), positions)
    with torch.no_grad():
        for atom, axis in ((0, 0), (4, 2), (10, 1)):
            step = torch.zeros_like(positions)
            step[atom, axis] = 1e-4
            rise = model(numbers, positions + step, structure).sum() - model(numbers, positions - step, structure).sum()
            assert abs(rise / 2e-4 - gradient[atom, axis]) < 1e-6


def test_a_step_of_training_reaches_the_network_and_every_weight_of_the_block_that_has_a_say() -> None:
    model = attached_schnet()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    numbers, positions, structure = batch_of(ETHANOL, BENZENE)
    losses = []
    for _ in range(10):
        positions = positions.detach().requires_grad_()
        energy = model(numbers, positions, structure)
        (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
        loss = (energy - 1).square().mean() + gradient.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    silent = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert silent == []
    assert model.long_range.gain.grad.abs().min() > 0


def test_weights_are_saved_and_loaded_with_the_models_own(tmp_path: Any) -> None:
    model, inputs = attached_schnet(), batch_of(ETHANOL, BENZENE)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    again = schnet(seed=5)
    attach(again, layers=again.interactions, channels=WIDTH)
    assert not torch.equal(again(*inputs), model(*inputs))
    again.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert torch.equal(again(*inputs), model(*inputs))


def test_removal_leaves_the_model_as_it_was() -> None:
    model, inputs = schnet(), batch_of(ETHANOL, BENZENE)
    names, before = list(model.state_dict()), model(*inputs)
    attachment = attach(model, layers=model.interactions, channels=WIDTH)
    assert list(model.state_dict()) != names
    attachment.remove()
    assert list(model.state_dict()) == names
    assert not hasattr(model, "long_range")
    assert torch.equal(model(*inputs), before)
    attach(model, layers=model.interactions, channels=WIDTH)
    assert not torch.equal(model(*inputs), before)


def test_a_copy_of_the_model_has_a_block_of_its_own() -> None:
    model, inputs = attached_schnet(), batch_of(ETHANOL)
    twin = copy.deepcopy(model)
    before = model(*inputs)
    assert torch.equal(twin(*inputs), before)
    with torch.no_grad():
        twin.long_range.gain.add_(1.0)
    assert torch.equal(model(*inputs), before)
    assert not torch.equal(twin(*inputs), before)
    twin.long_range.remove()
    assert hasattr(model, "long_range")


def test_structures_of_a_batch_do_not_feel_each_other() -> None:
    model = attached_schnet().double()
    numbers, positions, structure = batch_of(ETHANOL, BENZENE, WATER)
    together = model(numbers, positions.double(), structure)
    for k, atoms in enumerate((ETHANOL, BENZENE, WATER)):
        numbers, positions, structure = batch_of(atoms)
        torch.testing.assert_close(model(numbers, positions.double(), structure)[0], together[k], rtol=0, atol=1e-10)


def test_a_hierarchy_per_molecule_needs_neighbours_and_separates_far_molecules() -> None:
    specification = MCGM.smooth(scope="molecule")
    with pytest.raises(ConfigError, match="cutoff=5"):
        attached_schnet(specification)(*batch_of(ETHANOL))
    model = attached_schnet(specification, cutoff=3.0).double()
    far = WATER.copy()
    far.positions += 50.0
    energies = []
    for atoms in (ETHANOL, WATER, ETHANOL + far):
        numbers, positions, structure = batch_of(atoms)
        energies.append(model(numbers, positions.double(), structure).item())
    assert abs(energies[0] + energies[1] - energies[2]) < 1e-5


def test_an_energy_per_atom_inside_the_model_can_take_the_blocks_energy() -> None:
    inputs = batch_of(ETHANOL, BENZENE)
    model = schnet()
    attach(model, layers=model.interactions, channels=WIDTH, energy=PerAtom(), energy_from=model.lin2)
    torch.manual_seed(0)
    other = schnet()
    attach(other, layers=other.interactions, channels=WIDTH)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(*inputs), other(*inputs))


OVER_ATOMS = MCGM(levels=1, clusterers=(KMeansPlusPlus(3.0),))


def drawing_schnet(seed: int | None) -> nn.Module:
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return attached_schnet(OVER_ATOMS, generator=generator).train()


class OwnForces(nn.Module):
    """Differentiates inside `forward`: by the positions that it is given, by a copy, or by a strain."""

    def __init__(self, by: str) -> None:
        super().__init__()
        self.inner = schnet().double()
        self.by = by

    def forward(self, numbers: Tensor, positions: Tensor, structure: Tensor) -> tuple[Tensor, Tensor]:
        strain = torch.zeros(3, 3, dtype=positions.dtype, requires_grad=self.by == "strain")
        if self.by == "given":
            positions.requires_grad_()
        if self.by == "copy":
            positions = positions.detach().clone().requires_grad_()
        moved = positions + positions @ strain
        energy = self.inner(numbers, moved, structure)
        sought = strain if self.by == "strain" else positions
        return energy, torch.autograd.grad(energy.sum(), sought)[0]


def own_forces(by: str, block: str, *, outside: bool) -> nn.Module:
    model = OwnForces(by)
    at = {"energy_from": model.inner} if outside else {}
    attach(
        model if outside else model.inner,
        block,
        layers=model.inner.interactions,
        channels=WIDTH,
        cutoff=CUTOFF,
        **at,  # type: ignore[arg-type]
    )
    return model.eval()


@pytest.mark.parametrize("block", ["mcgm", "mcgm_oriented", "mcgm_charges", "ewald"])
@pytest.mark.parametrize(("by", "outside"), [("given", True), ("given", False), ("copy", False)])
def test_forces_that_a_model_makes_itself_have_the_blocks_part(by: str, outside: bool, block: str) -> None:
    model = own_forces(by, block, outside=outside)
    numbers, positions, structure = batch_of(ETHANOL, WATER)
    positions = positions.double()
    _, gradient = model(numbers, positions.clone(), structure)
    for atom, axis in ((0, 0), (4, 2), (10, 1)):
        step = torch.zeros_like(positions)
        step[atom, axis] = 1e-4
        ends = [model(numbers, positions + sign * step, structure)[0].sum() for sign in (1, -1)]
        assert abs((ends[0] - ends[1]) / 2e-4 - gradient[atom, axis]) < 1e-6


@pytest.mark.parametrize("by", ["copy", "strain"])
def test_a_block_that_would_be_missing_in_a_models_own_forces_is_refused(by: str) -> None:
    inputs = [item.double() if item.is_floating_point() else item for item in batch_of(ETHANOL)]
    model = own_forces(by, "mcgm_oriented", outside=True)
    with pytest.raises(ConfigError, match=r"OwnForces\.forward differentiates by positions or a strain that it makes"):
        model(*inputs)
    assert own_forces(by, "mcgm_oriented", outside=False)(*inputs)[1].isfinite().all()
    assert own_forces(by, "mcgm", outside=True)(*inputs)[1].isfinite().all()


class Dense(nn.Module):
    """One layer of a network that takes all atoms as neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, features: Tensor, near: Tensor) -> Tensor:
        return torch.tanh(near @ self.linear(features))


class DenseNetwork(nn.Module):
    """Runs under `torch.autocast`, as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, WIDTH)
        self.layers = nn.ModuleList(Dense() for _ in range(2))
        self.energy = nn.Linear(WIDTH, 1)

    def forward(self, numbers: Tensor, positions: Tensor) -> Tensor:
        near = torch.exp(-(positions[:, None] - positions).square().sum(-1))
        features = self.embedding(numbers)
        for layer in self.layers:
            features = features + layer(features, near)
        return self.energy(features).sum(0)


@pytest.mark.parametrize("block", [name for name in BLOCKS if name != "none"])
def test_a_block_in_a_network_in_bfloat16_is_exact_and_learns(block: str) -> None:
    torch.manual_seed(0)
    model = DenseNetwork()
    attach(model, block, layers=model.layers, channels=WIDTH, cutoff=CUTOFF)
    numbers, positions, _ = batch_of(ETHANOL)
    positions.requires_grad_()
    with torch.no_grad():
        exactly = model(numbers, positions)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        energy = model(numbers, positions)
        (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
    assert (energy - exactly).abs() < 0.03 * exactly.abs() + 0.1
    gradient.square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert model.long_range.gain.grad.abs().max() > 0


def test_rules_draw_from_the_generator_while_the_model_trains_and_not_else() -> None:
    inputs = batch_of(ETHANOL, BENZENE)
    drawing, again, without = drawing_schnet(5), drawing_schnet(5), drawing_schnet(None)
    energies = [drawing(*inputs) for _ in range(4)]
    assert any(not torch.equal(energy, energies[0]) for energy in energies[1:])
    assert all(torch.equal(energy, again(*inputs)) for energy in energies)
    assert torch.equal(without(*inputs), without(*inputs))
    assert torch.equal(drawing.eval()(*inputs), without.eval()(*inputs))
    assert torch.equal(drawing(*inputs), drawing(*inputs))


def test_a_copy_of_a_model_that_draws_draws_the_same_from_a_generator_of_its_own() -> None:
    model, inputs = drawing_schnet(5), batch_of(ETHANOL, BENZENE)
    twin = copy.deepcopy(model)
    for _ in range(3):
        assert torch.equal(model(*inputs), twin(*inputs))


def test_charge_and_spin_reach_the_block_where_they_are_given() -> None:
    seen = []

    def charged(z: Tensor, pos: Tensor, batch: Tensor, total: Tensor | None = None) -> AtomInputs:
        return AtomInputs(z, pos, batch, charge=total, spin=torch.tensor([[0.0], [1.0]]))

    model = attached_schnet(inputs=charged)
    index = model.long_range.block.index
    model.long_range.block.index = lambda batch: seen.append(batch) or index(batch)
    model(*batch_of(ETHANOL, BENZENE))
    assert seen[0].charge.tolist() == [0, 0]
    assert seen[0].spin.tolist() == [0, 1]
    reading = Reading(lambda z, pos, batch: AtomInputs(z, pos, batch, charge=torch.tensor([-1, 2, 0])), None)
    with pytest.raises(ConfigError, match=r"charge has shape \(3,\).*each of 2 structures"):
        reading("SchNet", batch_of(ETHANOL, BENZENE), {})


# --- a network of the xnns library


def xnn() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("xnn")


def xnn_graph(library: Any, *atoms: Atoms) -> Any:
    data = library.common.data
    structures = [{"pos": a.positions, "atomic_numbers": a.numbers} for a in atoms]
    for structure, item in zip(structures, atoms, strict=True):
        if item.pbc.any():
            structure |= {"cell": np.asarray(item.cell), "pbc": item.pbc}
    return data.dataset.collate([data.dataset.structure_to_graph(s, CUTOFF) for s in structures])


def xnn_inputs(graph: Any) -> AtomInputs:
    return AtomInputs(graph.atomic_numbers, graph.pos, graph.batch, graph.cell, graph.pbc)


def attached_painn(seed: int = 0) -> nn.Module:
    library = xnn()
    torch.manual_seed(seed)
    model = library.gnn.models.painn.PaiNN(n_features=WIDTH, n_interactions=2, n_rbf=8, cutoff=CUTOFF)
    attach(
        model,
        "mcgm",
        layers=model.interactions,
        channels=WIDTH,
        features=Output(0),
        inputs=xnn_inputs,
        energy=PerStructure("energy"),
    )
    return library.common.models.outputs.ForceStressOutput(model, compute_stress=True)


def test_a_painn_of_another_library_gives_energies_forces_and_stress_with_the_block() -> None:
    library, model = xnn(), attached_painn()
    with_block = model(xnn_graph(library, ETHANOL, BENZENE))
    model.model.long_range.remove()
    without = model(xnn_graph(library, ETHANOL, BENZENE))
    for key, shape in (("energy", (2,)), ("forces", (21, 3))):
        assert with_block[key].shape == without[key].shape == shape
        assert (with_block[key] - without[key]).abs().max() > 1e-6
    crystal = bulk("NaCl", "rocksalt", a=5.6)
    crystal.rattle(0.1, seed=1)
    assert attached_painn()(xnn_graph(library, crystal))["stress"].isfinite().all()


def test_forces_of_another_librarys_painn_turn_with_the_molecule() -> None:
    library, model = xnn(), attached_painn()
    turned = ETHANOL.copy()
    turned.rotate(70, (1, 2, 3))
    matrix = np.linalg.lstsq(ETHANOL.positions, turned.positions, rcond=None)[0]
    forces = [model(xnn_graph(library, atoms))["forces"].detach().numpy() for atoms in (ETHANOL, turned)]
    np.testing.assert_allclose(forces[1], forces[0] @ matrix, atol=1e-4)


def test_another_librarys_painn_trains_saves_and_loads_with_the_block(tmp_path: Any) -> None:
    library, model = xnn(), attached_painn()
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(10):
        out = model(xnn_graph(library, ETHANOL, BENZENE))
        loss = (out["energy"] - 1).square().mean() + out["forces"].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    torch.save(model.state_dict(), tmp_path / "model.pt")
    again = attached_painn(seed=3)
    again.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    energies = [item.eval()(xnn_graph(library, ETHANOL))["energy"] for item in (model, again)]
    assert torch.equal(*energies)


def test_removal_leaves_another_librarys_painn_as_it_was() -> None:
    library = xnn()
    torch.manual_seed(0)
    model = library.gnn.models.painn.PaiNN(n_features=WIDTH, n_interactions=2, n_rbf=8, cutoff=CUTOFF).eval()
    names, before = list(model.state_dict()), model(xnn_graph(library, ETHANOL))["energy"]
    attachment = attach(
        model,
        layers=model.interactions,
        channels=WIDTH,
        features=Output(0),
        inputs=xnn_inputs,
        energy=PerStructure("energy"),
    )
    assert not torch.equal(model(xnn_graph(library, ETHANOL))["energy"], before)
    attachment.remove()
    assert list(model.state_dict()) == names
    assert torch.equal(model(xnn_graph(library, ETHANOL))["energy"], before)


# --- what is refused


def swapped(z: Tensor, pos: Tensor) -> AtomInputs:
    return AtomInputs(z, pos)


@pytest.mark.parametrize(
    ("options", "say"),
    [
        ({"channels": 8}, "channels"),
        ({"features": Output(), "channels": 99}, "channels"),
        ({"inputs": swapped}, "AtomInputs"),
        ({"energy": PerStructure("energy")}, "item 'energy'"),
        ({"features": Output(1)}, "item 1"),
        ({"energy": PerAtom()}, "PerAtom"),
    ],
)
def test_a_wrong_description_of_the_model_is_an_error_that_says_what_to_give(options: dict[str, Any], say: str) -> None:
    model = schnet()
    attach(model, layers=model.interactions, **({"channels": WIDTH} | options))
    with pytest.raises(ConfigError, match=say):
        model(*batch_of(ETHANOL))


@pytest.mark.parametrize(
    ("change", "say"),
    [
        (lambda model: {"layers": []}, "layers is empty"),
        (lambda model: {"long_range": None}, "long_range is None; required: a name"),
        (lambda model: {"long_range": "mcmg"}, "Did you mean"),
        (lambda model: {"long_range": MCGM.paper(recluster="epoch")}, "recluster"),
    ],
)
def test_impossible_settings_are_refused_at_once(change: Callable[[nn.Module], dict[str, Any]], say: str) -> None:
    model = schnet()
    with pytest.raises(ConfigError, match=say):
        attach(model, **({"layers": model.interactions, "channels": WIDTH} | change(model)))


def test_a_second_block_layers_out_of_order_and_a_silent_energy_are_refused() -> None:
    model = attached_schnet()
    with pytest.raises(ConfigError, match="already"):
        attach(model, layers=model.interactions, channels=WIDTH)
    model = schnet()
    attachment = attach(model, layers=model.interactions[::-1], channels=WIDTH)
    with pytest.raises(ConfigError, match="order"):
        model(*batch_of(ETHANOL))
    attachment.remove()
    attach(model, layers=model.interactions, channels=WIDTH, energy_from=nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="did not run"):
        model(*batch_of(ETHANOL))


def test_after_an_error_inside_the_model_the_next_pass_works() -> None:
    model, inputs = attached_schnet(), batch_of(ETHANOL)
    expected = model(*inputs)
    with pytest.raises(IndexError):
        model(inputs[0] + 1000, *inputs[1:])
    assert torch.equal(model(*inputs), expected)


def test_features_are_read_and_written_without_changing_the_models_own_objects() -> None:
    scalars, update = torch.ones(2, 3), torch.full((2, 3), 2.0)
    outputs: tuple[Any, ...] = ((scalars, "v"), [scalars, "v"], {0: scalars})
    for output in outputs:
        written = Output(0).write(output, update)
        assert type(written) is type(output)
        assert torch.equal(written[0], scalars + update)
        assert output[0] is scalars
    assert torch.equal(Residual("x").read((), {"x": update}, scalars), update + scalars)


# --- blocks with charges, and atoms in any order


class Harmonics(nn.Module):
    """A network of three lines: an energy per structure of features that a layer has updated."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer, self.head = nn.Embedding(20, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1)

    def forward(self, numbers: Tensor, positions: Tensor, molecule: Tensor) -> Tensor:
        features = self.embedding(numbers)
        features = features + self.layer(features)
        energy = self.head(features)[:, 0]
        return energy.new_zeros(int(molecule.max()) + 1).index_add(0, molecule, energy)


def attached_network(long_range: str, **options: Any) -> nn.Module:
    torch.manual_seed(2)
    model = Harmonics().double()
    attach(model, long_range, layers=[model.layer], channels=WIDTH, **options)
    return model


@pytest.mark.parametrize("long_range", ["charges", "mcgm_charges"])
def test_charges_of_an_attached_block_attract_and_repel(long_range: str) -> None:
    numbers, positions, structure = batch_of(WATER, WATER)
    positions = positions.double()
    far = positions.clone()
    far[2] += 40.0  # one hydrogen leaves: nothing but electrostatics reaches so far in this network
    model, silent = attached_network(long_range), attached_network(long_range, gain=0.0)
    energies = [model(numbers, where, structure) for where in (positions, far)]
    assert abs(energies[0][0] - energies[1][0]) > 1e-6
    torch.testing.assert_close(energies[0][1], energies[1][1], rtol=0, atol=1e-12)
    torch.testing.assert_close(silent(numbers, positions, structure), silent(numbers, far, structure))
    energies[0].sum().backward()
    weights = [parameter for parameter in model.long_range.block.parameters() if parameter.grad is not None]
    assert any(weight.grad.abs().max() > 0 for weight in weights)


@pytest.mark.parametrize("long_range", [name for name in BLOCKS if name != "none"])
def test_atoms_of_structures_may_stand_in_any_order(long_range: str) -> None:
    numbers, positions, structure = batch_of(ETHANOL, BENZENE, WATER)
    positions = positions.double()
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0))
    model = attached_network(long_range, cutoff=CUTOFF)
    sorted_ones = model(numbers, positions, structure)
    mixed = model(numbers[order], positions[order], structure[order])
    torch.testing.assert_close(mixed, sorted_ones, rtol=0, atol=1e-10)
    silent = attached_network(long_range, cutoff=CUTOFF, gain=0.0)(numbers, positions, structure)
    assert (sorted_ones - silent).abs().min() > 1e-6


@pytest.mark.parametrize(
    ("change", "say"),
    [
        (lambda z, pos, batch: (pos, z, batch), r"numbers is torch.float32 of shape \(6, 3\)"),
        (lambda z, pos, batch: (z, pos[:, :2], batch), r"positions is torch.float32 of shape \(6, 2\); .* \(6, 3\)"),
        (lambda z, pos, batch: (z, pos[:-1], batch), r"positions .* of shape \(5, 3\); .* \(6, 3\)"),
        (lambda z, pos, batch: (z, pos, batch[:-1]), r"molecule is torch.int64 of shape \(5,\); .* \(6,\)"),
        (lambda z, pos, batch: (z, pos, batch.float()), "molecule is torch.float32"),
        (lambda z, pos, batch: (z, pos, 2 * batch), "2 different numbers from 0 to 2; required: 0, 1, 2, .* up to 2"),
        (lambda z, pos, batch: (z, pos, batch + 1), "numbers from 1 to 2"),
        (lambda z, pos, batch: (z, pos, batch - 1), "numbers from -1 to 0"),
        (lambda z, pos, batch: (z[:0], pos[:0], batch[:0]), "called without atoms"),
    ],
)
def test_inputs_that_are_none_of_atoms_are_told_by_shape(change: Callable[..., Any], say: str) -> None:
    reading = Reading(lambda *given: AtomInputs(*change(*given)), None)
    inputs = batch_of(WATER, WATER)
    with pytest.raises(ConfigError, match=say):
        reading("SchNet", inputs, {})


class TakesEdges(Harmonics):
    """As many networks: edges come fourth."""

    def forward(self, numbers: Tensor, positions: Tensor, molecule: Tensor, edges: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(numbers, positions, molecule)


def test_edges_are_not_taken_for_a_cell() -> None:
    model = TakesEdges()
    attach(model, "mcgm", layers=[model.layer], channels=WIDTH)
    numbers, positions, structure = batch_of(WATER, WATER)
    for edges in (torch.zeros(2, 26, dtype=torch.long), torch.zeros(2, 9, dtype=torch.long)):
        with pytest.raises(ConfigError, match=r"cell is torch.int64 of shape .* Give attach inputs="):
            model(numbers, positions, structure, edges)
