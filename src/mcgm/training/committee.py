"""Training of a committee: its members one after another, each in a folder of its own, then one file with all."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mcgm.checkpoint import read_header
from mcgm.committee import Committee
from mcgm.errors import ConfigError
from mcgm.potential import NetworkPotential
from mcgm.training.config import StartConfig, TrainConfig
from mcgm.training.evaluation import evaluate
from mcgm.training.fit import Trained, require_same_settings, train_alone, write_recipe
from mcgm.training.progress import MemberReporter, Reporter
from mcgm.training.ranks import claimed_together
from mcgm.training.recipe import as_plain
from mcgm.training.start import identified

MEMBERS = "members"
"""Folder of the members' folders."""


def train_committee(
    config: TrainConfig, output: Path, *, resume: bool = False, reporter: Reporter | None = None
) -> Trained:
    """Train `config.seeds` members that share the data's split and differ in weights and order; see `train`.

    Seeds count from `training.seed`. `model.safetensors` has all members, and what spread is usual on the validation
    part. With `resume`, finished members are kept, and more `seeds` than before add members.

    Raises:
        ConfigError: the folder holds a training; or a committee to start from has another number of members.
    """
    with claimed_together(output):
        return _train(config, output, resume=resume, reporter=reporter)


def _train(config: TrainConfig, output: Path, *, resume: bool, reporter: Reporter | None) -> Trained:
    starts = _starts(config)
    _begin(config, output, resume=resume)
    seeds = [config.training.seed + k for k in range(config.seeds)]
    finished: list[Trained] = []
    for k, (seed, start) in enumerate(zip(seeds, starts, strict=True)):
        folder = output / MEMBERS / f"seed-{seed}"
        training = dataclasses.replace(config.training, seed=seed)
        member = dataclasses.replace(config, seeds=1, training=training, start=start, output=str(folder))
        watcher = None if reporter is None else MemberReporter(reporter, f"member {k + 1} of {config.seeds}")
        finished.append(train_alone(member, folder, resume=resume, reporter=watcher))
    if reporter is not None:
        reporter.close()
    parts = finished[0].parts
    committee = Committee([item.potential for item in finished if isinstance(item.potential, NetworkPotential)]).eval()
    spreads = evaluate(committee, parts.val, forces=True).spreads
    assert spreads is not None
    committee.domain = spreads.domain(parts.val.sizes)
    if finished[0].is_main:
        charges = read_header(output / MEMBERS / f"seed-{seeds[0]}" / "model.safetensors")["extra"].get("total_charges")
        extra = {"recipe": as_plain(config), "seeds": seeds, "total_charges": charges}
        committee.save(output / "model.safetensors", extra=extra)
    return Trained(committee, parts, (), sum(item.seconds for item in finished), finished[0].is_main)


def _starts(config: TrainConfig) -> list[StartConfig]:
    """What each member starts with: of a committee, each one of its own."""
    start = config.start
    if start.model is None or start.member is not None:
        return [start] * config.seeds
    path, _ = identified(start)
    committee = read_header(path)["committee"]
    if committee is None:
        return [start] * config.seeds
    if committee["members"] != config.seeds:
        raise ConfigError(
            f"start.model: {path} has {committee['members']} members, seeds is {config.seeds}; required: as many."
        )
    return [dataclasses.replace(start, member=k) for k in range(config.seeds)]


def _begin(config: TrainConfig, output: Path, *, resume: bool) -> None:
    """Write the recipe, after a look at what is there."""
    recipe = output / "recipe.json"
    if (output / "last.ckpt").exists():
        raise ConfigError(f"{output}: holds a training of a single model. Use another -o.")
    if resume and recipe.exists():
        require_same_settings(config, recipe)
    elif any((output / MEMBERS).glob("*/last.ckpt")):
        raise ConfigError(f"{output}: already holds a training. Go on with --resume, or use another -o.")
    write_recipe(config, output)
