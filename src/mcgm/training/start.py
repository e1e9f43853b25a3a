"""Fine-tuning: a training that starts with the weights of a saved model, on other structures and labels."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols

from mcgm.checkpoint import load, read_header
from mcgm.committee import Committee
from mcgm.data import Dataset
from mcgm.data.references import ElementReferences, ReferenceFit, refit_references
from mcgm.errors import CheckpointError, ConfigError
from mcgm.potential import ElementReference, NetworkPotential, Potential
from mcgm.registry import build, describe_backbone
from mcgm.structure import HEAVIEST
from mcgm.training.config import ModelConfig, StartConfig, TrainingConfig
from mcgm.training.evaluation import evaluate

SAVED = "saved"
"""What `model.long_range` says where the block of the saved model is kept."""

NETWORK = ("backbone", "size", "cutoff", "backbone_options")
"""Settings of the model that the saved one decides."""

REFERENCES = ("reference_intercept", "reference_sign", "reference_fit")

_log = logging.getLogger("mcgm")


def completed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe, as nested plain values, with all that its `start.model` decides filled in; without one, as it is.

    Network, cutoff and precision are those of the file; so are the block (`model.long_range: saved`) and how references
    are fitted, unless the recipe says otherwise. `start` then names the file and its SHA-256.

    Raises:
        CheckpointError: no model file.
        ConfigError: the recipe asks for another network, or the file is not the one that it names the digest of.
    """
    start = StartConfig(**content.get("start") or {})
    if start.model is None:
        return dict(content)
    path, digest = identified(start)
    saved, header = load(path), read_header(path)
    network = describe_backbone(saved.backbone)
    decided = {"backbone": network.pop("name"), "cutoff": network.pop("cutoff"), "backbone_options": network}
    given = dict(content.get("model") or {})
    _require_same(saved, decided, given)
    if given.get("long_range_options") and given.get("long_range", SAVED) == SAVED:
        raise ConfigError(
            "model.long_range_options: the saved block keeps its own options. Give model.long_range too, for a block "
            "that starts fresh."
        )
    earlier = (header["extra"].get("recipe") or {}).get("model") or {}
    proposed = {"long_range": SAVED} | {key: earlier[key] for key in REFERENCES if key in earlier}
    others = {key: value for key, value in given.items() if key not in NETWORK}
    precision = str(saved.dtype).removeprefix("torch.")
    seeds = {"seeds": len(saved.members)} if isinstance(saved, Committee) and start.member is None else {}
    return (
        seeds
        | dict(content)
        | {
            "model": proposed | others | decided,
            "training": {"precision": precision} | dict(content.get("training") or {}),
            "start": dict(content.get("start") or {}) | {"model": str(path), "sha256": digest},
        }
    )


def identified(start: StartConfig) -> tuple[Path, str]:
    """The file that a training starts with (of a folder: the model in it), and its SHA-256.

    Raises:
        CheckpointError: no such file.
        ConfigError: its digest is not the one of the recipe.
    """
    path = Path(start.model or "")
    path = path / "model.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise CheckpointError(
            f"start.model: {path}: no such file; required: a model file, or the folder of a training."
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if start.sha256 not in (None, digest):
        raise ConfigError(
            f"start.sha256: {path} has {digest}, the recipe says {start.sha256}. It is another model than the one that "
            "this training starts from: bring that one back, or leave start.sha256 out and use another -o."
        )
    return path, digest


def saved_network(start: StartConfig) -> NetworkPotential:
    """The network in the file that a training starts with.

    Raises:
        CheckpointError: no model file.
        ConfigError: another file than the recipe says, or a committee without a word about which member.
    """
    path, _ = identified(start)
    saved = load(path)
    if isinstance(saved, Committee):
        return saved.members[_member(start.member, len(saved.members), path)]
    assert isinstance(saved, NetworkPotential)
    if start.member is not None:
        raise ConfigError(f"start.member is {start.member}, but {path} is a single model. Leave start.member out.")
    return saved


def _member(member: int | None, count: int, path: Path) -> int:
    if member is None:
        raise ConfigError(
            f"start.model: {path} is a committee of {count}; required: --seeds {count}, to go on with all members, or "
            f"start.member (0 to {count - 1}), to start with one of them."
        )
    if not 0 <= member < count:
        raise ConfigError(
            f"start.member is {member}; required: 0 to {count - 1}, for {path} is a committee of {count}."
        )
    return member


def _require_same(saved: Potential, decided: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse settings of the network that lead to another one than the saved one."""
    if not given.keys() & set(NETWORK):
        return
    named = {"backbone", "size", "backbone_options"} & given.keys()
    wanted = build(
        backbone=given.get("backbone", decided["backbone"]),
        size=given.get("size", ModelConfig.size),
        cutoff=given.get("cutoff", decided["cutoff"]),
        backbone_options=given.get("backbone_options") if named else decided["backbone_options"],
        long_range="none",
    )
    require_same_network(wanted, saved)


def require_same_network(wanted: Potential, saved: Potential) -> None:
    """Refuse a network that the saved weights do not fit.

    Raises:
        ConfigError: they differ; the message has the first difference.
    """
    new, old = describe_backbone(wanted.backbone), describe_backbone(saved.backbone)
    for key in old:
        if new.get(key) != old[key]:
            name = "model.backbone" if key == "name" else f"model: {key}"
            raise ConfigError(
                f"{name} is {new.get(key)!r}, that of the saved model {old[key]!r}. A training that starts from a "
                "model keeps its network: leave these settings out."
            )


def with_saved_weights(fresh: NetworkPotential, saved: NetworkPotential) -> NetworkPotential:
    """The fresh potential with the weights, scale and references of the saved one, wherever it has such a part.

    A long-range block of another kind stays fresh; so does what belongs to elements that the saved one does not know.

    Raises:
        ConfigError: another network.
    """
    require_same_network(fresh, saved)
    keeps = keeps_block(fresh, saved)
    new = set() if saved.elements is None else set(fresh.elements or ()) - set(saved.elements)
    unseen = torch.tensor(sorted(new), dtype=torch.int64)
    state = fresh.state_dict()
    for name, value in saved.state_dict().items():
        if name.startswith("long_range.") and not keeps:
            continue
        value = value.to(state[name].dtype).clone()
        if value.ndim > 1 and len(value) == HEAVIEST + 1:  # a row for each element
            value[unseen] = state[name][unseen]
        state[name] = value
    fresh.load_state_dict(state)
    return fresh


def keeps_block(potential: Potential, saved: Potential) -> bool:
    """Whether the long-range block is that of the saved model, so that its weights are."""
    return potential.specification == saved.specification


def all_elements(saved: Potential, present: tuple[int, ...], *, are_learnt: bool = True) -> tuple[int, ...] | None:
    """The elements that a fine-tuned potential accepts: those of the saved one and of the data; `None`: any.

    A warning tells of elements that only one of the two has, and whether embeddings of new ones `are_learnt`.
    """
    if saved.elements is None:
        return None
    known, new = set(saved.elements), set(present)
    if new - known:
        _log.warning(
            "fine-tuning: the saved model does not know %s; their embeddings start fresh%s. It knows: %s.",
            _symbols(new - known),
            "" if are_learnt else ", and stay so with a frozen backbone, which describes them badly",
            _symbols(known),
        )
    if known - new:
        _log.warning(
            "fine-tuning: no structure has %s; their reference energies stay those of the saved model, so that total "
            "energies of structures with them mix its labels with the new ones.",
            _symbols(known - new),
        )
    return tuple(sorted(known | new))


def _symbols(numbers: set[int]) -> str:
    return " ".join(chemical_symbols[z] for z in sorted(numbers))


def refit(potential: NetworkPotential, dataset: Dataset, fit: ReferenceFit) -> None:
    """Set the references to those of the new labels: what is left of them beside the energies of the network.

    They stay where nothing is to be fitted. The scale stays: weights were trained in units of it.

    Raises:
        DataError: a prediction is not finite.
    """
    if fit.fit_on == "none":
        return
    predicted = evaluate(potential, dataset, forces=False).predictions.energy_predicted
    before = ElementReferences(
        potential.references.energies.cpu().numpy().copy(), float(potential.references.intercept)
    )
    after = refit_references(before, dataset, np.asarray(predicted), intercept=fit.intercept, sign=fit.sign)
    potential.references = ElementReference(after)


def freeze(potential: NetworkPotential, config: TrainingConfig, trained: Sequence[str]) -> None:
    """Keep the weights of a part of a saved model as they are; `trained` are the parts that are those of one.

    Raises:
        ConfigError: weights that are not trained yet, a part that the potential lacks, or nothing left to train.
    """
    if config.freeze == "none":
        return
    if not trained:
        raise ConfigError(
            f"training.freeze: {config.freeze}: required: a saved model to start from (--from, start.model); fresh "
            "weights are to be trained."
        )
    frozen, left = (getattr(potential, name) for name in _parts_of(config.freeze))
    for part, what in ((frozen, "to freeze"), (left, "left to train")):
        if not any(True for _ in part.parameters()):
            raise ConfigError(
                f"training.freeze: {config.freeze}: this potential has no long-range block with weights, so that there "
                f"is nothing {what}. Choose a block with model.long_range, or another training.freeze."
            )
    if config.freeze not in trained:
        raise ConfigError(
            f"training.freeze: {config.freeze}: this block is not that of the saved model, and starts fresh. Leave "
            "model.long_range and its options out to keep the saved one, or choose another training.freeze."
        )
    frozen.requires_grad_(False)


def _parts_of(name: str) -> tuple[str, str]:
    return ("backbone", "long_range") if name == "backbone" else ("long_range", "backbone")
