"""Structures as users have them by mistake, and what must come of each: an answer that holds, or an error by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ase import Atoms
from hypothesis import strategies as st

from mcgm import Batch, Potential, build
from mcgm.errors import MCGMError
from mcgm.interfaces.ase import MCGMCalculator
from mcgm.prediction.stream import predictions
from mcgm.structure import Structure
from mcgm.testing import tolerance_for

ELEMENTS = (1, 6, 7, 8, 16)
"""What the potentials claim to know."""

CURVATURE = 1e4
"""1/Å; how much faster than the largest force the energy may bend, where rounded coordinates are compared."""

ROUGH = 10.0
"""How much more than in sane structures single precision may round: atoms 0.1 Å apart, a thousand neighbours each."""


def potentials() -> dict[str, Potential]:
    """One network on atoms and one on edges, with smooth MCGM, in both precisions."""
    found = {}
    for backbone, options in (
        ("schnet", {"channels": 16, "filters": 16}),
        ("dimenet++", {"channels": 16, "message_channels": 16, "triplet_channels": 8}),
    ):
        for precision in (torch.float32, torch.float64):
            torch.manual_seed(0)
            potential = build(
                backbone=backbone, long_range="mcgm", cutoff=3.0, elements=ELEMENTS, backbone_options=options
            )
            found[f"{backbone}, {str(precision).removeprefix('torch.')}"] = potential.to(precision).eval()
    return found


def _grid(random, n):
    """Atoms 1.4 Å apart, moved a little: nothing overlaps."""
    side = int(np.ceil(max(n, 1) ** (1 / 3)))
    points = np.stack(np.meshgrid(*[np.arange(side)] * 3), axis=-1).reshape(-1, 3)[:n] * 1.4
    return points + random.uniform(-0.2, 0.2, points.shape)


def _moved_half(random, n, distance):
    positions = _grid(random, n)
    positions[n // 2 :] += random.permutation([distance, 0.0, 0.0])
    return positions


def _repeated(random, n, distance):
    positions = _grid(random, n)
    if n > 1:
        positions[-1] = positions[0] + [0.0, distance, 0.0]
    return positions


LAYOUTS = {
    "grid": _grid,
    "symmetric": lambda random, n: np.round(_grid(random, n) / 1.4) * 1.4,
    "line": lambda random, n: np.outer(np.arange(n) * 10 ** random.uniform(-0.5, 5), [0.0, 0.6, 0.8]),
    "plane": lambda random, n: random.uniform(-1, 1, (n, 3)) * [1e5, 1e5, 0],
    "gas": lambda random, n: random.uniform(-1, 1, (n, 3)) * 10 ** random.uniform(-3, 6.5),
    "coincident": lambda random, n: _repeated(random, n, 0.0),
    "nearly coincident": lambda random, n: _repeated(random, n, 10 ** random.uniform(-13, 0)),
    "far apart": lambda random, n: _moved_half(random, n, 10 ** random.uniform(0, 6)),
    "far from the origin": lambda random, n: _grid(random, n) + random.normal(size=3) * 10 ** random.uniform(0, 6.3),
}


def _skewed(random):
    cell = np.diag(random.uniform(4, 12, 3))
    cell[1, 0], cell[2, 0], cell[2, 1] = random.normal(size=3) * 10 ** random.uniform(0, 5, 3)
    return cell


CELLS = {
    "none": lambda random: np.zeros((3, 3)),
    "box": lambda random: np.diag(random.uniform(8, 20, 3)) + random.normal(size=(3, 3)),
    "tiny": lambda random: np.diag(10 ** random.uniform(-4, 0.5, 3)) @ np.linalg.qr(random.normal(size=(3, 3)))[0],
    "small": lambda random: np.diag(random.uniform(0.8, 3, 3)),
    "skewed": _skewed,
    "tiny and skewed": lambda random: _skewed(random) * 10 ** random.uniform(-3, 0),
    "left-handed": lambda random: np.diag(random.uniform(8, 15, 3))[[1, 0, 2]],
    "singular": lambda random: np.outer(random.normal(size=3), random.normal(size=3)) * 10,
    "nearly singular": lambda random: np.diag([9.0, 9.0, 10 ** random.uniform(-14, -1)])[:, [0, 2, 1]] + [5.0, 0, 0],
    "thin": lambda random: np.diag(10 ** random.permutation([random.uniform(-0.7, 1), 4.5, random.uniform(1, 5)])),
    "huge": lambda random: np.diag(10 ** random.uniform(3, 7, 3)),
    "extremes": lambda random: random.normal(size=(3, 3)) * 10.0 ** random.integers(-300, 300, (3, 3)),
}


def _put(name, value):
    def fault(random, fields):
        array = np.array(fields[name], dtype=float)
        if array.size:
            array.flat[random.integers(array.size)] = value
        return {name: array}

    return fault


def _cast(name, kind):
    def fault(random, fields):
        with np.errstate(all="ignore"):
            return {name: np.array(fields[name]).astype(kind)}

    return fault


def _label(name, shape, value=0.0):
    return lambda random, fields: {name: np.full([len(fields["numbers"]) if k is None else k for k in shape], value)}


FAULTS = {
    **{
        f"{name} with {value}": _put(name, value) for name in ("positions", "cell") for value in (np.nan, np.inf, 1e300)
    },
    **{f"number {value}": _put("numbers", value) for value in (0, -1, 119, 1e9, 1e300, 1.5, np.nan, 79)},
    **{
        f"{name} as {kind}": _cast(name, kind)
        for name in ("positions", "numbers", "cell")
        for kind in ("float32", "int64", "complex128", "object", "str", "bool", "uint8", "float16", ">f8")
    },
    "positions as lists": lambda random, fields: {"positions": np.array(fields["positions"]).tolist()},
    "positions as a tensor": lambda random, fields: {
        "positions": torch.from_numpy(np.array(fields["positions"], dtype=float)).requires_grad_()
    },
    "masked positions": lambda random, fields: {
        "positions": np.ma.masked_greater(np.array(fields["positions"], dtype=float), 0.5)
    },
    "ragged positions": lambda random, fields: {"positions": [[0.0, 0.0, 0.0], [1.0]]},
    "flat positions": lambda random, fields: {"positions": np.ravel(fields["positions"])},
    "transposed positions": lambda random, fields: {"positions": np.transpose(fields["positions"])},
    "one atom more": lambda random, fields: {"numbers": [*np.ravel(fields["numbers"]), 1]},
    "symbols": lambda random, fields: {"numbers": ["C"] * len(fields["numbers"])},
    "no numbers": lambda random, fields: {"numbers": None},
    "numbers of two axes": lambda random, fields: {"numbers": [list(np.ravel(fields["numbers"]))]},
    "lengths as cell": lambda random, fields: {"cell": [9.0, 9.0, 9.0]},
    "pbc as text": lambda random, fields: {"pbc": "TTF"},
    "pbc of two": lambda random, fields: {"pbc": [True, False]},
    "pbc 2": lambda random, fields: {"pbc": [0, 1, 2]},
    "pbc nan": lambda random, fields: {"pbc": [np.nan, 0.0, 1.0]},
    **{
        f"{name} {value!r}": (lambda random, fields, name=name, value=value: {name: value})
        for name in ("charge", "spin")
        for value in (np.nan, -np.inf, 1e300, "one", None, 1j, [1.0, 2.0], np.array([1.0]), True, 10**400)
    },
    **{
        f"energy {value!r}": (lambda random, fields, value=value: {"energy": value})
        for value in (np.nan, 1e300, "low", [1.0, 2.0], np.zeros((0,)), 1j)
    },
    "forces of nan": _label("forces", (None, 3), np.nan),
    "forces of another shape": _label("forces", (None, 2)),
    "forces of one atom less": lambda random, fields: {"forces": np.zeros((max(len(fields["numbers"]) - 1, 0), 3))},
    "forces as text": lambda random, fields: {"forces": "none"},
    "stress of six": _label("stress", (6,)),
    "dipole of nan": _label("dipole", (3,), np.nan),
    "charges of inf": _label("charges", (None,), np.inf),
}
ENTRIES = ("Structure", "Atoms", "calculator", "predict")


@st.composite
def cases(draw) -> dict[str, Any]:
    """Arguments of `Structure`, made by a layout, a cell, periodic axes and up to two faults; where they enter."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.sampled_from([0, 1, 1, 2, 2, 3, 4, 5, 6, 8, 12, 20, 1, 2, 3, 4, 5, 6, 170]))
    layout, cell = draw(st.sampled_from(sorted(LAYOUTS))), draw(st.sampled_from(sorted(CELLS)))
    pbc = draw(st.tuples(st.booleans(), st.booleans(), st.booleans())) if cell != "none" else (False, False, False)
    fields: dict[str, Any] = {
        "numbers": random.choice(ELEMENTS, n),
        "positions": LAYOUTS[layout](random, n),
        "cell": CELLS[cell](random),
        "pbc": pbc,
        "charge": float(random.integers(-1, 2)),
        "spin": float(random.integers(0, 2)),
    }
    faults = draw(st.lists(st.sampled_from(sorted(FAULTS)), max_size=2, unique=True)) if draw(st.booleans()) else []
    for fault in faults:
        try:
            fields |= FAULTS[fault](random, fields)
        except (TypeError, ValueError, RuntimeError, Warning):  # a second fault on what the first one left
            continue
    potential = draw(
        st.sampled_from(["schnet, float32", "schnet, float64", "dimenet++, float32", "dimenet++, float64"])
    )
    entry = draw(st.sampled_from(ENTRIES))
    return {"fields": fields, "potential": potential, "entry": entry, "about": [layout, cell, *faults]}


def outcome(case: dict[str, Any], known: dict[str, Potential]) -> str:
    """ "answered", "refused: <error>", or "refused by ASE" before this package is asked.

    Raises:
        AssertionError: an answer that does not hold, or an error that names nothing.
        Exception: anything else is a crash.
    """
    potential = known[case["potential"]]
    fields = case["fields"]
    if case["entry"] in ("Atoms", "calculator"):
        try:
            atoms = Atoms(**{name: fields[name] for name in ("numbers", "positions", "cell", "pbc")})
        except Exception:  # not ours: ASE refuses many shapes itself
            return "refused by ASE"
        atoms.info |= {name: fields[name] for name in ("charge", "spin")}
    try:
        structure = (
            Structure.from_atoms(atoms, name="asked") if "atoms" in locals() else Structure(**fields, name="asked")
        )
        energy, forces = _asked(case["entry"], structure, atoms if "atoms" in locals() else None, potential)
    except MCGMError as error:
        if "structure" not in str(error):
            raise AssertionError(f"names no structure: {error}") from error
        return f"refused: {type(error).__name__}"
    _holds(structure, energy, forces, potential)
    return "answered"


def _asked(entry: str, structure: Structure, atoms: Atoms | None, potential: Potential) -> tuple[float, np.ndarray]:
    if entry == "calculator":
        assert atoms is not None
        atoms.calc = MCGMCalculator(potential)
        return atoms.get_potential_energy(), atoms.get_forces()
    if entry == "predict":
        (predicted,) = predictions(potential, [structure])
        return predicted.get_potential_energy(), predicted.get_forces()
    if atoms is not None:
        batch = Batch.from_atoms([atoms], cutoff=potential.cutoff, dtype=potential.dtype)
    else:
        batch = Batch.from_structures([structure], cutoff=potential.cutoff, dtype=potential.dtype)
    prediction = potential(batch)
    if prediction.stress is not None:
        assert torch.isfinite(prediction.stress).all(), "stress is not finite"
    return float(prediction.energy[0]), prediction.forces.double().numpy()


def _holds(structure: Structure, energy: float, forces: np.ndarray, potential: Potential) -> None:
    """Finite, without a net force, and the same when atoms are reordered and everything is turned."""
    assert np.isfinite(energy), "energy is not finite"
    assert np.isfinite(forces).all(), "forces are not finite"
    n, tolerance = len(structure), tolerance_for(potential.dtype)
    strength = (1.0 + np.abs(forces).max()) * (ROUGH if potential.dtype == torch.float32 else 1.0)
    batch = Batch.from_structures([structure], cutoff=potential.cutoff, dtype=torch.float64)
    reach = batch.neighbors.image.double().abs() @ torch.linalg.vector_norm(batch.cell[0], dim=1)
    size = max(np.abs(structure.positions).max(), np.abs(structure.cell).max(), *reach.tolist(), 1.0)
    rounding = 8 * np.finfo(np.float64).eps * size
    allowed = tolerance.forces * strength + rounding * strength * CURVATURE
    assert np.abs(forces.sum(axis=0)).max() <= n * tolerance.forces * strength, "forces do not sum to zero"

    random = np.random.default_rng(0)
    turn, order = np.linalg.qr(random.normal(size=(3, 3)))[0], random.permutation(n)
    try:
        turned = structure.replace(
            numbers=structure.numbers[order], positions=(structure.positions @ turn)[order], cell=structure.cell @ turn
        )
        again = potential(Batch.from_structures([turned], cutoff=potential.cutoff, dtype=potential.dtype))
    except MCGMError as error:  # a limit on coordinates or distances, passed by rounding or by turning
        if size > 5e5 or " apart" in str(error):
            return
        raise
    difference = abs(float(again.energy[0]) - energy) / n
    assert difference <= tolerance.energy * (strength + abs(energy) / n) + rounding * strength * CURVATURE, (
        f"energy changes by {difference} eV per atom when reordered and turned"
    )
    difference = np.abs(again.forces.double().numpy() @ turn.T - forces[order]).max()
    assert difference <= allowed, f"forces change by {difference} eV/Å (allowed {allowed}) when reordered and turned"
