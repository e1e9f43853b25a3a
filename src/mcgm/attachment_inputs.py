"""What a long-range block reads of the atoms when it sits in another library's network."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mcgm.batch import Batch, to
from mcgm.errors import ConfigError
from mcgm.neighbors import Neighbors, find_neighbors
from mcgm.segments import is_ascending, take
from mcgm.structure import Structure


@dataclass(frozen=True, eq=False)
class AtomInputs:
    """What a block reads of the atoms: atomic numbers, positions (Å), and the structure of each atom (default: one).

    `cell` (Å, lattice vectors as rows) and `pbc` for periodic networks; a cell alone means periodic along all axes.
    `charge` (e) and `spin` (unpaired electrons) of each structure for blocks that read them; default: zero.

    Raises:
        ConfigError: when the model is called: no atoms, other shapes or kinds of numbers, structures that are not
            numbered 0, 1, 2, ..., or not one charge or spin for each.
    """

    numbers: Int[Tensor, "atom"]
    positions: Float[Tensor, "atom 3"]
    molecule: Int[Tensor, "atom"] | None = None
    cell: Float[Tensor, "molecule 3 3"] | None = None
    pbc: Bool[Tensor, "molecule 3"] | None = None
    charge: Float[Tensor, "molecule"] | None = None
    spin: Float[Tensor, "molecule"] | None = None


@dataclass(frozen=True, eq=False)
class Reading:
    """How a batch is made of a model's arguments."""

    inputs: Callable[..., AtomInputs]
    cutoff: float | None

    def __call__(
        self, model: str, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[Batch, Int[Tensor, "atom"], Int[Tensor, "atom"] | None]:
        """The batch, with neighbours where a cutoff was given; and the structure of each atom as it was given.

        Blocks want structures one after another. Where atoms do not stand so, the batch has them sorted, and the third
        result says which atom stands in each place.
        """
        self._check(model, arguments, keywords)
        atoms = self.inputs(*arguments, **keywords)
        _require_atoms(model, atoms)
        _require_cells(model, atoms)
        numbers, positions = atoms.numbers, atoms.positions
        given = molecule = torch.zeros_like(numbers) if atoms.molecule is None else atoms.molecule
        order = None if is_ascending(molecule) else torch.argsort(molecule, stable=True)
        if order is not None:
            numbers, positions, molecule = numbers[order], take(positions, order), molecule[order]
        count = int(molecule.max()) + 1 if atoms.cell is None else len(atoms.cell.reshape(-1, 3, 3))
        _require_all_structures(molecule, count)
        cell = positions.new_zeros(count, 3, 3) if atoms.cell is None else atoms.cell.reshape(count, 3, 3)
        pbc = cell.detach().abs().sum((1, 2)).gt(0)[:, None].expand(count, 3)
        pbc = pbc if atoms.pbc is None else atoms.pbc.reshape(count, 3).to(pbc)
        batch = Batch(
            numbers=numbers,
            positions=positions,
            molecule=molecule,
            cell=cell,
            pbc=pbc,
            charge=_of_each("charge", atoms.charge, positions, count),
            spin=_of_each("spin", atoms.spin, positions, count),
            neighbors=_NotSearched(),  # type: ignore[arg-type]
            cutoff=self.cutoff or 0.0,
            periodic=atoms.cell is not None and bool(pbc.any()),
        )
        return batch if self.cutoff is None else batch.replace(neighbors=_search(batch)), given, order

    def _check(self, model: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        try:
            inspect.signature(self.inputs).bind(*arguments, **keywords)
        except TypeError as error:
            raise ConfigError(
                f"inputs cannot be called with the arguments of {model}.forward: {error}. Give attach a "
                "function of the same arguments that returns AtomInputs(numbers, positions, molecule)."
            ) from error


def require_same_positions(model: str, features: Tensor, batch: Batch) -> None:
    """Refuse positions that are not those by which the model differentiates, such as copies made inside its `forward`.

    Those are told by the graph of the features: places that gradients are asked for, and no weights of a network.

    Raises:
        ConfigError: forces or stress would lack the part of the block.
    """
    known = _leaves([batch.positions, batch.cell])
    others = [leaf for leaf in _leaves([features]) - known if not isinstance(leaf, nn.Parameter)]
    if any(leaf.shape[-1:] == (3,) for leaf in others):
        raise ConfigError(
            f"{model}.forward differentiates by positions or a strain that it makes inside; the block is given others, "
            "so forces or stress would lack its part. Attach it to the module inside that is called with them, or take "
            "a block that reads no positions, such as 'mcgm'."
        )


def _leaves(tensors: Sequence[Tensor]) -> set[Tensor]:
    """What these were computed from, and gradients may be asked for."""
    found = {tensor for tensor in tensors if tensor.requires_grad and tensor.grad_fn is None}
    waiting: list[Any] = [tensor.grad_fn for tensor in tensors]
    seen = {None}
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            if hasattr(node, "variable"):
                found.add(node.variable)
            waiting += [earlier for earlier, _ in node.next_functions]
    return found


def _require_atoms(model: str, atoms: AtomInputs) -> None:
    """Refuse other arguments in these places, such as positions first."""
    count = atoms.numbers.shape[0] if atoms.numbers.dim() else 0
    whole, real = "whole numbers", "floating-point numbers"
    fields: dict[str, tuple[Tensor, str, tuple[int, ...]]] = {
        "numbers": (atoms.numbers, whole, (count,)),
        "positions": (atoms.positions, real, (count, 3)),
    }
    if atoms.molecule is not None:
        fields["molecule"] = atoms.molecule, whole, (count,)
    for name, (value, kind, shape) in fields.items():
        is_real = value.is_floating_point()
        if value.shape != shape or is_real != (kind == real) or value.dtype == torch.bool:
            raise ConfigError(
                f"{name} is {value.dtype} of shape {tuple(value.shape)}; required: {kind} of shape {shape}, for "
                f"as many atoms as there are numbers. Is that another argument of {model}.forward? Give attach "
                "inputs=: a function of the same arguments that returns AtomInputs(numbers, positions, molecule)."
            )
    if not count:
        raise ConfigError(f"{model} is called without atoms; required: at least one.")


def _require_all_structures(molecule: Int[Tensor, "atom"], count: int) -> None:
    """Refuse numbers of structures that are not 0, 1, 2, ... as many as there are cells."""
    is_whole = (molecule[0] == 0) & (molecule[-1] == count - 1) & (molecule[1:] - molecule[:-1] <= 1).all()
    if not is_whole:
        raise ConfigError(
            f"molecule has {len(molecule.unique())} different numbers from {int(molecule[0])} to {int(molecule[-1])}; "
            f"required: 0, 1, 2, ... without gaps, up to {count - 1}."
        )


def _require_cells(model: str, atoms: AtomInputs) -> None:
    """Refuse other arguments in these places, such as the edges that many networks take fourth."""
    cell, pbc = atoms.cell, atoms.pbc
    is_cell = cell is None or (cell.is_floating_point() and cell.shape[-1:] == (3,) and cell.numel() % 9 == 0)
    is_pbc = pbc is None or (pbc.dtype == torch.bool and pbc.numel() % 3 == 0)
    if not (is_cell and is_pbc):
        name, value, required = ("pbc", pbc, "booleans, 3") if is_cell else ("cell", cell, "lattice vectors (Å), 3 x 3")
        assert value is not None
        raise ConfigError(
            f"{name} is {value.dtype} of shape {tuple(value.shape)}; required: {required} for each structure. Is that "
            f"another argument of {model}.forward? Give attach inputs=: a function of the same arguments that returns "
            "AtomInputs(numbers, positions, molecule)."
        )


def _of_each(
    name: str, values: Tensor | None, positions: Float[Tensor, "atom 3"], count: int
) -> Float[Tensor, "molecule"]:
    if values is None:
        return positions.new_zeros(count)
    if values.numel() != count:
        raise ConfigError(f"{name} has shape {tuple(values.shape)}; required: one for each of {count} structures.")
    return values.reshape(count).to(positions)


class _NotSearched:
    """In the place of neighbours: says what to do when a block asks for them."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ConfigError(
            "this long-range block reads neighbours: attach(..., cutoff=5.0) searches them in every pass."
        )


def _search(batch: Batch) -> Neighbors:
    positions, cell = batch.positions.detach().cpu().double(), batch.cell.detach().cpu().double()
    structures = []
    for k in range(batch.n_molecules):
        atoms = (batch.molecule == k).cpu()
        structures.append(
            Structure(
                numbers=batch.numbers.cpu()[atoms].numpy(),
                positions=positions[atoms].numpy(),
                cell=cell[k].numpy(),
                pbc=batch.pbc[k].cpu().numpy(),
                name=str(k),
            )
        )
    return to(find_neighbors(structures, batch.cutoff), batch.device)
