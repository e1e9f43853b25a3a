"""Energies of the elements by least squares: the part of the energy that composition alone explains."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.optimize import lsq_linear

from mcgm.data.dataset import Dataset
from mcgm.errors import ConfigError, unknown_name
from mcgm.structure import HEAVIEST

Sign = Literal["any", "non_negative", "non_positive"]


@dataclass(frozen=True, eq=False)
class ElementReferences:
    """Energy in eV of each atomic number (index 0 unused, 0 for elements that were not seen) and an intercept in eV."""

    energies: Float[np.ndarray, "119"] = field(default_factory=lambda: np.zeros(HEAVIEST + 1))
    intercept: float = 0.0

    def __post_init__(self) -> None:
        energies = np.asarray(self.energies, dtype=np.float64)
        if energies.shape != (HEAVIEST + 1,) or not np.isfinite(energies).all():
            raise ConfigError(
                f"element references: required {HEAVIEST + 1} finite energies, got shape {energies.shape}."
            )
        object.__setattr__(self, "energies", energies)
        object.__setattr__(self, "intercept", float(self.intercept))

    def of(self, dataset: Dataset) -> Float[np.ndarray, "structure"]:
        """What composition alone predicts for each structure, eV."""
        elements, counts = dataset.composition
        return counts @ self.energies[elements] + self.intercept

    def __repr__(self) -> str:
        known = np.flatnonzero(self.energies)
        values = ", ".join(f"{z}: {self.energies[z]:.4f}" for z in known)
        return f"ElementReferences({{{values}}} eV, intercept={self.intercept:.4f} eV)"


@dataclass(frozen=True)
class ReferenceFit:
    """How element references are fitted.

    `fit_on="train"` uses the training part only; "all" uses every structure, as the OE62 literature does.
    `sign` bounds the elements' energies, not the intercept.
    """

    intercept: bool = False
    sign: Sign = "any"
    fit_on: Literal["train", "all"] = "train"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("sign", self.sign, ("any", "non_negative", "non_positive")),
            ("fit_on", self.fit_on, ("train", "all")),
        ):
            if value not in known:
                raise ConfigError(unknown_name(name, value, known))

    def fit(self, train: Dataset, everything: Dataset | None = None) -> ElementReferences:
        """References from the training part, or from `everything` where `fit_on` is "all".

        Raises:
            ConfigError: `fit_on="all"` without `everything`.
            DataError: a structure has no energy.
        """
        if self.fit_on == "all" and everything is None:
            raise ConfigError('fit_on="all" needs the whole data set; pass it as `everything`.')
        dataset = everything if self.fit_on == "all" and everything is not None else train
        return fit_references(dataset, intercept=self.intercept, sign=self.sign)


def fit_references(dataset: Dataset, *, intercept: bool = False, sign: Sign = "any") -> ElementReferences:
    """Least squares of the energies on element counts; the smallest solution where compositions leave a choice.

    Raises:
        DataError: a structure has no energy.
    """
    dataset.require("energy")
    elements, counts = dataset.composition
    matrix = counts.astype(np.float64)
    if intercept:
        matrix = np.column_stack([matrix, np.ones(len(matrix))])
    if sign == "any":
        solution = np.linalg.lstsq(matrix, dataset.energies, rcond=None)[0]
    else:
        lower = np.full(matrix.shape[1], 0.0 if sign == "non_negative" else -np.inf)
        upper = np.full(matrix.shape[1], np.inf if sign == "non_negative" else 0.0)
        if intercept:
            lower[-1], upper[-1] = -np.inf, np.inf
        solution = lsq_linear(matrix, dataset.energies, bounds=(lower, upper), method="bvls").x
    energies = np.zeros(HEAVIEST + 1)
    energies[elements] = solution[: len(elements)]
    return ElementReferences(energies, float(solution[-1]) if intercept else 0.0)
