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

    `fit_on="train"` uses the training part only; "all" every structure, as the OE62 literature does; "none" fits
    nothing: references are zero, as for interaction energies, which are no sums over atoms.
    `sign` bounds the elements' energies, not the intercept.
    """

    intercept: bool = False
    sign: Sign = "any"
    fit_on: Literal["train", "all", "none"] = "train"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("sign", self.sign, ("any", "non_negative", "non_positive")),
            ("fit_on", self.fit_on, ("train", "all", "none")),
        ):
            if value not in known:
                raise ConfigError(unknown_name(name, value, known))

    def fit(self, train: Dataset, everything: Dataset | None = None) -> ElementReferences:
        """References from the training part, or from `everything` where `fit_on` is "all".

        Raises:
            ConfigError: `fit_on="all"` without `everything`.
            DataError: a structure has no energy.
        """
        if self.fit_on == "none":
            return ElementReferences()
        return fit_references(self.dataset(train, everything), intercept=self.intercept, sign=self.sign)

    def dataset(self, train: Dataset, everything: Dataset | None = None) -> Dataset:
        """What is fitted to.

        Raises:
            ConfigError: `fit_on="all"` without `everything`.
        """
        if self.fit_on == "all" and everything is None:
            raise ConfigError('fit_on="all" needs the whole data set; pass it as `everything`.')
        return everything if self.fit_on == "all" and everything is not None else train


def fit_references(dataset: Dataset, *, intercept: bool = False, sign: Sign = "any") -> ElementReferences:
    """Least squares of the energies on element counts; the smallest solution where compositions leave a choice.

    Raises:
        DataError: a structure has no energy.
    """
    dataset.require("energy")
    return _changed(ElementReferences(), dataset, dataset.energies, intercept=intercept, sign=sign)


def refit_references(
    before: ElementReferences,
    dataset: Dataset,
    predicted: Float[np.ndarray, "structure"],
    *,
    intercept: bool = False,
    sign: Sign = "any",
) -> ElementReferences:
    """References for labels of another kind, such as another level of theory, under a network that stays as it is.

    Least squares of (energies - `predicted`, the energies with the references of `before`) on element counts; the
    smallest change where compositions leave a choice. Elements that the data lack keep their energy.

    Raises:
        DataError: a structure has no energy.
    """
    dataset.require("energy")
    return _changed(before, dataset, dataset.energies - predicted, intercept=intercept, sign=sign)


def _changed(
    before: ElementReferences,
    dataset: Dataset,
    target: Float[np.ndarray, "structure"],
    *,
    intercept: bool,
    sign: Sign,
) -> ElementReferences:
    elements, counts = dataset.composition
    matrix = counts.astype(np.float64)
    if intercept:
        matrix = np.column_stack([matrix, np.ones(len(matrix))])
    if sign == "any":
        solution = np.linalg.lstsq(matrix, target, rcond=None)[0]
    else:
        free = np.full(matrix.shape[1], np.inf)
        lower, upper = (-free, free.copy())
        bounded = lower if sign == "non_negative" else upper
        bounded[: len(elements)] = -before.energies[elements]
        solution = lsq_linear(matrix, target, bounds=(lower, upper), method="bvls").x
    energies = before.energies.copy()
    energies[elements] += solution[: len(elements)]
    return ElementReferences(energies, before.intercept + (float(solution[-1]) if intercept else 0.0))
