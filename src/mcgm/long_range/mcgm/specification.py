"""`MCGM`: the choice of levels, rules and scope, with the presets `paper` and `smooth`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from mcgm.activations import ACTIVATIONS
from mcgm.errors import ConfigError, unknown_name
from mcgm.long_range.base import LongRange, LongRangeSpec, Promise
from mcgm.long_range.mcgm.aggregation import AGGREGATIONS
from mcgm.long_range.mcgm.clusterers import ByAtom, ByElement, Clusterer, KMeansPlusPlus, Prototypes, Random
from mcgm.long_range.mcgm.dissemination import DISSEMINATIONS
from mcgm.long_range.mcgm.fading import FadingMolecules
from mcgm.long_range.mcgm.hierarchy import WEIGHTINGS, Hierarchy
from mcgm.long_range.mcgm.scope import BondedMolecules, Scope, WholeSystem
from mcgm.long_range.mcgm.total_charge import TOTAL_CHARGE
from mcgm.long_range.updates import UPDATES

SCOPES = ("system", "molecule")

EXPECTED_ELEMENTS = 8
"""What the smooth preset takes for the size of level 1 when it derives the number of prototypes above."""


@dataclass(frozen=True)
class MCGM(LongRangeSpec):
    """Multi-stage Clustered Global Modeling, arXiv:2509.22028. As constructed: the smooth preset.

    Args:
        levels: levels of clusters above the atoms, L in the paper.
        reduction: nodes per cluster from level 2 on, r in the paper.
        clusterers: one rule per level; `None`: by element, then learned prototypes, max(1, floor(8 / r^l)) at level
            l + 1.
        activation: after each aggregation's linear map: "silu", "shifted_softplus", "tanh" or "identity".
        recluster: "forward": labels anew in every pass; "epoch": in training once per epoch and structure, for rules
            whose labels carry no gradient.
        scope: "system": one hierarchy per structure; "molecule": per covalently connected molecule. A molecule's reach
            fades as its bonds break, where all else is smooth and energies count per atom; else it steps.
        energy_per: "atom": a cluster's energy counts as often as it has atoms, so that n copies have n times the
            energy; "cluster": once (paper).
        total_charge: "embedded": the structure's charge and spin change its topmost clusters; "ignored": no effect
            (paper). `None`: embedded with scope "system"; which molecule has the charge, nobody says.
        aggregation: "mean" of the members (paper) or "attention": weighted by themselves, in each channel.
        dissemination: "broadcast": every member receives its cluster's features (paper); "mixing": what an atom takes
            up depends on its own, through a layer; "gating": and by factors.
        update: "add": to the features of the atoms (paper); "replace": in their place, not with "broadcast".
    """

    levels: int = 3
    reduction: float = 2.0
    clusterers: tuple[Clusterer, ...] | None = None
    activation: str = "silu"
    recluster: Literal["forward", "epoch"] = "forward"
    scope: Literal["system", "molecule"] = "system"
    energy_per: Literal["atom", "cluster"] = "atom"
    total_charge: Literal["embedded", "ignored"] | None = None
    aggregation: Literal["mean", "attention"] = "mean"
    dissemination: Literal["broadcast", "mixing", "gating"] = "broadcast"
    update: Literal["add", "replace"] = "add"

    def __post_init__(self) -> None:
        if not isinstance(self.levels, int) or self.levels < 1:
            raise ConfigError(f"levels is {self.levels!r}; required: a whole number, at least 1.")
        if not isinstance(self.reduction, int | float) or not self.reduction > 1:
            raise ConfigError(f"reduction is {self.reduction!r}; required: a number above 1.")
        if self.total_charge is None:
            object.__setattr__(self, "total_charge", "embedded" if self.scope == "system" else "ignored")
        tables: dict[str, Any] = {
            "activation": ACTIVATIONS,
            "recluster": ("forward", "epoch"),
            "scope": SCOPES,
            "energy_per": WEIGHTINGS,
            "total_charge": TOTAL_CHARGE,
            "aggregation": AGGREGATIONS,
            "dissemination": DISSEMINATIONS,
            "update": UPDATES,
        }
        for key, table in tables.items():
            if getattr(self, key) not in table:
                raise ConfigError(f"{key}: " + unknown_name("choice", getattr(self, key), table))
        if self.update == "replace" and self.dissemination == "broadcast":
            raise ConfigError(
                "update='replace' with dissemination='broadcast' would make all atoms of a cluster alike; required: "
                "dissemination='gating' or 'mixing', or update='add'."
            )
        if self.clusterers is None:
            sizes = [max(1, int(EXPECTED_ELEMENTS / self.reduction**level)) for level in range(1, self.levels)]
            object.__setattr__(self, "clusterers", (ByElement(), *(Prototypes(size) for size in sizes)))
        object.__setattr__(self, "clusterers", tuple(self.rules))
        wrong = [rule for rule in self.rules if not isinstance(rule, Clusterer)]
        if wrong:
            raise ConfigError(f"clusterers: {wrong[0]!r} is not a clustering rule, such as ByElement().")
        if len(self.rules) != self.levels:
            raise ConfigError(
                f"clusterers: got {len(self.rules)} rules; required: one for each of {self.levels} levels."
            )

        if self.total_charge == "embedded" and self.scope == "molecule":
            raise ConfigError(
                "total_charge='embedded' is the charge of a whole structure; required: scope='system', or "
                "total_charge='ignored'. Charges of molecules within a structure: long_range='mcgm_charges'."
            )
        if self.recluster == "epoch" and all(rule.is_smooth for rule in self.rules):
            raise ConfigError(
                "recluster='epoch' keeps labels for an epoch; required: a rule that has labels to keep, such as "
                "K-means++ (long_range='mcgm_paper'). Smooth rules are part of the gradient: use recluster='forward'."
            )

    @property
    def rules(self) -> tuple[Clusterer, ...]:
        """The clustering rule of every level."""
        assert self.clusterers is not None
        return self.clusterers

    @property
    def is_smooth(self) -> bool:
        """Whether every rule is, and nothing steps where molecules part."""
        return all(rule.is_smooth for rule in self.rules) and (self.scope == "system" or self.energy_per == "atom")

    @property
    def not_promised(self) -> dict[Promise, str]:
        """Nothing is left out where all is smooth."""
        return {} if self.is_smooth else {"smooth": "the energy jumps where clusters change"}

    @property
    def is_separable(self) -> bool:
        """Where every molecule has a hierarchy of its own (scope "molecule")."""
        return self.scope == "molecule"

    @property
    def reads_positions(self) -> bool:
        """Where molecules part by distance."""
        return self.scope == "molecule"

    @property
    def has_labels(self) -> bool:
        """Whether the rules assign labels that flip."""
        return not self.is_smooth

    @property
    def knows_total_charge(self) -> bool:
        """Whether it is embedded."""
        return self.total_charge == "embedded"

    @classmethod
    def smooth(cls, *, levels: int = 3, reduction: float = 2.0, **options: Any) -> Self:
        """The default: element clusters, learned prototypes above, energies counted per atom."""
        return cls(levels=levels, reduction=reduction, **options)

    @classmethod
    def mixing(cls, *, levels: int = 3, reduction: float = 2.0, **options: Any) -> Self:
        """As `smooth`, with attention in aggregation; layers and gates on each atom mix in what its clusters know, and
        what they give takes the place of its features."""
        settings: dict[str, Any] = {"aggregation": "attention", "dissemination": "gating", "update": "replace"}
        settings |= options
        return cls(levels=levels, reduction=reduction, **settings)

    @classmethod
    def alone(cls, *, levels: int = 3, reduction: float = 2.0, **options: Any) -> Self:
        """A control: as `mixing`, with every atom a cluster by itself. The same layers, and no exchange."""
        rules = tuple(ByAtom() for _ in range(levels))
        return replace(cls.mixing(levels=levels, reduction=reduction, **options), clusterers=rules)

    @classmethod
    def paper(cls, *, levels: int = 3, reduction: float = 2.0, **options: Any) -> Self:
        """As published: element clusters, K-means++ above, each cluster's energy counted once."""
        rules = (ByElement(), *(KMeansPlusPlus(reduction) for _ in range(levels - 1)))
        settings: dict[str, Any] = {"clusterers": rules, "energy_per": "cluster", "total_charge": "ignored"} | options
        return cls(levels=levels, reduction=reduction, **settings)

    @classmethod
    def random(cls, *, levels: int = 3, reduction: float = 2.0, **options: Any) -> Self:
        """The paper's ablation: as `paper`, with random clusters of the same sizes above the elements."""
        rules = (ByElement(), *(Random(reduction) for _ in range(levels - 1)))
        return replace(cls.paper(levels=levels, reduction=reduction, **options), clusterers=rules)

    @classmethod
    def kmeans(
        cls,
        *,
        levels: int = 3,
        reduction: float = 2.0,
        first: Literal["kinds", "reduction"] = "kinds",
        **options: Any,
    ) -> Self:
        """A control: as `paper`, but atoms are clustered by K-means++ instead of by element.

        `first="kinds"`: into as many clusters as there are elements; "reduction": n / r of n atoms.
        """
        rules = (KMeansPlusPlus(reduction, sizes=first), *(KMeansPlusPlus(reduction) for _ in range(levels - 1)))
        settings: dict[str, Any] = {"energy_per": "cluster", "total_charge": "ignored"} | options
        return cls(levels=levels, reduction=reduction, clusterers=rules, **settings)

    def build(self, channels: int, layers: int) -> LongRange:
        """The module for a backbone of this width and depth."""
        return Hierarchy(
            channels=channels,
            layers=layers,
            rules=self.rules,
            activation=ACTIVATIONS[self.activation],
            scope=self._scope(),
            weighting=WEIGHTINGS[self.energy_per],
            total_charge=TOTAL_CHARGE[str(self.total_charge)],
            aggregation=AGGREGATIONS[self.aggregation],
            dissemination=DISSEMINATIONS[self.dissemination],
            update=UPDATES[self.update],
        )

    def _scope(self) -> Scope:
        if self.scope == "system":
            return WholeSystem()
        return FadingMolecules() if self.is_smooth else BondedMolecules()
