"""What is taken where nothing is named; imports nothing, so that `--help` is quick."""

LONG_RANGE = "mcgm_oriented"
"""The block with the least errors of all, over all data sets of the fair comparison (`docs/comparison.md`)."""
