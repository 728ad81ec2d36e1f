"""When a feed is asked again: bounded from both sides, obedient, and never in step with others."""

from __future__ import annotations

import doctest
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing import schedule

DAY_S = 86_400.0
chances = st.floats(0.0, 1.0, exclude_max=True)
periods_s = st.floats(10.0, DAY_S)
demands_s = st.floats(0.0, 10 * DAY_S) | st.sampled_from([math.inf, math.nan, -1.0])


def test_the_examples_in_the_text_are_true() -> None:
    assert doctest.testmod(schedule).failed == 0


@settings(deadline=None)
@given(chances)
def test_feeds_start_a_moment_apart_and_soon(chance: float) -> None:
    assert 0.0 < schedule.first_poll_s(lambda: chance) < 3.0


@settings(deadline=None)
@given(periods_s, demands_s, chances)
def test_after_a_good_poll_the_period_holds_within_a_tenth(every_s: float, demand_s: float, chance: float) -> None:
    pause_s = schedule.next_poll_s(every_s, 0, demand_s, lambda: chance)
    assert 0.9 * every_s <= pause_s <= 1.1 * every_s


@settings(deadline=None)
@given(periods_s, st.integers(1, 10**6), demands_s, chances)
def test_after_failures_the_pause_doubles_within_bounds_and_the_source_has_its_way_for_a_day_at_most(
    every_s: float, failures: int, demand_s: float, chance: float
) -> None:
    pause_s = schedule.next_poll_s(every_s, failures, demand_s, lambda: chance)
    usual_s = min(4.0 * every_s, 5.0 * 2.0 ** min(failures - 1, 60))
    asked_s = demand_s if demand_s > 0 else 0.0
    assert max(0.5 * usual_s, min(asked_s, DAY_S)) <= pause_s <= max(1.5 * usual_s, min(asked_s, DAY_S))
    assert math.isfinite(pause_s)


@settings(deadline=None)
@given(periods_s, st.integers(1, 100), chances)
def test_one_failure_more_never_makes_the_pause_shorter(every_s: float, failures: int, chance: float) -> None:
    fewer, more = (schedule.next_poll_s(every_s, n, 0.0, lambda: chance) for n in (failures, failures + 1))
    assert fewer <= more


@pytest.mark.parametrize("failures", [0, 1, 5])
def test_chance_spreads_the_polls(failures: int) -> None:
    assert len({schedule.next_poll_s(900.0, failures, 0.0, lambda i=i: i / 10) for i in range(10)}) == 10
