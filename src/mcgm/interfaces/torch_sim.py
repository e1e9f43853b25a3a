"""torch-sim: many systems side by side in one call of the potential."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mcgm.errors import ConfigError, named
from mcgm.interfaces.admission import admit
from mcgm.interfaces.clusters import ClusterChoice
from mcgm.interfaces.frames import frames
from mcgm.potential import Potential
from mcgm.structure import Structure

try:
    from torch_sim.models.interface import ModelInterface
except ImportError:  # `pip install 'mcgm[torch-sim]'`, with Python >= 3.12; all the class needs is a state
    ModelInterface = torch.nn.Module


class MCGMModel(ModelInterface):
    """A model of torch-sim: energy (eV), forces (eV/Å) and stress (eV/Å³, positive under tension) of a `SimState`.

    A state may carry `charge` (e) and `spin` (unpaired electrons), one number for each system; outputs have its type,
    and energies of thousands of eV need float64. Every system is alone: no atom of one knows of another. Pairs are
    searched on the CPU, again for a system only once its atoms have moved by half the skin. A system without a lattice
    has no stress: it is NaN. Frozen clusters are those of the first state, and hold for that list of systems only.

    Args:
        potential: a potential, or the path of its file; copied.
        device: torch device, that of the states.
        dtype: float32 or float64; default: that of the potential.
        compute_forces: as torch-sim's interface has it.
        compute_stress: likewise.
        skin: Å around the cutoff; default: 0.5, with `cuda_graphs` 1.0.
        clusters: "fresh" or "frozen", see `MCGMCalculator`.
        allow_discontinuous: use a potential whose energy jumps (`is_smooth` is false).
        cuda_graphs: on a GPU: replay recorded kernels, see `MCGMCalculator`.

    Raises:
        ConfigError: a negative skin, a type that is no precision, jumps that were not allowed, or what cannot be
            recorded.
        StructureError: at a call: unusable atoms, an unknown element, or other systems than the frozen ones.
    """

    def __init__(
        self,
        potential: Potential | str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        compute_forces: bool = True,
        compute_stress: bool = True,
        skin: float | None = None,
        clusters: str | ClusterChoice = "fresh",
        allow_discontinuous: bool = False,
        cuda_graphs: bool = False,
    ) -> None:
        super().__init__()
        self.potential, self.clusters = admit(
            potential, device=device, dtype=dtype, clusters=clusters, allow_discontinuous=allow_discontinuous
        )
        self._frames = frames(self.potential, self.clusters, skin=skin, cuda_graphs=cuda_graphs)
        self.neighbors = self._frames.neighbors
        self._device, self._dtype = self.potential.device, self.potential.dtype
        self._compute_forces, self._compute_stress = compute_forces, compute_stress

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the model."""
        return self._dtype

    @property
    def compute_stress(self) -> bool:
        """Whether stress is an output."""
        return self._compute_stress

    @compute_stress.setter
    def compute_stress(self, value: bool) -> None:
        self._compute_stress = value

    @property
    def compute_forces(self) -> bool:
        """Whether forces are an output."""
        return self._compute_forces

    @compute_forces.setter
    def compute_forces(self, value: bool) -> None:
        self._compute_forces = value

    def forward(self, state: Any, **options: Any) -> dict[str, Tensor]:
        """`energy` (system), `forces` (atom, 3) and `stress` (system, 3, 3), detached; the state is only read.

        Of a committee also `energy_spread` (system), `forces_spread` (atom, 3) and `out_of_domain` (system).
        """
        structures = _structures(state)
        has_volume = torch.tensor([structure.volume > 0 for structure in structures], device=self._device)
        # Inside a caller's inference mode no forces could be differentiated.
        with torch.inference_mode(False), named(structures):
            stress = self._compute_stress and bool(has_volume.any())
            prediction = self._frames.predict(structures, stress=stress, name="torch-sim state")
        kind = state.positions.dtype
        outputs = {"energy": prediction.energy.to(kind, copy=True)}
        if prediction.energy_spread is not None:
            outputs["energy_spread"] = prediction.energy_spread.to(kind, copy=True)
        if prediction.out_of_domain is not None:
            outputs["out_of_domain"] = prediction.out_of_domain.clone()
        if self._compute_forces:
            assert prediction.forces is not None
            outputs["forces"] = prediction.forces.to(kind, copy=True)
            if prediction.forces_spread is not None:
                outputs["forces_spread"] = prediction.forces_spread.to(kind, copy=True)
        if self._compute_stress:
            found = state.positions.new_zeros(1) if prediction.stress is None else prediction.stress
            expanded = found.to(kind).expand(len(structures), 3, 3)
            outputs["stress"] = torch.where(has_volume[:, None, None], expanded, torch.nan)
        return outputs


def _structures(state: Any) -> list[Structure]:
    """The systems of a state, whose cells have their vectors as columns."""
    positions = _array(state.positions)
    numbers, cells = _array(state.atomic_numbers), _array(state.cell).swapaxes(-1, -2)
    pbc = _array(state.pbc) if isinstance(state.pbc, Tensor) else np.asarray(state.pbc)
    sizes = np.bincount(_array(state.system_idx), minlength=len(cells))
    extras = {name: _extra(state, name, len(cells)) for name in ("charge", "spin")}
    ends = np.cumsum(sizes)
    return [
        Structure(
            numbers=numbers[end - size : end],
            positions=positions[end - size : end],
            cell=cells[k],
            pbc=pbc[k] if pbc.ndim == 2 else pbc,
            charge=extras["charge"][k],
            spin=extras["spin"][k],
            name=f"system {k} of the torch-sim state",
        )
        for k, (end, size) in enumerate(zip(ends, sizes, strict=True))
    ]


def _extra(state: Any, name: str, systems: int) -> np.ndarray:
    """One number for each system, zero where the state has none."""
    value = getattr(state, name, None)
    if value is None:
        return np.zeros(systems)
    array = _array(value).reshape(-1)
    if len(array) != systems:
        raise ConfigError(
            f"the torch-sim state has {len(array)} values of {name}; required: one for each of {systems} systems."
        )
    return array


def _array(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()
