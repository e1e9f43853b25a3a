"""Broken structures, each of which must be refused by an error that names the structure and the atom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mcgm.errors import StructureError
from mcgm.structure import HEAVIEST, Structure
from mcgm.testing.predict import Predictor, predict

NAME = "broken on purpose"

POSITIONS = np.array([[0.0, 0.0, 0.0], [1.1, 0.1, 0.0], [-0.4, 1.2, 0.2]])


def broken_structures(
    elements: tuple[int, int, int, int], unknown: int | None = None
) -> dict[str, tuple[Mapping[str, Any], str]]:
    """Defect -> fields of a structure that has it, and what the message must contain beside the structure's name.

    `unknown` is an element that the potential was not trained on; `None`: it takes any.
    """
    sound = {"numbers": np.array(elements[:3]), "positions": POSITIONS, "name": NAME}

    def positions(atom: int, value: Any) -> dict[str, Any]:
        changed = POSITIONS.copy()
        changed[atom] = value
        return sound | {"positions": changed}

    def numbers(atom: int, value: float) -> dict[str, Any]:
        changed = np.array(elements[:3], dtype=float)
        changed[atom] = value
        return sound | {"numbers": changed}

    tiny = {"cell": np.eye(3) * 0.05, "pbc": True}
    broken: dict[str, tuple[Mapping[str, Any], str]] = {
        "NaN position": (positions(1, [0.0, np.nan, 0.0]), "atom 1"),
        "infinite position": (positions(2, [np.inf, 0.0, 0.0]), "atom 2"),
        "atoms on each other": (positions(2, POSITIONS[0]), "atoms 0 and 2"),
        "atoms nearly on each other": (positions(2, POSITIONS[1] + 0.02), "atoms 1 and 2"),
        "element 0": (numbers(1, 0), "atom 1"),
        f"element {HEAVIEST + 1}": (numbers(2, HEAVIEST + 1), "atom 2"),
        "NaN force": (sound | {"forces": np.where(np.arange(3) == 1, np.nan, np.zeros((3, 3))).T}, "atom 1"),
        "no atoms": (sound | {"numbers": [], "positions": np.zeros((0, 3))}, ""),
        "positions of another number of atoms": (sound | {"positions": POSITIONS[:2]}, ""),
        "periodic without a cell": (sound | {"pbc": True}, ""),
        "a cell smaller than an atom": (sound | tiny, "atom"),
        "NaN cell": (sound | {"cell": np.full((3, 3), np.nan), "pbc": True}, ""),
    }
    if unknown is not None:
        broken["element that the potential does not know"] = (numbers(1, unknown), "atom 1")
    return broken


def accepted_bad_input(potential: Predictor, elements: tuple[int, int, int, int]) -> list[str]:
    """Defects that were not refused by a `StructureError` with the names of structure and atom; none is right."""
    allowed = getattr(potential, "elements", None)
    others = [] if allowed is None else [z for z in range(1, HEAVIEST + 1) if z not in allowed]
    accepted = []
    for defect, (fields, words) in broken_structures(elements, others[0] if others else None).items():
        try:
            predict(potential, [Structure(**fields)])
        except StructureError as error:
            message = str(error)
            # a batch knows structures by their place
            named = NAME in message or "structure 0" in message
            if named and words in message:
                continue
        except Exception:
            # the row is there to find these: any other error is as bad as none
            pass
        accepted.append(defect)
    return accepted
