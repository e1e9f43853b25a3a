"""What is taken where nothing is named; imports nothing, so that `--help` is quick."""

LONG_RANGE = "mcgm_oriented"
"""The block with the least errors of all, over all data sets of the fair comparison (`docs/comparison.md`)."""

TITLES = {
    "schnet": "SchNet",
    "painn": "PaiNN",
    "dimenet++": "DimeNet++",
    "gemnet-t": "GemNet-T",
    "visnet": "ViSNet",
    "mcgm": "MCGM",
    "mcgm_paper": "MCGM as published",
    "mcgm_oriented": "MCGM + orientations",
}
"""What tables call backbones and blocks; others go by their names."""
