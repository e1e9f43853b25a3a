"""Orientations: against sums over pairs of pairs, what they can tell that nothing else can, and what they promise."""

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
from mcgm.long_range import Orientations
from mcgm.structure import Structure
from mcgm.testing import DOUBLE, InvarianceSuite, PhysicsSuite, copies_apart, unlike_apart, zoo
from mcgm.testing.independence import supercell
from mcgm.testing.predict import predict

CUTOFF = 3.0
CHANNELS = 6
SMALL = {"tensors": 3, "radial": 4, "reach": 2.5, "hidden": 5}


def salt():
    atoms = bulk("MgO", "rocksalt", 4.21, cubic=True)
    atoms.rattle(0.1, seed=1)
    return atoms


def batch_of(*atoms, cutoff=CUTOFF):
    return Batch.from_atoms(list(atoms), cutoff=cutoff, dtype=torch.float64)


def make_block(**options):
    torch.manual_seed(0)
    block = Orientations(**SMALL | options).build(CHANNELS, 1).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return block


@cache
def make_potential(backbone="schnet", long_range="orientations", **options):
    torch.manual_seed(3)
    widths = {"channels": 8, "layers": 2} | ({"heads": 2} if backbone == "visnet" else {})
    potential = build(
        backbone=backbone,
        long_range=long_range,
        backbone_options=widths,
        cutoff=CUTOFF,
        long_range_options={"tensors": 4, "reach": 2.5} | options,
    )
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        # fresh weights have no unit: limits are meant for forces of ordinary size
        (labelled,) = predict(potential.eval(), [zoo()["alanine dipeptide"]])
        potential.scale.mul_(2.0 / abs(labelled.forces).max())
    return potential.double()


# --- the oracle: no harmonics, but the Legendre polynomial of every angle between two neighbours of two atoms


def legendre(cosine):
    return cosine, 1.5 * cosine**2 - 0.5


def near(atoms, reach):
    """Of every atom: its neighbours, images included, as (who, unit vector, distance)."""
    found = [[] for _ in atoms]
    span = range(-1, 2) if atoms.pbc.any() else range(1)
    images = [np.array(n) @ atoms.cell[:] for n in np.stack(np.meshgrid(span, span, span), -1).reshape(-1, 3)]
    for i, j, shift in ((i, j, shift) for i in range(len(atoms)) for j in range(len(atoms)) for shift in images):
        vector = atoms.positions[j] + shift - atoms.positions[i]
        distance = np.linalg.norm(vector)
        if 1e-6 < distance < reach:
            found[i].append((j, vector / distance, distance))
    return found


def products_one_by_one(block, atoms, scalars, members):
    """q_ilc = sum_j w_jc sum_ab f_iac f_jbc P_l(u_ia · u_jb) / sum_j w_jc; f the radial times the source's channel."""
    layer, neighbors = block.layers[0], near(atoms, block.reach)

    def messages(i):
        found = []
        for who, unit, distance in neighbors[i]:
            d = torch.tensor([distance], dtype=torch.float64)
            radial = (block.basis(d) * block.envelope(d)[:, None])[0]
            found.append((unit, (layer.filter.weight @ radial) * (layer.source.weight @ scalars[who])))
        return found

    sent = [messages(i) for i in range(len(atoms))]
    weight = [torch.exp(3 * torch.tanh(layer.score.weight @ h / 3)) for h in scalars]
    rows = []
    for i in range(len(atoms)):
        totals = torch.zeros(2, block.layers[0].source.out_features, dtype=torch.float64)
        for j in members(i):
            for u, f in sent[i]:
                for v, g in sent[j]:
                    for degree, value in enumerate(legendre(float(u @ v))):
                        totals[degree] += weight[j] * f * g * value
        rows.append((totals / sum(weight[j] for j in members(i))).flatten())
    return torch.stack(rows)


def norm(values, layer):
    centred = values - values.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + layer.eps) * layer.weight + layer.bias


@pytest.mark.parametrize("clusters", ["element", "system", "atom"])
def test_a_batch_gives_what_sums_over_pairs_of_neighbours_give_one_by_one(clusters):
    structures = [molecule("CH3OH"), Atoms("He"), salt(), molecule("C2H4")]
    batch, block = batch_of(*structures), make_block(clusters=clusters)
    scalars = torch.randn(batch.n_atoms, CHANNELS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    state = block.begin(batch, block.index(batch), clusters=None, generator=None)
    update, _ = block.exchange(0, scalars, state)
    layer, expected = block.layers[0], []
    for atoms, features in zip(structures, scalars.split([len(atoms) for atoms in structures]), strict=True):
        numbers = atoms.numbers
        same = {
            "element": lambda i, z=numbers: np.flatnonzero(z == z[i]),
            "system": lambda i, z=numbers: range(len(z)),
            "atom": lambda i: [i],
        }[clusters]
        alone = products_one_by_one(block, atoms, features, lambda i: [i])
        q = torch.cat([alone, products_one_by_one(block, atoms, features, same)], dim=1)
        hidden = norm(layer.atom(features) + q @ layer.product.weight.T, layer.norm)
        expected.append(layer.output(hidden * torch.sigmoid(hidden)))
    torch.testing.assert_close(update, torch.cat(expected), rtol=1e-10, atol=1e-12)
    assert torch.cat(expected).std() > 0.1
    assert len(block.contribution(scalars, state).energy) == 0


# --- what only they can tell


def cumulene(carbons, twist):
    """H2C=(C)=CH2 with one end turned by so many degrees."""
    bond, out, along = 1.28, 0.93, 0.56
    chain = [[0, 0, bond * k] for k in range(carbons)]
    turn = np.radians(twist)
    first = [[side * out, 0, -along] for side in (1, -1)]
    end = bond * (carbons - 1) + along
    last = [[side * out * np.cos(turn), side * out * np.sin(turn), end] for side in (1, -1)]
    return Atoms(f"C{carbons}H4", chain + first + last)


def felt_twist(potential):
    """Largest change of the energy (eV) as one end of a chain far longer than the network sees is turned."""
    energies = [
        p.energy for p in predict(potential, [Structure.from_atoms(cumulene(13, twist)) for twist in (0, 30, 60, 90)])
    ]
    return max(energies) - min(energies)


@pytest.mark.parametrize("backbone", ["schnet", "painn"])
@pytest.mark.parametrize("block", ["orientations", "mcgm_oriented"])
def test_one_end_of_a_long_chain_feels_how_the_other_is_turned(backbone, block):
    assert felt_twist(make_potential(backbone, block)) > 1e-4


@pytest.mark.parametrize("block", ["none", "mcgm", "mcgm_mixing", "range", "neural_atoms"])
def test_pooled_scalars_do_not_feel_it(block):
    torch.manual_seed(3)
    assert felt_twist(build(backbone="schnet", long_range=block, cutoff=CUTOFF).double().eval()) < 1e-9


def test_nor_does_an_atom_that_is_a_cluster_by_itself():
    assert felt_twist(make_potential(clusters="atom")) < 1e-9


def test_the_twist_can_be_learned_and_lengths_not_seen_are_predicted():
    """Energies 1 + cos(2 twist) over chains of 9 and 11 carbons; asked of 10, which no local network can tell."""
    torch.manual_seed(0)
    potential = build(
        backbone="schnet",
        long_range="orientations",
        cutoff=CUTOFF,
        backbone_options={"channels": 16, "filters": 16, "radial": 12, "layers": 2},
    )
    twists = np.arange(0, 91, 15)
    batch = Batch.from_atoms([cumulene(n, t) for n in (9, 11) for t in twists], cutoff=CUTOFF)
    target = torch.tensor(np.tile(1 + np.cos(2 * np.radians(twists)), 2))
    asked = Batch.from_atoms([cumulene(10, t) for t in twists + 7.5], cutoff=CUTOFF)
    answer = torch.tensor(1 + np.cos(2 * np.radians(twists + 7.5)))
    optimizer = torch.optim.Adam(potential.parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(potential(batch, forces=False).energy, target).backward()
        optimizer.step()
    found = potential(asked, forces=False).energy.detach()
    assert (found - answer).abs().mean() < 0.2 * (answer - answer.mean()).abs().mean()


# --- in use


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_takes_it_and_a_file_keeps_it(backbone, tmp_path):
    potential = make_potential(backbone, "mcgm_oriented")
    structures = [zoo()["HCN"], zoo()["alanine dipeptide"]]
    assert potential.not_promised == {}
    potential.save(tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert again.specification == potential.specification
    for before, after in zip(predict(potential, structures), predict(again, structures), strict=True):
        assert before.energy == after.energy
        assert np.isfinite(before.forces).all()


def test_it_can_be_attached_where_neighbours_are_searched(bare_network):
    torch.manual_seed(0)
    batch = batch_of(molecule("CH3OH"), molecule("H2O")).to(torch.float32)
    inputs = batch.numbers, batch.positions, batch.molecule
    model = bare_network()
    before = model(*inputs)
    attach(model, "orientations", layers=list(model.layers), channels=6, cutoff=4.0)
    assert (model(*inputs) - before).abs().min() > 1e-4
    bare = bare_network()
    attach(bare, "orientations", layers=list(bare.layers), channels=6)
    with pytest.raises(ConfigError, match="cutoff"):
        bare(*inputs)


def test_a_reach_beyond_the_cutoff_is_refused():
    potential = build(backbone="schnet", long_range="orientations", cutoff=2.0)
    with pytest.raises(ConfigError, match=r"orientations reach 3 Å.*2 Å.*required"):
        potential(Batch.from_atoms([molecule("H2O")], cutoff=2.0))


@pytest.mark.parametrize(
    "options",
    [{"tensors": 0}, {"reach": -1.0}, {"radial": 0}, {"hidden": 0}, {"clusters": "bond"}, {"scope": "cell"}],
    ids=str,
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigError, match=r"required|choice"):
        Orientations(**options)


# --- what it promises


class TestInDouble(PhysicsSuite):
    count = 3

    @pytest.fixture(autouse=True, params=[("schnet", "orientations"), ("painn", "mcgm_oriented")], ids="-".join)
    def choose(self, request):
        self.choice = request.param

    def potential(self):
        return make_potential(*self.choice)

    def structures(self):
        return [zoo()[name] for name in ("HCN", "CH4", "alanine dipeptide", "NaCl cell")]


class TestInSingle(InvarianceSuite):
    count = 3

    def structures(self):
        return [zoo()["HCN"], zoo()["NaCl cell"]]

    def potential(self):
        return deepcopy(make_potential("painn")).float()


def ethanol(length):
    """Its C-C bond this long, Å."""
    atoms = molecule("CH3CH2OH")
    axis = atoms.positions[1] - atoms.positions[0]
    distance = np.linalg.norm(axis)
    beyond = (atoms.positions - atoms.positions[0]) @ axis > 0.5 * distance**2
    atoms.positions[beyond] += axis / distance * (length - distance)
    return atoms


class TestWithinMoleculesThatPart(PhysicsSuite):
    """Scope "molecule" while a bond is partial."""

    count = 3

    def structures(self):
        return [Structure.from_atoms(ethanol(2.1)), zoo()["NaCl cell"], zoo()["HCN"]]

    def potential(self):
        return make_potential(scope="molecule")


def test_the_energy_has_no_step_while_a_bond_breaks_within_molecules():
    potential = make_potential(scope="molecule")
    frames = [ethanol(length) for length in np.arange(1.75, 2.6, 2e-3)]
    parts = [potential(batch_of(*frames[k : k + 50])) for k in range(0, len(frames), 50)]
    energy = torch.cat([part.energy for part in parts]).numpy()
    forces = torch.cat([part.forces for part in parts]).numpy().reshape(len(frames), -1, 3)
    moved = np.diff(np.stack([frame.positions for frame in frames]), axis=0)
    work = np.einsum("fac,fac->f", (forces[1:] + forces[:-1]) / 2, moved)
    assert abs(np.diff(energy) + work).max() < 1e-5
    assert np.ptp(energy) > 0.05


def test_copies_and_cells_add_up_and_far_molecules_do_within_molecules_alone():
    animals, system, inside = zoo(), make_potential(), make_potential(scope="molecule")
    assert copies_apart(system, animals["alanine dipeptide"]) < DOUBLE.copies
    assert supercell(system, animals["NaCl cell"]).energy < DOUBLE.energy
    assert unlike_apart(system, animals["caffeine"], animals["CH4"]) > 100 * DOUBLE.unlike
    assert unlike_apart(inside, animals["caffeine"], animals["CH4"]) <= DOUBLE.unlike
