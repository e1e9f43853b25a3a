"""Does the spread of a committee say how wrong it is? Rank correlation and calibration on labelled structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from mcgm.domain import Domain
from mcgm.potential import Prediction
from mcgm.report.predictions import Predictions

FEWEST = 3
"""Values that a correlation is taken of."""


@dataclass(frozen=True, eq=False)
class Spreads:
    """Spread of every energy (eV), of the force on every atom (eV/Å; `None`: not predicted), and what is out of domain.

    That of a force is the root of its components' summed variances; `out_of_domain` is `None` where no domain is known.
    """

    energy: Float[np.ndarray, "structure"]
    forces: Float[np.ndarray, "atom"] | None
    out_of_domain: Bool[np.ndarray, "structure"] | None

    @classmethod
    def of(cls, prediction: Prediction) -> Spreads | None:
        """Of a batch; `None` for a single network."""
        energy, forces, outside = prediction.energy_spread, prediction.forces_spread, prediction.out_of_domain
        if energy is None:
            return None
        return cls(
            energy.cpu().numpy(),
            None if forces is None else forces.double().norm(dim=1).cpu().numpy(),
            None if outside is None else outside.cpu().numpy(),
        )

    @classmethod
    def joined(cls, batches: Sequence[Spreads | None]) -> Spreads | None:
        """Of all batches; `None` for a single network."""
        known = [batch for batch in batches if batch is not None]
        if not known:
            return None
        forces = [batch.forces for batch in known if batch.forces is not None]
        outside = [batch.out_of_domain for batch in known if batch.out_of_domain is not None]
        return cls(
            np.concatenate([batch.energy for batch in known]),
            np.concatenate(forces) if forces else None,
            np.concatenate(outside) if outside else None,
        )

    def domain(self, n_atoms: np.ndarray) -> Domain:
        """What is usual here, for structures with so many atoms."""
        assert self.forces is not None
        starts = np.concatenate([[0], np.cumsum(n_atoms)[:-1]])
        return Domain.of(self.energy / n_atoms, np.maximum.reduceat(self.forces, starts))


@dataclass(frozen=True)
class SpreadQuality:
    """How spread and error go together: over structures for energies per atom, over atoms for forces.

    Correlations are Spearman's: 1 where a larger spread always comes with a larger error, 0 where it says nothing;
    `None` where there are too few values, or all alike. `..._error_per_spread` is the root mean square error over the
    root mean square spread: 1 for a calibrated committee, more for one that is too sure of itself.
    """

    energy_spread_mev_per_atom: float
    energy_correlation: float | None
    energy_error_per_spread: float | None
    force_spread_mev_per_A: float | None
    force_correlation: float | None
    force_error_per_spread: float | None
    out_of_domain: int | None

    @classmethod
    def of(cls, predictions: Predictions, spreads: Spreads) -> SpreadQuality:
        """Of labels with predictions, and the spread of these."""
        n_atoms = predictions.n_atoms
        error = np.abs(predictions.energy_predicted - predictions.energy) / n_atoms
        energy = _compared(error, spreads.energy / n_atoms)
        forces: tuple[float | None, float | None, float | None] = (None, None, None)
        if spreads.forces is not None and predictions.forces is not None and predictions.forces_predicted is not None:
            difference = predictions.forces_predicted.astype(np.float64) - predictions.forces
            forces = _compared(np.linalg.norm(difference, axis=1), spreads.forces)
        outside = None if spreads.out_of_domain is None else int(spreads.out_of_domain.sum())
        return cls(*energy, *forces, out_of_domain=outside)


def _compared(error: np.ndarray, spread: np.ndarray) -> tuple[float, float | None, float | None]:
    """Mean spread in thousandths, rank correlation, and error per spread."""
    size = float(np.sqrt(np.mean(spread**2)))
    ratio = float(np.sqrt(np.mean(error**2))) / size if size > 0 else None
    return 1000 * float(spread.mean()), rank_correlation(error, spread), ratio


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Spearman's: the correlation of ranks, ties at their mean; `None` where there is none."""
    ranks = [rankdata(values) for values in (first, second)]
    if len(first) < FEWEST or any(np.ptp(values) == 0 for values in ranks):
        return None
    return float(np.corrcoef(*ranks)[0, 1])
