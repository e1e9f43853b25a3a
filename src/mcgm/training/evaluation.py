"""Errors of a potential on a data set, in the same batches as validation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols

from mcgm.data import Dataset
from mcgm.errors import DataError, StructureError
from mcgm.potential import Potential, Prediction
from mcgm.report.predictions import Predictions
from mcgm.report.result import Metrics
from mcgm.splitting import Splitter
from mcgm.training.batches import Collate, EvaluationSampler, LabelledBatch
from mcgm.training.gradients import named
from mcgm.training.metrics import ErrorSums, not_finite
from mcgm.training.parts import Portion, in_parts, predicted
from mcgm.training.spread import SpreadQuality, Spreads


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Errors, every label with its prediction, and the spread of these where a committee has made them."""

    metrics: Metrics
    predictions: Predictions
    spreads: Spreads | None = None

    @property
    def quality(self) -> SpreadQuality | None:
        """How spread and error go together."""
        return None if self.spreads is None else SpreadQuality.of(self.predictions, self.spreads)

    @property
    def plain(self) -> dict[str, Any]:
        """Errors, and the quality of the spread where there is one, as plain values."""
        quality = self.quality
        return vars(self.metrics) | ({} if quality is None else {"spread": vars(quality)})


Chosen = Iterable[Sequence[int]]


def batches(potential: Potential, dataset: Dataset, chosen: Chosen) -> Iterator[LabelledBatch]:
    """The data set in evaluation batches on the potential's device."""
    collate = Collate(potential, potential.dtype)
    for indices in chosen:
        yield collate([dataset[k] for k in indices]).to(potential.device)


def evaluate(
    potential: Potential,
    dataset: Dataset,
    *,
    forces: bool | None = None,
    watch: Callable[[Sequence[Sequence[int]]], Chosen] = iter,
) -> Evaluation:
    """Predict all structures and compare, in evaluation mode; forces by default where any structure has some.

    Forces and stress are compared where they are known; `predictions` has forces where every structure has them.

    `watch` passes on the batches' indices, and may draw a progress bar meanwhile.

    Raises:
        DataError: no structures, one without energy, or one whose prediction is not finite.
        StructureError: an element that the potential does not know.
        TooLargeError: a structure does not fit into memory, even alone.
    """
    if len(dataset) == 0:
        raise DataError("nothing to evaluate: the data set is empty.")
    dataset.require("energy")
    _require_known(potential, dataset)
    stress = forces is not False and not dataset.lacks("stress").all()
    forces = not dataset.lacks("forces").all() if forces is None else forces
    was_training = potential.training
    potential.eval()
    sums = ErrorSums()
    energies, predicted_forces, true_forces, spreads = [], [], [], []
    names: list[str] = []
    wrong: list[str] = []
    chosen = watch(list(EvaluationSampler(dataset.sizes)))
    for prediction, data in _predicted(potential, dataset, chosen, forces=forces, stress=stress):
        more = {"charges": prediction.charges, "dipole": prediction.dipole, "stress": prediction.stress}
        sums.add(prediction.energy, prediction.forces, data, **more)
        wrong.extend(not_finite(prediction, data))
        energies.append(prediction.energy.double().cpu().numpy())
        names.extend(data.names)
        spreads.append(Spreads.of(prediction))
        if prediction.forces is not None:
            predicted_forces.append(prediction.forces.float().cpu().numpy())
            true_forces.append(data.forces.float().cpu().numpy())
    potential.train(was_training)
    if wrong:
        raise DataError(f"predictions for {named(wrong)} are not finite; required: structures like those trained on.")
    complete = bool(predicted_forces) and dataset.has_forces  # figures have no holes
    predictions = Predictions(
        names=np.array(names),
        n_atoms=dataset.sizes,
        energy=dataset.energies,
        energy_predicted=np.concatenate(energies),
        forces=np.concatenate(true_forces) if complete else None,
        forces_predicted=np.concatenate(predicted_forces) if complete else None,
        baseline=_baseline(potential, dataset),
    )
    return Evaluation(sums.metrics(), predictions, Spreads.joined(spreads))


def _require_known(potential: Potential, dataset: Dataset) -> None:
    """Name a structure with an element that the potential does not know by its place in the data set."""
    elements, counts = dataset.composition
    unknown = ~np.isin(elements, elements if potential.elements is None else potential.elements)
    wrong = np.flatnonzero(counts[:, unknown].any(axis=1))
    if len(wrong):
        symbols = " ".join(chemical_symbols[z] for z in elements[unknown])
        known = " ".join(chemical_symbols[z] for z in potential.elements or ())
        raise StructureError(
            f"{dataset}: {len(wrong)} structures have {symbols}, which this potential was not trained on; the first is "
            f"{wrong[0]} ({dataset.names[wrong[0]]}). It knows: {known}."
        )


def _predicted(
    potential: Potential, dataset: Dataset, chosen: Chosen, *, forces: bool, stress: bool
) -> Iterator[tuple[Prediction, LabelledBatch]]:
    """Predictions with their labels, in parts where a batch does not fit into memory."""
    splitter = Splitter("evaluation")

    def predict(portion: Portion) -> tuple[Prediction, LabelledBatch]:
        with torch.no_grad():
            return predicted(potential, portion.data.batch, forces=forces, stress=stress), portion.data

    for data in batches(potential, dataset, chosen):
        yield from in_parts(splitter, potential, Portion(data), predict)


def _baseline(potential: Potential, dataset: Dataset) -> np.ndarray:
    """What the potential's element references alone say, eV."""
    elements, counts = dataset.composition
    energies = potential.references.energies.cpu().numpy()
    return counts @ energies[elements] + float(potential.references.intercept)
