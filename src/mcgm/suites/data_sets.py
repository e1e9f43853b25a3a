"""Data sets by name: where their files are, what their labels mean, how they are split."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mcgm.errors import ConfigError, DataError, unknown_name

FOLDER = Path("..") / "shared" / "data"
"""Where data sets are looked for, unless `MCGM_DATA` names another folder."""

PARTS: dict[str, Any] = {"train": 1.0, "val": 0.0, "test": 0.0}
"""Split of a training file whose other parts are files of their own."""

DATA_SETS = MappingProxyType[str, dict[str, Any]](
    {
        "sample": {"path": "sample"},
        "pubchem_xtb": {
            "path": "pubchem_xtb/train.npz",
            "val": "pubchem_xtb/val.npz",
            "test": "pubchem_xtb/test.npz",
            "split": PARTS,
        },
        "conformers_xtb": {
            "path": "conformers_xtb/train.npz",
            "val": "conformers_xtb/val.npz",
            "test": "conformers_xtb/test.npz",
            "split": PARTS,
        },
        "conformers_xtb_by_molecule": {
            "path": "conformers_xtb/*.npz",
            "split": {"by_group": True, "train": 0.8, "val": 0.1},
        },
        "conformer_benchmark": {
            "path": "conformer_benchmark/conformer_benchmark.npz",
            "labels": "conformer-benchmark",
            "unlabelled": "drop",
            "split": {"by_group": True, "train": 0.8, "val": 0.1},
        },
        "qm7_pbe0": {"path": "qm7_pbe0/qm7.extxyz.gz", "keys": {"energy_kind": "atomisation"}},
        "qm9": {"path": "qm9_part*.csv", "labels": "qm9", "split": {"train": 110_000, "val": 10_000}},
        "des15k_pbe0mbd": {
            "path": "des15k_pbe0mbd/des15k_10percent.extxyz",
            "keys": {"charge": "total_charge", "dipole": None},
        },
        "spice_dipeptides": {
            "path": "spice_dipeptides/spice-dipep-dipolar_train.xyz",
            "val": "spice_dipeptides/spice-dipep-dipolar_val.xyz",
            "test": "spice_dipeptides/spice-dipep-dipolar_test.xyz",
            "split": PARTS,
            "keys": {"forces": "force", "dipole": None, "energy_kind": "atomisation"},
        },
        "sapt10k": {"path": "sapt10k/sapt10k.zip", "labels": "sapt10k"},
        "nci_atlas": {
            "path": "nci_atlas/NCIA_*.zip",
            "labels": "nci-atlas",
            "split": {"by_group": True, "train": 0.8, "val": 0.1},
        },
        "gnl_cumulene": {
            "path": "gnl_cumulene/gnl-v0.2-train.xyz",
            "val": "gnl_cumulene/gnl-v0.2-val.xyz",
            "test": "gnl_cumulene/gnl-v0.2-test.xyz",
            "split": PARTS,
        },
        "lode_charged_dimers": {
            "path": "lode_charged_dimers/train-id*.xyz",
            "test": "lode_charged_dimers/test-id*.xyz",
            "split": {"train": 0.9, "val": 0.1, "test": 0.0},
            "keys": {"energy": "inter_energy", "energy_kind": "interaction", "charge": "chargeA + chargeB"},
        },
        "carbon_chain_4g": {"path": "carbon_chain_4g/input.data", "split": {"train": 0.7, "val": 0.1}},
        "water_rpbe_d3": {"path": "water_rpbe_d3/test-H2O_RPBE-D3.xyz", "split": {"train": 30, "val": 5}},
        "oe62": {"path": "oe62/df_62k.json", "labels": "oe62", "split": {"name": "oe62"}},
        "aqm": {"path": "aqm/AQM-gas.hdf5", "labels": "aqm-atomisation", "split": {"name": "aqm"}},
    }
)
"""The `data` section of a recipe for each, with paths inside the folder of the data sets."""

INTERACTION = ("sapt10k", "nci_atlas")
"""Data sets whose energies are no sums over atoms: no element references are fitted."""

IN_PACKAGES = {"qm9": ("qm9pack", "data")}
"""Data sets that an installed package brings, and its folder with the files."""


def data_recipe(name: str) -> dict[str, Any]:
    """What a recipe says for a data set by name, or for a file: its data, and what follows for the model.

    Raises:
        ConfigError: neither a name of the table nor a file; or its package is not installed.
        DataError: the data set's files are not there.
    """
    recipe: dict[str, Any] = {"data": data_settings(name)}
    return recipe | {"model": {"reference_fit": "none"}} if name in INTERACTION else recipe


def data_settings(name: str) -> dict[str, Any]:
    """The `data` section of a recipe for a data set by name, or for a file.

    Raises:
        ConfigError: neither a name of the table nor a file; or its package is not installed.
        DataError: the data set's files are not there.
    """
    if name not in DATA_SETS:
        if Path(name).suffix or Path(name).exists():
            return {"path": name}
        raise ConfigError(unknown_name("data set", name, DATA_SETS) + " Or give a file.")
    entry = dict(DATA_SETS[name])
    if name == "sample":
        return entry
    folder = _folder(name)
    for key in ("path", "val", "test"):
        if key in entry:
            entry[key] = str(folder / entry[key])
            if not any(folder.glob(DATA_SETS[name][key])):
                raise DataError(
                    f"{entry[key]}: not there, so {name} cannot be used. Data sets are looked for in {FOLDER}; set "
                    "MCGM_DATA to the folder that has them."
                )
    return entry | {"name": name}


def _folder(name: str) -> Path:
    if name not in IN_PACKAGES:
        return Path(os.environ.get("MCGM_DATA", FOLDER))
    package, inside = IN_PACKAGES[name]
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ConfigError(f"{name} is part of the package {package}; install it with: pip install 'mcgm[{name}]'")
    return Path(found.origin).parent / inside
