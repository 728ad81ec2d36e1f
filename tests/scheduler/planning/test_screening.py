"""How much to own by hand: closed forms, brute force over the same load, and envelopes that hold at every point."""

from __future__ import annotations

import math
from bisect import bisect_right

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from scheduler.planning.screening import Line, crossings, lines, load_duration, newsvendor

SEEDS = st.integers(0, 2**32 - 1)
USD = st.floats(0.0, 10.0)


def expected_usd(
    x: float, load: np.ndarray, hours: np.ndarray, owned: float, alternative: float, running: float
) -> float:
    """Cost per hour of owning x replicas: the definition."""
    cost = running * np.minimum(load, x) + alternative * np.maximum(0.0, load - x)
    return owned * x + float(np.average(cost, weights=hours))


@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.7])
@pytest.mark.parametrize("law", [stats.expon(scale=8.0), stats.uniform(2.0, 20.0), stats.norm(50.0, 6.0)])
def test_the_newsvendor_finds_the_quantile_of_a_known_law(law: stats.rv_continuous, ratio: float) -> None:
    load = law.ppf((np.arange(20_000) + 0.5) / 20_000)
    found = newsvendor(load, np.ones(20_000), 2.0 * ratio, 2.5, 0.5)
    assert found == pytest.approx(law.isf(ratio), rel=1e-3)


def test_the_newsvendor_of_exponential_load_is_a_logarithm() -> None:
    """P(load > x) = exp(-x / 8) = 1 / 4, so that x = 8 * log(4)."""
    load = stats.expon(scale=8.0).ppf((np.arange(20_000) + 0.5) / 20_000)
    assert newsvendor(load, np.full(20_000, 0.1), 1.0, 5.0, 1.0) == pytest.approx(8.0 * math.log(4.0), rel=1e-3)


@given(SEEDS, st.integers(1, 30), USD, USD, USD)
def test_nothing_that_could_be_owned_costs_less_than_the_newsvendors_choice(
    seed: int, count: int, owned: float, alternative: float, running: float
) -> None:
    rng = np.random.default_rng(seed)
    load = np.round(rng.exponential(4.0, count), 1) * (rng.random(count) < 0.8)
    hours = rng.uniform(0.1, 5.0, count)
    found = newsvendor(load, hours, owned, alternative, running)
    costs = [
        expected_usd(x, load, hours, owned, alternative, running) for x in (found, *load, *np.linspace(0.0, 30.0, 61))
    ]
    assert costs[0] <= min(costs) + 1e-6


def test_owning_never_pays_where_the_alternative_is_no_dearer_than_running_or_the_price_is_too_high() -> None:
    load, hours = np.array([1.0, 2.0, 3.0]), np.ones(3)
    assert newsvendor(load, hours, 0.0, 1.0, 1.0) == 0.0
    assert newsvendor(load, hours, 2.1, 3.0, 1.0) == 0.0
    assert newsvendor(load, hours, math.inf, math.inf, 1.0) == 0.0
    assert newsvendor(load, hours, 1.9, 3.0, 1.0) == 1.0
    assert newsvendor(load, hours, 5.0, math.inf, 1.0) == 3.0
    assert newsvendor(np.array([0.0, 0.0, 0.0, 4.0]), np.ones(4), 0.6, 3.0, 1.0) == 0.0


def test_the_load_duration_curve_says_for_how_long_each_load_is_reached() -> None:
    share, load = load_duration(np.array([1.0, 5.0, 2.0, 5.0]), np.array([4.0, 1.0, 2.0, 1.0]))
    assert load.tolist() == [5.0, 2.0, 1.0]
    assert share.tolist() == [0.25, 0.5, 1.0]


@given(SEEDS, st.integers(1, 40))
def test_the_area_under_the_load_duration_curve_is_the_mean_load(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    load, hours = rng.integers(0, 6, count).astype(float), rng.uniform(0.1, 1.0, count)
    share, level = load_duration(load, hours)
    assert float(np.dot(np.diff(share, prepend=0.0), level)) == pytest.approx(np.average(load, weights=hours))
    assert (np.diff(level) < 0.0).all()
    assert share[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("hours", [[0.0, 0.0], [1.0, -0.5], [math.nan, 1.0]])
def test_time_that_is_none_is_refused(hours: list[float]) -> None:
    with pytest.raises(ValueError, match="slices of time"):
        load_duration(np.ones(2), np.array(hours))


@given(st.lists(st.tuples(USD, USD), min_size=1, max_size=7), st.lists(st.floats(0.0, 1.0), max_size=20))
def test_the_envelope_is_nowhere_above_any_line(costs: list[tuple[float, float]], shares: list[float]) -> None:
    screened = {str(i): Line(str(i), *cost) for i, cost in enumerate(costs)}
    found = crossings(list(screened.values()))
    starts = [start for start, _ in found]
    assert starts[0] == 0.0
    assert starts == sorted(starts)
    for share in (*shares, *starts, 1.0):
        name = found[bisect_right(starts, share) - 1][1]
        least = min(line.usd_per_hour(share) for line in screened.values())
        assert screened[name].usd_per_hour(share) == pytest.approx(least, abs=1e-9)


def test_api_gives_way_to_rent_and_rent_to_owning_as_a_replica_is_used_more() -> None:
    """0.5 + u * 3 never beats 5 * u below u = 1/4 ...: api 5 u; rented (3 + 1) u; owned 1.5 + u; reserved 1.8 + u.

    Renting always beats this API. 4 u = 1.5 + u at u = 1/2; what is reserved is never the cheapest.
    """
    assert crossings(lines(1.5, 1.8, 3.0, 5.0, 1.0)) == ((0.0, "rented"), (0.5, "owned"))
    assert crossings(lines(1.5, 1.2, math.inf, 3.0, 1.0)) == ((0.0, "api"), (pytest.approx(0.6), "reserved"))
    assert [line.name for line in lines(math.inf, 1.0, math.inf, 3.0, 0.5)] == ["reserved", "api"]
    assert crossings(()) == ()


def test_screening_and_newsvendor_agree_on_what_to_own() -> None:
    """Where an API is the only alternative, the crossing is the share of time in which the last replica is wanted."""
    load, hours = np.sort(np.random.default_rng(5).exponential(10.0, 400)), np.ones(400)
    (_, (share, name)) = crossings(lines(1.2, math.inf, math.inf, 4.0, 0.6))
    owned = newsvendor(load, hours, 1.2, 4.0, 0.6)
    assert name == "owned"
    assert np.mean(load > owned) <= share <= np.mean(load >= owned)
