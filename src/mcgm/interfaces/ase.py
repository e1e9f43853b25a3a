"""ASE calculator: with it come ASE's dynamics, optimisers, NEB and phonons."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from mcgm.batch import Batch
from mcgm.checkpoint import read_header
from mcgm.data.labels import summands
from mcgm.errors import ConfigError, named, unknown_name
from mcgm.interfaces.admission import admit
from mcgm.interfaces.clusters import ClusterChoice, FreshClusters, FrozenClusters
from mcgm.interfaces.frames import frames
from mcgm.potential import Potential, Prediction
from mcgm.splitting import alone
from mcgm.structure import Structure

__all__ = ["FreshClusters", "FrozenClusters", "MCGMCalculator"]

INFO_KEYS = ("charge", "spin")
"""Entries of `atoms.info`; those under which the training found them are looked for after them."""

OF_ASE = ("atoms", "directory", "ignore_bad_restart_file", "label", "restart")
"""Options of every calculator of ASE."""

NO_STRESS = (
    "stress needs periodic atoms in a cell with a volume; these have none. Slabs and wires need cell vectors along "
    "their open axes too: stress is per volume of that cell, vacuum included."
)

_log = logging.getLogger("mcgm")


class MCGMCalculator(Calculator):
    """Energies (eV), forces (eV/Å) and stress (eV/Å³, ASE's sign and order) of a potential or its file.

    Total charge (e) and spin (unpaired electrons) are read from `atoms.info`: entries `charge` and `spin`, or else
    those that the recipe in the potential's file names (`data.keys`); without either they are zero. `results` also
    holds `energies`, the atoms' own parts, `cluster_energy`, what clusters add, and `clusters`, a note on whose
    clusters were used. With charges (e): these, the dipole about the centre of mass (eÅ), and
    `electrostatic_energy`. Global torch state (default type, seeds, threads, grad mode) is never touched; the
    potential is copied. A symmetry that the potential does not promise is a warning.

    A committee also gives `energy_spread` (eV), `forces_spread` (eV/Å), and `out_of_domain`, whether its members differ
    by more than usual; the first structure of which that is true is logged as a warning.

    Args:
        potential: a potential, or the path of its file.
        device: torch device.
        dtype: float32 or float64; default: that of the potential. Dynamics is best in float64.
        skin: Å around the cutoff; pairs are searched again only once atoms have moved by half of it. Default: 0.5, with
            `cuda_graphs` 1.0.
        clusters: "fresh", made at every frame; or "frozen" at the first one, for potentials that jump otherwise; or a
            `FrozenClusters(at=atoms)`.
        allow_discontinuous: use a potential whose energy jumps (`is_smooth` is false), which does not conserve energy.
        compile: fuse the network into one graph, which takes a minute or two at the second calculation and makes all
            later ones about twice as fast; see `mcgm.compiled.CompiledPotential`.
        cuda_graphs: on a GPU: record the kernels of a step at the third calculation, after each search of pairs anew,
            and replay them until the next one, which makes steps of small systems several times as fast; see
            `mcgm.cuda_graphs`.
        options: of ASE's own calculators: `atoms`, `label`, `directory`.

    Raises:
        ConfigError: a negative skin, a type that is no precision, a device that is not there, an unknown option, jumps
            that were not allowed, or what cannot be compiled, or recorded.
        StructureError: at a calculation: unusable atoms, an unknown element, or other atoms than the frozen ones.
        TooLargeError: at a calculation: the structure does not fit into memory; with what would.
    """

    implemented_properties: ClassVar[list[str]] = [
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
        "charges",
        "dipole",
    ]

    def __init__(
        self,
        potential: Potential | str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        skin: float | None = None,
        clusters: str | ClusterChoice = "fresh",
        allow_discontinuous: bool = False,
        compile: bool = False,
        cuda_graphs: bool = False,
        **options: Any,
    ) -> None:
        _refuse_unknown(options)
        super().__init__(**options)
        self.potential, self.clusters = admit(
            potential,
            device=device,
            dtype=dtype,
            clusters=clusters,
            allow_discontinuous=allow_discontinuous,
            compiled=compile,
        )
        self._info_keys = _info_keys(potential)
        self._frames = frames(self.potential, self.clusters, skin=skin, cuda_graphs=cuda_graphs)
        self._has_warned = False

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What changed since the last calculation, charge and spin in `atoms.info` included."""
        changes = super().check_state(atoms, tol=tol)
        if self.atoms is not None:
            before = self.atoms.info
            changes += [
                key
                for key, names in self._info_keys.items()
                if not np.array_equal(_entry(atoms.info, names), _entry(before, names))
            ]
        return changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Fill `results`; called by ASE."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None, "ASE calls calculate with the atoms."
        structure = _structure(self.atoms, self._info_keys)
        has_stress = structure.volume > 0
        if "stress" in properties and not has_stress:
            raise PropertyNotImplementedError(NO_STRESS)
        if not self.potential.has_charges and {"charges", "dipole"} & set(properties):
            raise PropertyNotImplementedError("this potential has no charges; train with long_range='mcgm_charges'.")

        def predict() -> Prediction:
            return self._frames.predict([structure], stress=has_stress, name=str(structure))

        # Inside a caller's inference mode no forces could be differentiated.
        with torch.inference_mode(False), named([structure]):
            prediction = alone("calculator", structure, predict, trial=self._try)
        assert prediction.forces is not None
        energy = float(prediction.energy[0])
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "energies": _array(prediction.atom_energy),
            "forces": _array(prediction.forces),
            "cluster_energy": float(prediction.cluster_energy[0]),
            "clusters": self.clusters.note,
        }
        if prediction.charges is not None and prediction.dipole is not None:
            self.results |= {"charges": _array(prediction.charges), "dipole": _array(prediction.dipole[0])}
            self.results["electrostatic_energy"] = float(prediction.electrostatic_energy[0])
        if prediction.stress is not None:
            self.results["stress"] = full_3x3_to_voigt_6_stress(_array(prediction.stress[0]))
        self.results |= self._spread(prediction, structure)

    def _spread(self, prediction: Prediction, structure: Structure) -> dict[str, Any]:
        """What a committee says of itself."""
        if prediction.energy_spread is None or prediction.forces_spread is None:
            return {}
        spread = {
            "energy_spread": float(prediction.energy_spread[0]),
            "forces_spread": _array(prediction.forces_spread),
        }
        if prediction.out_of_domain is None:
            return spread
        outside = bool(prediction.out_of_domain[0])
        if outside and not self._has_warned:
            _log.warning("calculator: %s is out of domain: %s.", structure, self.potential.domain)
            self._has_warned = True
        return spread | {"out_of_domain": outside}

    def _try(self, structure: Structure) -> None:
        """Energy and forces of another structure, which nothing is kept of."""
        batch = Batch.from_structures([structure], cutoff=self.potential.cutoff, dtype=self.potential.dtype)
        self.potential(batch.to(self.potential.device))

    @property
    def skin(self) -> float:
        """Å around the cutoff."""
        return self._frames.neighbors.skin

    @property
    def rebuilds(self) -> int:
        """How often pairs have been searched."""
        return self._frames.neighbors.rebuilds

    @property
    def recordings(self) -> int:
        """How often kernels have been recorded (`cuda_graphs`)."""
        return self._frames.recordings


def _refuse_unknown(options: Mapping[str, Any]) -> None:
    """ASE keeps whatever it is given, and a misspelt option would do nothing."""
    own = [name for name in inspect.signature(MCGMCalculator).parameters if name != "options"]
    for option in options:
        if option not in OF_ASE:
            hint = " Precision is a torch type here: dtype=torch.float64." if option == "precision" else ""
            raise ConfigError("calculator: " + unknown_name("option", option, [*own, *OF_ASE]) + hint)


def _info_keys(potential: Potential | str | Path) -> dict[str, tuple[str, ...]]:
    """Where charge and spin may stand: under their own names, or under those of the training's file."""
    header = {} if isinstance(potential, Potential) else read_header(potential)
    data = (header.get("extra", {}).get("recipe") or {}).get("data") or {}
    keys = data.get("keys") or {}
    return {key: (key, *(name for name in [keys.get(key)] if name not in (None, key))) for key in INFO_KEYS}


def _entry(info: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The first of these that is there, or zero; a name may be a sum of entries, as in `data.keys`."""
    for name in names:
        if name in info:
            return info[name]
        parts = summands(name)
        if all(part in info for _, part in parts):
            return sum(sign * float(info[part]) for sign, part in parts)
    return 0.0


def _structure(atoms: Atoms, info_keys: Mapping[str, Sequence[str]]) -> Structure:
    """Geometry, charge and spin, without the labels of an earlier calculation."""
    return Structure(
        numbers=atoms.numbers,
        positions=atoms.positions.copy(),
        cell=np.array(atoms.cell),
        pbc=atoms.pbc,
        charge=_entry(atoms.info, info_keys["charge"]),
        spin=_entry(atoms.info, info_keys["spin"]),
        name=str(atoms.symbols),
    )


def _array(values: torch.Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()
