"""Days of a trace: how much the newest count, and how far the level of days to come may be from what they foretell."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.planning.days import LEVEL_SD, balanced, blocks_of, level_sd, shares_of, weight_of

DAY_S, HOUR_S = 86_400.0, 3_600.0


def hourly(days: int) -> np.ndarray:
    return np.arange(0.0, days * DAY_S + 1.0, HOUR_S)


def test_steady_days_leave_a_part_of_the_prior() -> None:
    # Four days are worth what the prior is; three errors of none were made.
    sd = level_sd(blocks_of(hourly(4)), [np.full(96, 5.0)], 0.25)
    assert sd == pytest.approx(LEVEL_SD * math.sqrt(4 / 7))


def test_errors_are_those_of_an_exponentially_weighted_mean_by_hand() -> None:
    load = np.repeat([1.0, 2.0, 1.0], 24)
    # What comes after the first day is 1.5 in the mean. Half-life of a day in two days seen: weights 1/3 and 2/3.
    errors = [math.log(1.5 / 1.0), math.log(1.0 / (1.0 / 3.0 + 4.0 / 3.0))]
    wanted = math.sqrt((4 * LEVEL_SD**2 + sum(e * e for e in errors)) / 6)
    assert level_sd(blocks_of(hourly(3)), [load], 0.5) == pytest.approx(wanted)


@given(st.integers(2, 10), st.floats(0.1, 100.0), st.integers(0, 1000))
def test_the_unit_of_load_does_not_matter(days: int, factor: float, seed: int) -> None:
    load = np.random.default_rng(seed).uniform(0.5, 2.0, days * 24)
    blocks = blocks_of(hourly(days))
    assert level_sd(blocks, [load * factor], 0.25) == pytest.approx(level_sd(blocks, [load], 0.25))
    assert level_sd(blocks, [load, load * factor], 0.25) == pytest.approx(level_sd(blocks, [load], 0.25))


def test_many_days_outweigh_the_prior() -> None:
    rng = np.random.default_rng(1)
    drifting = np.repeat(np.exp(np.cumsum(rng.normal(0.0, 0.3, 200))), 24)
    blocks = blocks_of(hourly(200))
    assert level_sd(blocks, [drifting], 0.25) > 3.0 * LEVEL_SD
    # Days that differ by chance alone say much of their mean.
    assert level_sd(blocks, [np.repeat(np.exp(rng.normal(0.0, 0.3, 200)), 24)], 0.25) < 0.6 * LEVEL_SD


def test_a_trace_of_hours_and_a_day_without_load_say_nothing_of_days() -> None:
    assert level_sd(blocks_of(np.linspace(0.0, HOUR_S, 61)), [np.ones(60)], 0.25) == 0.0
    gone = np.repeat([1.0, 0.0, 1.0], 24)
    assert level_sd(blocks_of(hourly(3)), [gone], 0.25) == LEVEL_SD
    assert level_sd(blocks_of(hourly(3)), [], 0.25) == LEVEL_SD


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=12), st.integers(1, 50), st.integers(0, 1000))
def test_blocks_are_drawn_as_near_to_their_share_as_whole_numbers_can_be(
    parts: list[float], count: int, seed: int
) -> None:
    shares = np.array(parts) / sum(parts)
    drawn = balanced(shares, count, np.random.default_rng(seed))
    assert drawn.shape == (count, len(shares))
    times = np.bincount(drawn.ravel(), minlength=len(shares))
    assert np.abs(times - shares * drawn.size).max() <= 1.0 + 1e-6


def test_only_days_count_less_the_older_they_are() -> None:
    assert shares_of(blocks_of(np.linspace(0.0, HOUR_S, 61)), 0.25) == pytest.approx(np.full(10, 0.1))
    assert shares_of(blocks_of(hourly(4)), 0.25) == pytest.approx(np.array([1, 2, 4, 8]) / 15)
    assert shares_of(blocks_of(hourly(4)), math.inf) == pytest.approx(np.full(4, 0.25))


@pytest.mark.parametrize("weeks", [1, 2, 4, 8])
def test_weekends_neither_weigh_more_at_the_end_of_a_trace_nor_make_levels_uncertain(weeks: int) -> None:
    load = np.repeat(np.tile([10.0, 10.0, 10.0, 10.0, 10.0, 3.0, 3.0], weeks), 24)
    blocks = blocks_of(hourly(7 * weeks))
    shares = shares_of(blocks, 0.25)
    assert shares @ load[::24] == pytest.approx(8.0)
    assert shares[-1] == pytest.approx(shares[0] * 2.0 ** ((weeks - 1) / (0.25 * weeks)))
    assert level_sd(blocks, [load], 0.25) == pytest.approx(LEVEL_SD * math.sqrt(4 / (4 + weeks - 1)))


@given(st.floats(0.0, 800.0))
def test_a_last_day_that_lacks_some_minutes_is_a_day_like_the_others(lacking_s: float) -> None:
    blocks = blocks_of(np.linspace(0.0, 4 * DAY_S - lacking_s, 577))
    assert blocks.drawn == 4
    assert set(blocks.of.tolist()) == {0, 1, 2, 3}
    assert shares_of(blocks, 0.25) == pytest.approx(np.array([1, 2, 4, 8]) / 15)
    by_day = np.bincount(blocks.of, weight_of(blocks, np.arange(4)))
    assert by_day == pytest.approx(np.full(4, 0.25), abs=0.01)


def test_a_series_counts_by_its_load() -> None:
    rng = np.random.default_rng(2)
    large, small = np.full(96, 50.0), np.repeat(rng.uniform(0.01, 0.1, 4), 24)
    blocks = blocks_of(hourly(4))
    assert level_sd(blocks, [large, small], 0.25) == pytest.approx(level_sd(blocks, [large], 0.25), rel=0.01)
    assert level_sd(blocks, [small], 0.25) > 1.5 * level_sd(blocks, [large, small], 0.25)
