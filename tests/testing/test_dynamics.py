"""The drift of the total energy as a figure."""

import torch

from mcgm import build
from mcgm.testing import energy_drift, zoo


def test_drift_is_small_for_a_smooth_potential_and_grows_with_the_time_step():
    torch.manual_seed(0)
    potential = build(long_range="mcgm", cutoff=4.0, scale=0.1).double().eval()
    structure = zoo()["NaCl cell"]
    drift = [
        energy_drift(potential, structure, timestep_fs=dt, duration_ps=0.15, temperature_K=100) for dt in (1.5, 7.5)
    ]
    assert drift[0] < drift[1]
    assert drift[0] < 0.1
