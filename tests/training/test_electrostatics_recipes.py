"""The recipes for electrostatics, from start to end on small files of the layout of those data sets."""

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
import yaml

from mcgm.cli import main
from mcgm.data.writers import write_npz
from mcgm.structure import Structure
from mcgm.training import comparison, timing
from mcgm.training.cell import run_cell
from mcgm.units import BOHR, HARTREE

RECIPES = Path(__file__).parents[2] / "configs" / "electrostatics"
SETTINGS = {
    "training.epochs": 1,
    "training.accelerator": "cpu",
    "seeds": [0],
    "model.backbone_options": {"channels": 8, "filters": 8, "radial": 8, "layers": 1},
}
SPLIT = {"data.split": {"train": 3, "val": 1, "test": 2}}


def charges_of(atoms, total):
    charges = np.where(atoms.numbers == 1, 0.1, -0.1)
    return charges + (total - charges.sum()) / len(atoms)


def lode(folder, frames):
    """Two files, in a periodic cell, with the charges of both molecules."""
    for k, atoms in enumerate(frames):
        atoms.info |= {"inter_energy": -0.1 * k, "chargeA": k % 2, "chargeB": -1, "distance": float(k)}
        atoms.set_cell([12.0] * 3)
        atoms.pbc = True
    ase.io.write(folder / "train-id0.xyz", frames[:3])
    ase.io.write(folder / "train-id2.xyz", frames[3:10])
    ase.io.write(folder / "test-id0.xyz", frames[10:])
    files = {"data.path": str(folder / "train-id*.xyz"), "data.test": str(folder / "test-id*.xyz")}
    return files | {"data.split.val": 1}


def carbon_chain(folder, frames):
    """RuNNer's format."""
    lines = []
    for k, atoms in enumerate(frames):
        lines.append("begin")
        columns = (atoms.positions / BOHR, charges_of(atoms, k % 2), atoms.get_forces() * BOHR / HARTREE)
        for symbol, x, q, f in zip(atoms.symbols, *columns, strict=True):
            lines.append(f"atom {x[0]} {x[1]} {x[2]} {symbol} {q} 0.0 {f[0]} {f[1]} {f[2]}")
        lines += [f"energy {atoms.get_potential_energy() / HARTREE}", f"charge {k % 2}", "end"]
    (folder / "input.data").write_text("\n".join(lines) + "\n")
    return {"data.path": str(folder / "input.data")} | SPLIT


def des15k(folder, frames):
    """Total charges, and dipoles about the origin."""
    for k, atoms in enumerate(frames):
        total = k % 3 - 1
        atoms.info["total_charge"] = total
        atoms.calc.results["dipole"] = charges_of(atoms, total) @ atoms.positions
    ase.io.write(folder / "des.extxyz", frames)
    return {"data.path": str(folder / "des.extxyz")} | SPLIT


def spice(folder, frames):
    """Three files, forces under another key."""
    for atoms in frames:
        atoms.arrays["force"] = atoms.calc.results.pop("forces")
        atoms.arrays["mbi_charges"] = charges_of(atoms, 0)
        atoms.calc.results["dipole"] = charges_of(atoms, 0) @ atoms.positions
    parts = {"path": frames[:6], "val": frames[6:8], "test": frames[8:]}
    for name, part in parts.items():
        ase.io.write(folder / f"{name}.xyz", part, format="extxyz")
    return {f"data.{name}": str(folder / f"{name}.xyz") for name in parts}


def pubchem(folder, frames):
    """npz."""
    structures = [
        Structure.from_atoms(atoms).replace(charges=charges_of(atoms, 0), dipole=np.zeros(3)) for atoms in frames
    ]
    write_npz(structures, folder / "train.npz")
    return {"data.path": str(folder / "train.npz")} | SPLIT


LAYOUTS = {layout.__name__: layout for layout in (lode, carbon_chain, des15k, spice, pubchem)}


def test_every_set_has_a_recipe():
    assert {path.stem for path in RECIPES.glob("*.yaml")} == set(LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_recipe_compares_charges_with_the_rest(name, tmp_path, labelled, monkeypatch):
    def here(pending, recipe, config, output, console):
        for variant, seed in pending:
            run_cell(config, variant, seed, output)

    monkeypatch.setattr(comparison, "_run_all", here)  # processes of their own cost more than all of the rest
    monkeypatch.setattr(timing, "ROUNDS", 1)
    settings = SETTINGS | LAYOUTS[name](tmp_path, labelled(12))
    words = [word for key, value in settings.items() for word in (f"--{key}", json.dumps(value))]
    variants = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))["variants"]
    words += ["--only", ",".join(key for key in variants if key in ("local", "mcgm") or "charges" in key)]
    assert main(["compare", str(RECIPES / f"{name}.yaml"), "-o", str(tmp_path / "out"), *words]) == 0
    cells = {
        path.stem.removesuffix("-seed0"): json.loads(path.read_text()) for path in tmp_path.glob("out/cells/*.json")
    }
    cells = {variant: cell for variant, cell in cells.items() if "metrics" in cell}
    assert {"local", "mcgm", "charges", "mcgm_charges"} <= set(cells)
    for variant, cell in cells.items():
        assert cell["metrics"]["force_mae_mev_per_A"] > 0
        has_labels = name != "lode" and "charges" in variant
        assert (cell["metrics"]["dipole_mae_meA"] is not None) == (has_labels and name != "carbon_chain")
        weight = cell["config"]["training"]["loss"]["charge_weight"]
        assert (weight > 0) == variant.endswith("labelled")
