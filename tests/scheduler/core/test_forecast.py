"""Forecasts: seasons are found, a model that is worse than naive is not used, and quantiles hold for any sequence."""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.conformal import Conformal
from scheduler.core.forecast import NAIVE, Forecaster, HoltWinters, LevelSeason, SeasonalNaive

HOUR_S, DAY_S = 3600.0, 86_400.0
DATA = Path(__file__).parents[4] / "shared" / "data" / "traces"


def daily(at_s: float) -> float:
    return 10.0 + 6.0 * math.sin(2.0 * math.pi * at_s / DAY_S)


def fed(
    model: Forecaster, load: Callable[[float], float], days: float, step_s: float
) -> list[tuple[float, float, float]]:
    """Feed and collect (low, actual, high) at a lead of one step, from the second half on."""
    found = []
    steps = round(days * DAY_S / step_s)
    for i in range(steps):
        actual, ahead = load(i * step_s), model.ahead(1)
        if ahead is not None and i > steps // 2:
            found.append((ahead.low[0], actual, ahead.high[0]))
        model.observe(actual, i * step_s)
    return found


@pytest.mark.parametrize(("days", "back_s"), [(9, 7 * DAY_S), (2, DAY_S)])
def test_the_naive_one_says_what_was_a_week_ago_and_a_day_ago_before_that(days: int, back_s: float) -> None:
    model = SeasonalNaive(HOUR_S)
    steps = days * 24
    for i in range(steps):
        model.observe(float(i), i * HOUR_S)
    for ahead in (1, 5, 24):
        when_s = (steps - 1 + ahead) * HOUR_S
        assert model.at(when_s) == when_s / HOUR_S - back_s / HOUR_S


def test_the_naive_one_goes_back_another_season_where_one_is_not_enough() -> None:
    model = SeasonalNaive(HOUR_S)
    for i in range(30):
        model.observe(float(i), i * HOUR_S)
    assert model.at((29 + 26) * HOUR_S) == 29 + 26 - 48
    short = SeasonalNaive(HOUR_S)
    assert short.at(0.0) == 0.0
    short.observe(7.0, 0.0)
    assert short.at(5 * HOUR_S) == 7.0


def test_level_times_season_follows_a_day_and_a_new_level_within_minutes() -> None:
    model = LevelSeason(60.0)
    for i in range(14 * 1440):
        model.observe(daily(i * 60.0), i * 60.0)
    end_s = 14 * DAY_S
    for ahead_s in (600.0, 3 * HOUR_S):
        assert model.at(end_s + ahead_s) == pytest.approx(daily(end_s + ahead_s), rel=0.08)
    for i in range(15):
        model.observe(2.0 * daily(end_s + i * 60.0), end_s + i * 60.0)
    assert model.at(end_s + 1500.0) == pytest.approx(2.0 * daily(end_s + 1500.0), rel=0.12)


def test_holt_winters_follows_season_and_trend_hours_ahead() -> None:
    def load(at_s: float) -> float:
        return daily(at_s) + at_s / DAY_S

    model = HoltWinters(HOUR_S)
    for i in range(21 * 24):
        model.observe(load(i * HOUR_S), i * HOUR_S)
    for ahead in (1, 6, 24):
        when_s = (21 * 24 - 1 + ahead) * HOUR_S
        assert model.at(when_s) == pytest.approx(load(when_s), rel=0.1)


@given(st.lists(st.floats(0.0, 1e6), min_size=1, max_size=100), st.integers(1, 50))
def test_no_model_forecasts_less_than_nothing(loads: list[float], ahead: int) -> None:
    for model in (SeasonalNaive(HOUR_S), LevelSeason(HOUR_S), HoltWinters(HOUR_S, season_s=6 * HOUR_S)):
        for i, load in enumerate(loads):
            model.observe(load, i * HOUR_S)
        assert 0.0 <= model.at((len(loads) - 1 + ahead) * HOUR_S) < math.inf


class _Wrong:
    """A model that is always far off."""

    def observe(self, load: float, at_s: float) -> None:
        pass

    def at(self, when_s: float) -> float:
        return 1000.0


def test_a_model_without_skill_is_not_used_and_one_with_skill_is() -> None:
    rng = np.random.default_rng(1)
    wrong = Forecaster(HOUR_S, HOUR_S, {"wrong": _Wrong()})
    fed(wrong, daily, 9, HOUR_S)
    ahead = wrong.ahead(3)
    assert ahead is not None
    assert (ahead.model, ahead.skill) == (NAIVE, 0.0)
    walk = np.cumsum(rng.normal(0.0, 1.0, 20_000)) + 500.0
    right = Forecaster(60.0, 600.0)
    fed(right, lambda at_s: float(walk[int(at_s / 60.0)]), 10, 60.0)
    ahead = right.ahead(3)
    assert ahead is not None
    assert ahead.model == "level"
    assert ahead.skill > 0.5


@pytest.mark.parametrize("kind", ["noise", "drift", "bursts", "jump"])
def test_quantiles_cover_what_they_promise_also_when_the_world_changes(kind: str) -> None:
    rng = np.random.default_rng(3)
    noise = rng.lognormal(0.0, 0.4, 20_000)
    bursts = np.where(rng.random(20_000) < 0.05, 5.0, 1.0)
    factor = {
        "noise": noise,
        "drift": noise * np.linspace(1.0, 6.0, 20_000),
        "bursts": noise * bursts,
        "jump": np.where(np.arange(20_000) > 10_000, noise**2, noise),
    }[kind]
    found = fed(Forecaster(60.0, 60.0, coverage=0.9), lambda at_s: 3.0 * float(factor[int(at_s / 60.0)]), 13, 60.0)
    low, actual, high = np.array(found).T
    assert np.mean(actual <= high) == pytest.approx(0.9, abs=0.02)
    assert np.mean(actual >= low) == pytest.approx(0.9, abs=0.02)
    assert np.all(low <= high)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1 << 30), st.sampled_from([0.8, 0.9, 0.95]))
def test_whatever_becomes_of_the_scores_misses_stay_at_the_target_in_the_long_run(seed: int, coverage: float) -> None:
    rng, found, missed, n = np.random.default_rng(seed), Conformal(coverage), 0, 4000
    for scale in rng.choice([0.1, 1.0, 10.0], 10):
        for score in (scale * rng.normal(0.0, 1.0, n // 10)).tolist():
            missed += score > found.margin
            found.observe(score)
    assert missed / n <= 1.0 - coverage + 0.05


def test_right_after_a_jump_the_low_forecast_is_no_more_than_the_expected_one() -> None:
    model = Forecaster(60.0, 420.0)
    for i in range(20):
        model.observe(0.5 if i < 7 else 2.5, i * 60.0)
        ahead = model.ahead(10)
        assert ahead is not None
        assert all(low <= load <= high for low, load, high in zip(ahead.low, ahead.expected, ahead.high, strict=True))


def test_before_enough_was_seen_nothing_is_certain_and_before_anything_nothing_is_said() -> None:
    model = Forecaster(60.0, 60.0)
    assert model.ahead(2) is None
    model.observe(3.0, 0.0)
    ahead = model.ahead(2)
    assert ahead is not None
    assert (ahead.low, ahead.high) == ((0.0, 0.0), (math.inf, math.inf))
    assert ahead.expected == pytest.approx((3.0, 3.0))


def test_a_gap_in_the_observations_is_filled_and_keeps_the_clock() -> None:
    model = Forecaster(60.0, 60.0)
    model.observe(1.0, 0.0)
    model.observe(2.0, 600.0)
    ahead = model.ahead(1)
    assert ahead is not None
    assert ahead.expected[0] == pytest.approx(2.0, rel=0.2)


@pytest.mark.evaluate
def test_on_public_request_rates_the_models_used_beat_the_seasonal_naive_one() -> None:
    with gzip.open(DATA / "servegen_rate_10min.csv.gz", "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for kind in ("m-small", "m-mid", "m-large"):
        loads = [float(row["rate_rps"]) for row in rows if row["model_class"] == kind]
        assert len(loads) == 7 * 144
        found = Forecaster(600.0, 1200.0, {"level": LevelSeason(600.0, 600.0), "holt-winters": HoltWinters(600.0)})
        inside = []
        for i, load in enumerate(loads):
            ahead = found.ahead(2)
            if ahead is not None and i > 2 * 144:
                inside.append((ahead.low[0] <= load, load <= ahead.high[0]))
            found.observe(load, i * 600.0)
        assert found.model != NAIVE
        assert found.skill > 0.1
        assert np.mean(inside, axis=0) == pytest.approx([0.9, 0.9], abs=0.05)
