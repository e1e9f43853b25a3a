"""Learning-rate schedules at the steps that define them."""

import itertools

import pytest

from mcgm.training.config import ScheduleConfig
from mcgm.training.schedule import make_schedule


def test_cosine_rises_linearly_then_falls_to_its_final_value():
    schedule = make_schedule(ScheduleConfig(kind="cosine", warmup=0.1, final=0.01), 100)
    factors = [schedule.factor(step) for step in range(100)]
    assert factors[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert factors[10] == 1.0
    assert factors[-1] == pytest.approx(0.01)
    assert all(later <= earlier for earlier, later in itertools.pairwise(factors[10:]))


def test_milestones_multiply_and_warm_up_starts_where_told():
    config = ScheduleConfig(kind="steps", warmup_steps=10, start=0.2, milestones=[20, 30], factor=0.1)
    schedule = make_schedule(config, 100)
    assert schedule.factor(0) == pytest.approx(0.28)
    assert [schedule.factor(step) for step in (9, 19, 20, 30)] == pytest.approx([1.0, 1.0, 0.1, 0.01])


def test_plateau_lowers_the_rate_after_too_many_validations_without_improvement():
    schedule = make_schedule(ScheduleConfig(kind="plateau", warmup_steps=0, factor=0.5, patience=2), 100)
    for loss in (1.0, 0.9, 0.95, 0.95):
        schedule.observe(loss)
    assert schedule.factor(50) == 1.0
    schedule.observe(0.9)
    assert schedule.factor(50) == 0.5


def test_plateau_goes_on_from_its_saved_state():
    config = ScheduleConfig(kind="plateau", patience=1)
    whole, first, second = (make_schedule(config, 100) for _ in range(3))
    losses = [1.0, 1.1, 1.2, 0.5, 0.6, 0.7]
    for loss in losses:
        whole.observe(loss)
    for loss in losses[:2]:
        first.observe(loss)
    second.load_state_dict(first.state_dict())
    for loss in losses[2:]:
        second.observe(loss)
    assert second.state_dict() == whole.state_dict()
