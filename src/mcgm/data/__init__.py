"""From files to structures: readers, the mapped cache, splits, element references and the bundled sample."""

from mcgm.data.dataset import Composition, Dataset
from mcgm.data.labels import PRESETS, Labels
from mcgm.data.readers import open_structures
from mcgm.data.references import ElementReferences, ReferenceFit, fit_references
from mcgm.data.sample import sample_path
from mcgm.data.splits import NAMED as NAMED_SPLITS
from mcgm.data.splits import ByFile, ByFraction, ByGroup, OE62Split, Split, SplitRule, split_rule

__all__ = [
    "NAMED_SPLITS",
    "PRESETS",
    "ByFile",
    "ByFraction",
    "ByGroup",
    "Composition",
    "Dataset",
    "ElementReferences",
    "Labels",
    "OE62Split",
    "ReferenceFit",
    "Split",
    "SplitRule",
    "fit_references",
    "open_structures",
    "sample_path",
    "split_rule",
]
