"""From a recipe to what training starts with: the three parts of the data, and a potential fitted to their scale."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols

from mcgm.backbones.scale_factors import fit_scale_factors
from mcgm.batch import Batch
from mcgm.data import Dataset, Labels
from mcgm.data.declaration import declaration
from mcgm.data.readers import matching
from mcgm.data.references import ElementReferences, ReferenceFit
from mcgm.data.sample import sample_path
from mcgm.data.splits import NAMED, ByFile, ByFraction, ByGroup, Split, SplitRule, split_rule
from mcgm.errors import ConfigError, DataError
from mcgm.files import fingerprint
from mcgm.long_range import LongRangeSpec
from mcgm.potential import NetworkPotential, Potential
from mcgm.registry import build
from mcgm.training.config import MIXED, DataConfig, SplitConfig, TrainConfig
from mcgm.training.start import (
    SAVED,
    all_elements,
    freeze,
    keeps_block,
    refit,
    saved_network,
    with_saved_weights,
)

SCALE_FROM = 2000
"""structures that the scale is estimated from."""

CALIBRATE_ON = 64
"""structures that scale factors are fitted on."""

_log = logging.getLogger("mcgm")


@dataclass(frozen=True, eq=False)
class Parts:
    """The data of a recipe; `forces` tells whether there are any to learn."""

    train: Dataset
    val: Dataset
    test: Dataset
    everything: Dataset
    forces: bool


def open_parts(config: DataConfig) -> Parts:
    """Open and split the data.

    Structures for validation and test with an element that none to train on has are left out, with a warning: such an
    atom has neither a reference energy nor a trained embedding, and potentials refuse it.

    Raises:
        DataError: missing or unreadable file, missing energies, or an empty part for training or validation.
        ConfigError: unknown declaration, unit or split.
    """
    train, val, test, everything = _shared_out(config)
    known = train.elements
    val, test = _without_unseen(val, "validation", known), _without_unseen(test, "test", known)
    elements, counts = everything.composition
    everything = everything.subset(np.flatnonzero(~counts[:, ~np.isin(elements, known)].any(axis=1)))
    for name, part in (("training", train), ("validation", val)):
        if len(part) == 0:
            raise DataError(
                f"{config.path}: no structure is left for {name} (of {len(everything)}). Change data.split."
            )
        part.require("energy")
    return Parts(train, val, test, everything, forces=any_forces(train))


def _without_unseen(part: Dataset, name: str, known: Sequence[int]) -> Dataset:
    elements, counts = part.composition
    unseen = ~np.isin(elements, known)
    has_unseen = counts[:, unseen].any(axis=1)
    if not has_unseen.any():
        return part
    symbols = " ".join(chemical_symbols[z] for z in elements[unseen])
    _log.warning(
        "%d of %d %s structures are left out: they have %s, which no structure to train on has.",
        has_unseen.sum(),
        len(part),
        name,
        symbols,
    )
    return part.subset(np.flatnonzero(~has_unseen))


def open_dataset(config: DataConfig) -> Dataset:
    """What is in `path`, all structures, or all with an energy (`unlabelled: drop`)."""
    return _open(config, config.path)


def files_of(config: DataConfig) -> dict[str, Any]:
    """The data files that are there, and that of the split, each with its fingerprint; of a pattern, what fits.

    Results belong to what was in them.
    """
    found: dict[str, Any] = {}
    try:
        for name in (config.path, config.val, config.test, config.split.file):
            path = sample_path() if name == "sample" else Path(name or "")
            files = matching(path) if name else []
            found |= {str(file): fingerprint(file) for file in files if file.is_file()}
            if files and files != [path]:
                found[str(name)] = [str(file) for file in files]
    except (DataError, OSError):
        return {}
    return found


def have_changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Files of both with other fingerprints; of files that are in one of them only, nothing is known."""
    return [file for file in now if file in then and then[file] != now[file]]


def _open(config: DataConfig, path: str) -> Dataset:
    labels = labels_of(config)
    if isinstance(labels, Labels) and path != config.path:
        labels = dataclasses.replace(labels, somewhere=())  # what is learnt need not be tested
    dataset = Dataset.open(path, labels)
    return dataset.subset(_chosen(config, dataset))


def _chosen(config: DataConfig, dataset: Dataset) -> np.ndarray:
    """Places of the structures that are used."""
    return np.arange(len(dataset)) if config.unlabelled != "drop" else np.flatnonzero(~dataset.lacks("energy"))


def _split(config: DataConfig, shared: Dataset) -> Split:
    """Parts of the structures that are used. Files and named splits count all that the data file has."""
    rule = _rule(config)
    if not rule.counts_all:
        return rule.split(shared)
    whole = Dataset.open(config.path, labels_of(config))
    place = np.full(len(whole), -1)
    place[_chosen(config, whole)] = np.arange(len(shared))
    found = rule.split(whole)
    return Split(*(place[part][place[part] >= 0] for part in (found.train, found.val, found.test)))


def _shared_out(config: DataConfig) -> tuple[Dataset, Dataset, Dataset, Dataset]:
    """Training, validation and test part, and all of them: by `split`, or from files of their own."""
    shared = open_dataset(config)
    split = _split(config, shared)
    given = {name: _open(config, path) for name in ("val", "test") if (path := getattr(config, name))}
    train = np.concatenate([split.train, *(getattr(split, name) for name in given)])
    if config.limit is not None:
        if not _rule(config).is_shuffled:  # the first of a file are often alike
            train = np.random.default_rng(config.split.seed).permutation(train)
        train = train[: config.limit]
    val, test = (given[name] if name in given else shared.subset(getattr(split, name)) for name in ("val", "test"))
    everything = Dataset.joined([shared, *given.values()]) if given else shared
    return shared.subset(train), val, test, everything


def labels_of(config: DataConfig) -> Labels | str | None:
    """The declaration of a recipe: the named one or the format's own, with single entries changed.

    Raises:
        ConfigError: an entry that a declaration does not have.
    """
    path = sample_path() if config.path == "sample" else Path(config.path)
    return declaration(path, config.labels, config.keys)


def any_forces(dataset: Dataset) -> bool:
    """Whether any structure has forces."""
    return len(dataset) > 0 and not bool(dataset.lacks("forces").all())


def _rule(config: DataConfig) -> SplitRule:
    split, default = config.split, SplitConfig()
    for key in ("name", "file"):
        said = [item for item in ("train", "val", "test", "by_group") if getattr(split, item) != getattr(default, item)]
        if getattr(split, key) is not None and said:
            raise ConfigError(
                f"data.split.{key} is {getattr(split, key)!r}, which says all: {' and '.join(said)} has no effect "
                f"beside it. Leave that out, or data.split.{key}."
            )
    if split.name is not None:
        return split_rule(split.name)
    if split.file is not None:
        return ByFile(Path(split.file))
    if config.path == "sample" and split == SplitConfig():
        return NAMED["sample"]
    kind = ByGroup if split.by_group else ByFraction
    return kind(train=split.train, val=split.val, test=split.test, seed=split.seed)


WEIGHTS = {"float32": torch.float32, "float64": torch.float64, MIXED: torch.float32}
"""Precision of a network's weights, by the name of a training's precision."""


def make_potential(config: TrainConfig, parts: Parts) -> NetworkPotential:
    """The potential that a training starts with: fresh from the seed, or with the weights of a saved one (`start`).

    Element references are fitted to the training part; scale and scale factors are, too, or are those of the saved one.

    Raises:
        CheckpointError: what to start with is no model file.
        ConfigError: charges or dipoles are to be learnt by a potential without them, or from data without them; a saved
            model with another network, or another one than the recipe says; a part to freeze that is not there.
    """
    model, started = config.model, config.start.model is not None
    fit = ReferenceFit(intercept=model.reference_intercept, sign=model.reference_sign, fit_on=model.reference_fit)
    trained: tuple[str, ...] = ()
    if not started:
        potential = _fresh(config, parts, fit)
    else:
        saved = saved_network(config.start)
        potential = _started(config, parts, saved)
        trained = ("backbone", "long_range") if keeps_block(potential, saved) else ("backbone",)
        refit(potential, fit.dataset(parts.train, parts.everything), fit)
    _require_labels(config, potential, parts.train)
    _tell_of_charges(config, potential, parts.train)
    freeze(potential, config.training, trained)
    return potential.to(WEIGHTS[config.training.precision])


def _fresh(config: TrainConfig, parts: Parts, fit: ReferenceFit) -> NetworkPotential:
    if config.model.long_range == SAVED:
        raise ConfigError(f"model.long_range: {SAVED}: required: a saved model to start from (--from, start.model).")
    references = fit.fit(parts.train, parts.everything)
    scale = energy_scale(parts.train, references, forces=parts.forces)
    settings = {"references": references, "scale": scale, "elements": parts.train.elements}
    potential = _unfitted(config, config.model.long_range, settings)
    fit_scale_factors(potential.backbone, _calibration(parts.train, potential.cutoff))
    return potential


def _started(config: TrainConfig, parts: Parts, saved: NetworkPotential) -> NetworkPotential:
    block = saved.specification if config.model.long_range == SAVED else config.model.long_range
    elements = all_elements(saved, parts.train.elements, are_learnt=config.training.freeze != "backbone")
    return with_saved_weights(_unfitted(config, block, {"elements": elements}).to(saved.dtype), saved)


def _require_labels(config: TrainConfig, potential: Potential, train: Dataset) -> None:
    loss = config.training.loss
    weights = {"charges": loss.charge_weight, "dipole": loss.dipole_weight, "stress": loss.stress_weight}
    for label, weight in weights.items():
        key = f"training.loss.{'charge' if label == 'charges' else label}_weight"
        if weight > 0 and label != "stress" and not potential.has_charges:
            raise ConfigError(
                f"{key} is {weight:g}, but long_range={config.model.long_range!r} predicts no charges. Use "
                "long_range='charges', 'mcgm_charges' or 'mcgm_oriented_charges'."
            )
        if weight > 0 and train.lacks(label).all():
            raise ConfigError(f"{key} is {weight:g}, but {config.data.path} has no {label}. Declare them (data.keys).")


def _tell_of_charges(config: TrainConfig, potential: Potential, train: Dataset) -> None:
    """Warn where total charges differ and the network cannot know."""
    charges, counts = np.unique(train.total_charges, return_counts=True)
    if len(charges) < 2 or potential.specification.knows_total_charge:
        return
    _log.warning(
        "%s: structures to train on have total charges of %s e (%.0f %% not the commonest), which long_range=%r is not "
        "told: ions are like neutral structures to it. mcgm, mcgm_oriented, mcgm_mixing and all with charges are told.",
        config.data.path,
        ", ".join(f"{charge:+g}" if charge else "0" for charge in charges[:6]) + (", …" if len(charges) > 6 else ""),
        100 * (1 - counts.max() / counts.sum()),
        config.model.long_range,
    )


def _calibration(train: Dataset, cutoff: float) -> Iterator[Batch]:
    """A few structures from all over the training part, for a network that has scale factors."""
    chosen = np.linspace(0, len(train) - 1, min(len(train), CALIBRATE_ON)).astype(int)
    for part in np.array_split(chosen, -(-len(chosen) // 8)):
        yield Batch.from_structures([train[int(k)] for k in part], cutoff=cutoff)


def _unfitted(config: TrainConfig, block: str | LongRangeSpec, settings: dict[str, Any]) -> NetworkPotential:
    """The potential of a recipe with fresh weights from its seed."""
    model = config.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        return build(
            backbone=model.backbone,
            long_range=block,
            size=model.size,
            cutoff=model.cutoff,
            backbone_options=model.backbone_options,
            long_range_options=model.long_range_options,
            **settings,
        )


def energy_scale(train: Dataset, references: ElementReferences, *, forces: bool) -> float:
    """eV per unit of network output: the root mean square force (per Å), or without forces the spread per sqrt(atom).

    1 where the data have no spread at all.
    """
    some = train.subset(np.linspace(0, len(train) - 1, min(len(train), SCALE_FROM)).astype(int))
    if forces:
        squares = [np.square(s.forces) for s in some if s.forces is not None]
        scale = float(np.sqrt(np.concatenate(squares).mean())) if squares else 0.0
    else:
        residual = some.energies - references.of(some)
        scale = float(np.std(residual / np.sqrt(some.sizes)))
    return scale if scale > 1e-8 else 1.0
