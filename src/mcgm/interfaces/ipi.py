"""i-PI: a driver for path integrals and all else that i-PI does.

i-pi-py_driver -m custom -P "$(python -m mcgm.interfaces.ipi)" -u -a mcgm -o template=start.xyz,model=model.safetensors
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.io import read

from mcgm.errors import ConfigError, DataError, unknown_name
from mcgm.interfaces.packages import needed

if TYPE_CHECKING:
    from mcgm.potential import Potential

try:
    from ipi.pes.dummy import Dummy_driver
except ImportError:
    Dummy_driver = object

DRIVER_FILE = Path(__file__).with_name("ipi_driver.py")
"""What i-PI wants as `pes_path`. This file will not do: i-PI enters it as module `ipi`, in place of itself."""

OPTIONS = ("charge", "spin", "precision", "device", "skin", "clusters", "allow_discontinuous", "compile", "cuda_graphs")
OF_IPI = ("verbose", "verbosity")


class MCGMDriver(Dummy_driver):
    """A driver of i-PI, which sends cells and positions and gets energies, forces and virials, all in atomic units.

    i-PI's own size of an Å and an eV (seven digits) is used, so that what it prints in these units is exact; the force
    is the slope of the energy. A potential with charges also sends `charges` (e) and `dipole` (e bohr) as extras, a
    committee `energy_spread`, `forces_spread` (atomic units) and `out_of_domain`.

    Args:
        template: file that ASE reads: elements in i-PI's order, periodic axes, charge and spin in `info`.
        model: the potential or its file.
        options: `charge` (e) and `spin` (unpaired electrons) if not those of the template; `precision` ("single" or
            "double"; default: that of the potential); `device`, `skin`, `clusters`, `allow_discontinuous`,
            `compile`, `cuda_graphs` of `MCGMCalculator`.

    Raises:
        ConfigError: i-PI is not installed, no template or model, an unknown option, or what `MCGMCalculator` refuses.
        DataError: the template cannot be read.
    """

    def __init__(
        self, template: str | Path | None = None, model: Potential | str | Path | None = None, **options: Any
    ) -> None:
        from mcgm.interfaces.admission import precision
        from mcgm.interfaces.ase import MCGMCalculator

        self._units = needed("ipi.utils.units", "ipi")
        if template is None or model is None:
            raise ConfigError("the i-PI driver needs template=FILE (elements, periodic axes) and model=FILE.")
        for option in options:
            if option not in (*OPTIONS, *OF_IPI):
                raise ConfigError("i-PI driver: " + unknown_name("option", option, OPTIONS))
        settings = {key: value for key, value in options.items() if key not in (*OF_IPI, "charge", "spin", "precision")}
        self.calculator = MCGMCalculator(model, dtype=precision(options.get("precision")), **settings)
        self.atoms = _template(template)
        self.atoms.info |= {key: options[key] for key in ("charge", "spin") if key in options}
        self.atoms.calc = self.calculator
        super().__init__(verbose=bool(options.get("verbose", False)))

    def compute_structure(self, cell: np.ndarray, pos: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, str]:
        """Energy, forces, virial and extras; cell vectors come as columns.

        Raises:
            DataError: i-PI has another number of atoms than the template.
        """
        angstrom = self._units.unit_to_internal("length", "angstrom", 1.0)
        electronvolt = self._units.unit_to_internal("energy", "electronvolt", 1.0)
        if np.size(pos) != 3 * len(self.atoms):
            raise DataError(f"i-PI sends {np.size(pos) // 3} atoms; the template of the driver has {len(self.atoms)}.")
        self.atoms.set_positions(np.reshape(pos, (-1, 3)) / angstrom)
        if self.atoms.pbc.any():
            self.atoms.set_cell(np.reshape(cell, (3, 3)).T / angstrom)
        energy = self.atoms.get_potential_energy()
        forces = self.atoms.get_forces()
        virial = np.zeros((3, 3))
        if "stress" in self.calculator.results:
            virial = -self.atoms.get_stress(voigt=False) * self.atoms.get_volume()
        return energy * electronvolt, forces * (electronvolt / angstrom), virial * electronvolt, self._extras(angstrom)

    def _extras(self, angstrom: float) -> str:
        results = self.calculator.results
        extras: dict[str, Any] = {}
        if "charges" in results:
            extras |= {"charges": results["charges"].tolist(), "dipole": (results["dipole"] * angstrom).tolist()}
        if "energy_spread" in results:
            electronvolt = self._units.unit_to_internal("energy", "electronvolt", 1.0)
            extras["energy_spread"] = results["energy_spread"] * electronvolt
            extras["forces_spread"] = (results["forces_spread"] * (electronvolt / angstrom)).tolist()
        if "out_of_domain" in results:
            extras["out_of_domain"] = results["out_of_domain"]
        return json.dumps(extras) if extras else ""


def _template(path: str | Path) -> Any:
    try:
        atoms: Any = read(path)
    except Exception as error:  # whatever one of ASE's many readers raises
        raise DataError(f"{path}: the template of the i-PI driver cannot be read: {error}.") from error
    atoms.calc = None
    return atoms


if __name__ == "__main__":
    print(DRIVER_FILE)
