"""What a recipe may say: every key with its type and default. Imports no torch, so that mistakes show at once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mcgm.defaults import LONG_RANGE, TITLES


@dataclass(frozen=True)
class SplitConfig:
    """How structures are shared out: a named split, an index file, or fractions with a seed.

    `name` is one of the splits that `mcgm.data` knows ("sample", "oe62", "aqm", ...); `file` holds indices of train,
    val and test. Otherwise `train`, `val` and `test` are fractions or counts (`test: null`: the rest); `by_group` keeps
    all conformers of a molecule in one part.
    """

    name: str | None = None
    file: str | None = None
    train: int | float = 0.8
    val: int | float = 0.1
    test: int | float | None = None
    seed: int = 0
    by_group: bool = False


@dataclass(frozen=True)
class DataConfig:
    """Where the structures are and what their labels mean.

    `path` is a file, a pattern such as train-*.xyz, or "sample"; `labels` a named declaration of keys and units, or
    None for the format's own; `keys` changes single entries of it (e.g. energy: E_dft, energy_unit: kcal/mol). `val`
    and `test` are files (or patterns) of their own for these parts; what `split` leaves for such a part trains.
    `limit` keeps only so many training structures (a learning curve, a quick try). Structures without energy are
    refused, or left out (`unlabelled: drop`). `name` is what reports call the data; default: the file's name.
    """

    path: str = "sample"
    labels: str | None = None
    keys: dict[str, str | None] | None = None
    split: SplitConfig = field(default_factory=SplitConfig)
    limit: int | None = None
    val: str | None = None
    test: str | None = None
    unlabelled: Literal["refuse", "drop"] = "refuse"
    name: str | None = None

    @property
    def title(self) -> str:
        """What reports call the data."""
        return self.name or Path(self.path).name


@dataclass(frozen=True)
class ModelConfig:
    """Which potential is built: names from the closed tables of `mcgm.build`, cutoff in Å.

    Element references are least squares on the training part, on all structures, or none (`reference_fit`), with or
    without a constant (`reference_intercept`), free or of one sign (`reference_sign`).
    """

    backbone: str = "schnet"
    long_range: str = LONG_RANGE
    size: str = "small"
    cutoff: float = 5.0
    backbone_options: dict[str, Any] | None = None
    long_range_options: dict[str, Any] | None = None
    reference_intercept: bool = False
    reference_sign: Literal["any", "non_negative", "non_positive"] = "any"
    reference_fit: Literal["train", "all", "none"] = "train"


@dataclass(frozen=True)
class StartConfig:
    """The saved model that a training starts with: a model file, or the folder of a training; `null`: fresh weights.

    Its backbone is kept; `model.long_range: saved` keeps its block too, another choice starts that block fresh.
    `sha256` is the file's digest; it is filled in, and another file is refused. Of a committee, each member starts with
    one of its own; with `member` (from 0) a training starts with that one.
    """

    model: str | None = None
    sha256: str | None = None
    member: int | None = None


@dataclass(frozen=True)
class LossConfig:
    """Weighted sum of the energy and the force term, of charges and dipoles where a block predicts some, and of stress.

    The energy error (eV) is per molecule or per atom, the force error (eV/Å) per component. `huber` is quadratic below
    `huber_delta` (same unit) and linear above. A data set without forces has no force term. Charge errors are per atom
    (e), dipole errors per component (eÅ); their weights are eV/e and eV/eÅ, zero for charges that stay latent.
    `total_charge_weight` (eV/e) is for what the charges that atoms predict by themselves lack to the total charge of
    their structure: with it molecules far apart keep their charges, without they exchange what is missing. Stress
    errors are per component of the matrix (eV/Å³; 0.00624 are 1 GPa), of periodic structures with a label; their
    weight is a volume (Å³), zero to leave stress out. With about the volume of a cell both weigh its strain alike.
    """

    kind: Literal["l1", "l2", "huber"] = "l1"
    energy_weight: float = 1.0
    force_weight: float = 10.0
    energy_per: Literal["molecule", "atom"] = "molecule"
    huber_delta: float = 0.01
    charge_weight: float = 0.0
    dipole_weight: float = 0.0
    total_charge_weight: float = 0.3
    stress_weight: float = 0.0


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate over time: linear warm-up, then `cosine` to `final` x lr, `plateau`, `steps` or `constant`.

    Warm-up starts at `start` x lr and takes a fraction of all steps, or `warmup_steps` where given. `plateau`
    multiplies the rate by `factor` when the validation loss has not improved for more than `patience` validations,
    `steps` at each of the `milestones` (in steps).
    """

    kind: Literal["cosine", "plateau", "steps", "constant"] = "cosine"
    warmup: float = 0.1
    warmup_steps: int | None = None
    start: float = 0.0
    milestones: list[int] = field(default_factory=list)
    final: float = 0.01
    factor: float = 0.5
    patience: int = 10


MIXED = "bf16-mixed"
"""Lightning's name of training in bfloat16 and float32."""


@dataclass(frozen=True)
class TrainingConfig:
    """How long, how fast, on what machine.

    Batches hold at most `batch_atoms` atoms (always at least one structure), or `batch_structures` structures.
    `early_stopping` counts validations without improvement. `checkpoint_minutes` is the most that an interruption
    loses (0: after every step; null: after every epoch only). `clip` bounds the gradient's norm. `weight_decay` is
    AdamW's. `steps` overrides `epochs`, rounded up to whole epochs. `freeze` is the part of a saved model (`start`)
    that keeps its weights. `precision: bf16-mixed` trains float32 weights with the layers of the backbone in bfloat16;
    clusters, sums and energies stay in float32 or better, and validation is of the float32 network. `compile` fuses
    training steps into one graph, which takes minutes at the start; validation runs as it is. `cuda_graphs` (on a GPU)
    fills batches of molecules up to a few sizes, records the kernels of a step for each of them, and replays them.
    """

    epochs: int = 100
    steps: int | None = None
    batch_atoms: int | None = 1000
    batch_structures: int | None = None
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.01
    ema: float | None = 0.999
    clip: float | None = 10.0
    early_stopping: int | None = None
    freeze: Literal["none", "backbone", "long_range"] = "none"
    seed: int = 0
    precision: Literal["float32", "float64", "bf16-mixed"] = "float32"
    compile: bool = False
    cuda_graphs: bool = False
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    num_nodes: int = 1
    workers: int = 0
    checkpoint_minutes: float | None = 10.0
    tensorboard: bool = True
    loss: LossConfig = field(default_factory=LossConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)


@dataclass(frozen=True)
class TrainConfig:
    """A whole recipe for `mcgm train`; several `seeds` train a committee of so many members."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    start: StartConfig = field(default_factory=StartConfig)
    seeds: int = 1
    output: str = "runs/latest"


@dataclass(frozen=True)
class VariantConfig:
    """One row of a comparison: a label, and settings of model and training in which it departs from the shared ones.

    `reference` is the variant that this one is compared with, if not the comparison's; itself: none. `widened_to` is
    the variant to whose number of parameters this one's backbone is widened.
    """

    label: str | None = None
    model: dict[str, Any] = field(default_factory=dict)
    reference: str | None = None
    training: dict[str, Any] = field(default_factory=dict)
    widened_to: str | None = None


def default_variants() -> dict[str, VariantConfig]:
    """The question this package asks first: the backbone alone, and with the block that `model` names."""
    return {"local": VariantConfig(model={"long_range": "none", "long_range_options": None}), "mcgm": VariantConfig()}


@dataclass(frozen=True)
class CompareConfig:
    """A whole recipe for `mcgm compare`: variants x seeds under one budget.

    `reference` is the variant that others are compared with (default: the first). Cells run in `processes` worker
    processes of `threads` threads each.
    """

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    variants: dict[str, VariantConfig] = field(default_factory=default_variants)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    reference: str | None = None
    processes: int = 2
    threads: int = 1
    output: str = "runs/compare"

    def reference_of(self, variant: str) -> str | None:
        """The variant that this one is compared with; `None` for one that is a reference itself."""
        reference = self.variants[variant].reference or self.reference or next(iter(self.variants))
        return None if reference == variant else reference

    def label_of(self, variant: str) -> str:
        """The variant in a table: its label, what a default one trains, or its name."""
        chosen = self.variants[variant]
        if chosen.label is None and chosen == default_variants().get(variant):
            model = dataclasses.replace(self.model, **chosen.model)
            parts = [model.backbone, *([] if model.long_range == "none" else [model.long_range])]
            return " + ".join(TITLES.get(part, part) for part in parts)
        return chosen.label or variant

    def cell(self, variant: str, seed: int, output: str) -> TrainConfig:
        """The recipe of one cell.

        Raises:
            ConfigError: the variant sets a key that model or training do not have.
        """
        from mcgm.training.recipe import as_plain, merge, require_known_keys, to_config

        chosen, training = self.variants[variant], self.training
        require_known_keys(chosen.model, ModelConfig, prefix=f"variants.{variant}.model.")
        if chosen.training:
            require_known_keys(chosen.training, TrainingConfig, prefix=f"variants.{variant}.training.")
            changed = merge(as_plain(training), chosen.training)
            training = to_config(changed, TrainingConfig, source=f"variants.{variant}.training")
        return TrainConfig(
            data=self.data,
            model=dataclasses.replace(self.model, **chosen.model),
            training=dataclasses.replace(training, seed=seed),
            output=output,
        )
