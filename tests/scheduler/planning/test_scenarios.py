"""Scenarios: shares of time that keep the hour of the day, balanced draws, and how loads and prices move."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.config.planning import PlanningSpec, Uncertain
from scheduler.planning.scenarios import INSTANTS, Instant, Scenario, draw, expected

DAY_S = 86_400.0
HOUR_S = 3_600.0
SEEDS = st.integers(0, 10_000)


def by_hour(scenario: Scenario, edges_s: np.ndarray) -> np.ndarray:
    """Share of time of each hour of the day."""
    hour = ((edges_s[:-1] - edges_s[0]) % DAY_S // HOUR_S).astype(int)
    return np.bincount(hour, scenario.weight, minlength=24)


def yearly(scenarios: tuple[Scenario, ...], name: str, spec: PlanningSpec) -> np.ndarray:
    """Factors a year, from the first instant."""
    at_years = spec.horizon_years / INSTANTS / 2.0
    return np.array([getattr(s.instants[0], name) ** (1.0 / at_years) for s in scenarios])


@given(SEEDS, st.integers(2, 9), st.integers(0, 23), st.sampled_from([900.0, 3_600.0]))
def test_every_hour_of_the_day_has_its_share_in_every_scenario(
    seed: int, days: int, hours_more: int, bin_s: float
) -> None:
    edges_s = 500.0 + np.arange(0.0, days * DAY_S + hours_more * HOUR_S + 1.0, bin_s)
    for scenario in (*draw(PlanningSpec(), edges_s, seed, 5), expected(PlanningSpec(), edges_s)):
        assert by_hour(scenario, edges_s) == pytest.approx(np.full(24, 1.0 / 24.0))


@given(SEEDS, st.floats(600.0, 30 * DAY_S), st.integers(1, 400))
def test_shares_of_time_are_never_negative_and_sum_to_one(seed: int, span_s: float, bins: int) -> None:
    bins = max(bins, math.ceil(span_s / DAY_S))
    edges_s = np.linspace(0.0, span_s, bins + 1)
    for scenario in draw(PlanningSpec(), edges_s, seed, 4):
        assert scenario.weight.shape == (bins,)
        assert (scenario.weight >= 0.0).all()
        assert scenario.weight.sum() == pytest.approx(1.0)


@given(SEEDS, st.integers(2, 20), st.integers(1, 30))
def test_days_that_count_alike_come_up_equally_often(seed: int, days: int, count: int) -> None:
    spec, edges_s = PlanningSpec(day_half_life=math.inf), np.arange(0.0, days * DAY_S + 1.0, HOUR_S)
    mean = np.mean([scenario.weight for scenario in draw(spec, edges_s, seed, count)], axis=0)
    assert mean == pytest.approx(expected(spec, edges_s).weight)


@given(SEEDS, st.integers(2, 6), st.floats(0.1, 2.0))
def test_a_day_comes_up_half_as_often_as_one_that_is_a_half_life_newer(seed: int, days: int, half_life: float) -> None:
    spec, edges_s = PlanningSpec(day_half_life=half_life), np.arange(0.0, days * DAY_S + 1.0, HOUR_S)
    weights = [scenario.weight for scenario in draw(spec, edges_s, seed, 200)]
    share = np.mean(weights, axis=0).reshape(days, 24).sum(axis=1)
    wanted = 0.5 ** (np.arange(days)[::-1] / (half_life * days))
    assert share == pytest.approx(wanted / wanted.sum(), abs=1 / 200)


@given(SEEDS, st.floats(0.01, 0.5))
def test_the_level_of_a_scenario_is_one_in_the_mean_and_spreads_as_asked_for(seed: int, sd: float) -> None:
    still = Uncertain(mean=0.0, sd=0.0)
    spec = PlanningSpec(growth_per_year=still, api_price_per_year=still, power_price_per_year=still)
    drawn = draw(spec, np.array([0.0, 1.0]), seed, 200, level_sd=sd)
    levels = np.array([scenario.instants[0].growth for scenario in drawn])
    assert levels.mean() == pytest.approx(1.0, abs=0.02)
    assert np.log(levels).std() == pytest.approx(sd, rel=0.05)
    assert all(len({instant.growth for instant in scenario.instants}) == 1 for scenario in drawn)
    assert {instant[1:] for scenario in drawn for instant in scenario.instants} == {(1.0, 1.0)}


def test_days_are_drawn_whole() -> None:
    edges_s = np.arange(0.0, 7 * DAY_S + 1.0, HOUR_S)
    for scenario in draw(PlanningSpec(), edges_s, 1, 20):
        times = scenario.weight.reshape(7, 24) * 7 * 24
        assert (np.ptp(times, axis=1) < 1e-9).all()
        assert times[:, 0] == pytest.approx(np.round(times[:, 0]))
    assert len({tuple(scenario.weight) for scenario in draw(PlanningSpec(), edges_s, 1, 20)}) > 15


def test_the_rest_of_a_day_counts_in_its_hours_like_any_other_day() -> None:
    # Two days and six hours: in the first six hours there are three days.
    edges_s = np.arange(0.0, 2.25 * DAY_S + 1.0, HOUR_S)
    weight = expected(PlanningSpec(), edges_s).weight * 24.0
    assert weight[[0, 24, 48]] == pytest.approx([1 / 3] * 3)
    assert weight[[6, 30]] == pytest.approx([1 / 2] * 2)
    rests = {round(float(s.weight[48:].sum()), 12) for s in draw(PlanningSpec(), edges_s, 3, 20)}
    assert rests == {round(6 / 24 / 3, 12)}


def test_a_trace_of_less_than_two_days_is_drawn_in_tenths() -> None:
    edges_s = np.linspace(0.0, HOUR_S, 61)
    weights = np.array([scenario.weight for scenario in draw(PlanningSpec(), edges_s, 1, 50)]).reshape(50, 10, 6)
    assert (np.ptp(weights, axis=2) < 1e-12).all()
    assert weights.std(axis=0).min() > 0.0
    assert weights.mean(axis=0) == pytest.approx(np.full((10, 6), 1 / 60))


def test_fewer_bins_than_tenths_are_drawn_one_by_one() -> None:
    weights = np.array([s.weight for s in draw(PlanningSpec(), np.array([0.0, 10.0, 20.0, 30.0]), 1, 30)])
    assert set(np.round(weights.ravel() * 3).astype(int)) == {0, 1, 2, 3}
    assert weights * 3 == pytest.approx(np.round(weights * 3))


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    spec, edges_s = PlanningSpec(), np.arange(0.0, 3 * DAY_S + 1.0, HOUR_S)
    first, again, other = draw(spec, edges_s, 7), draw(spec, edges_s, 7), draw(spec, edges_s, 8)
    assert len(first) == spec.scenarios
    assert [s.instants for s in first] == [s.instants for s in again]
    assert all((a.weight == b.weight).all() for a, b in zip(first, again, strict=True))
    assert [s.instants for s in first] != [s.instants for s in other]


def test_without_uncertainty_every_scenario_moves_as_expected() -> None:
    spec = PlanningSpec(
        horizon_years=2.0,
        growth_per_year=Uncertain(mean=0.5, sd=0.0),
        api_price_per_year=Uncertain(mean=-0.3, sd=0.0),
        power_price_per_year=Uncertain(mean=0.0, sd=0.0),
    )
    edges_s = np.array([0.0, 1.0])
    wanted = [(1.5**t, 0.7**t, 1.0) for t in (0.25, 0.75, 1.25, 1.75)]
    for scenario in (*draw(spec, edges_s, 1, 3), expected(spec, edges_s)):
        assert np.array(scenario.instants) == pytest.approx(np.array(wanted))


@given(SEEDS, st.floats(-0.9, 3.0), st.floats(0.0, 0.5))
def test_changes_have_the_mean_and_the_spread_that_are_asked_for_and_stay_positive(
    seed: int, mean: float, relative: float
) -> None:
    sd = relative * (1.0 + mean)
    spec = PlanningSpec(growth_per_year=Uncertain(mean=mean, sd=sd))
    drawn = yearly(draw(spec, np.array([0.0, 1.0]), seed, 200), "growth", spec)
    assert (drawn > 0.0).all()
    # The middles of strata miss the outer tails.
    assert drawn.mean() == pytest.approx(1.0 + mean, rel=0.01)
    assert drawn.std() == pytest.approx(sd, rel=0.1, abs=1e-9)


def test_an_extreme_fall_of_prices_leaves_them_above_zero() -> None:
    spec = PlanningSpec(horizon_years=20.0, api_price_per_year=Uncertain(mean=-0.9, sd=2.0))
    drawn = draw(spec, np.array([0.0, 1.0]), 1, 50)
    factors = np.array([instant.api_price for scenario in drawn for instant in scenario.instants])
    assert np.isfinite(factors).all()
    assert (factors > 0.0).all()


def test_load_and_prices_move_independently() -> None:
    spec = PlanningSpec()
    drawn = draw(spec, np.array([0.0, 1.0]), 5, 1_000)
    moved = np.log([yearly(drawn, name, spec) for name in Instant._fields])
    assert np.abs(np.corrcoef(moved) - np.eye(3)).max() < 0.1


def test_what_cannot_be_drawn_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one scenario"):
        draw(PlanningSpec(), np.array([0.0, 1.0]), 1, 0)
    with pytest.raises(ValueError, match="longer than the days"):
        draw(PlanningSpec(), np.array([0.0, 2.0, 4.0]) * DAY_S, 1, 3)
