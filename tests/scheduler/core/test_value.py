"""The value of a pool's time, against plain value iteration, a renewal argument and simulated queues."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from scheduler.core.capacity import BidCurve
from scheduler.core.value import cushioned, value_curve

Floats = NDArray[np.float64]

# Dear and rare, usual, cheap and long: USD and seconds.
USD, ADDED_S = [1.0, 0.3, 0.05], [0.2, 0.1, 0.4]
LOAD_MEAN_S = sum(ADDED_S) / len(ADDED_S)


def drained(grid: Floats, value: Floats, gap_s_mean: float) -> Floats:
    """F(x) = E V(max(0, x - t)), t exponential: the solution of F' = (V - F)/gap from F(0) = V(0), cell by cell."""
    found, step = [value[0]], grid[1] - grid[0]
    decay = math.exp(-step / gap_s_mean)
    for low, high in pairwise(value):
        slope = (high - low) / step
        found.append(found[-1] * decay + high - low * decay - slope * gap_s_mean * (1.0 - decay))
    return np.array(found)


def iterated(
    usd: list[float], added_s: list[float], gap_s_mean: float, wait_s_max: float, points: int, rounds: int = 20_000
) -> tuple[Floats, float]:
    """Oracle: relative value iteration, as plain as it is slow. Returns V' with V'(0) = 0, and USD per arrival."""
    grid = np.linspace(0.0, wait_s_max, points)
    value, gain = np.zeros(points), 0.0
    for _ in range(rounds):
        after = drained(grid, value, gap_s_mean)
        best = np.zeros(points)
        for worth, work_s in zip(usd, added_s, strict=True):
            kept = np.interp(grid + work_s, grid, after)  # flat beyond the end: the forced are late there
            if worth == math.inf:
                best += kept
            else:
                fits = grid + work_s <= wait_s_max + 1e-12
                best += np.where(fits, np.maximum(after, worth + kept), after)
        best /= len(usd)
        moved = best - value
        value, gain = best - best[0], float(best[0])
        if np.ptp(moved) < 1e-12:
            break
    after = drained(grid, value, gap_s_mean)
    return after - after[0], gain


CASES = [
    (USD, ADDED_S, 1.5, 2.0),
    (USD, ADDED_S, 1.0, 2.0),
    (USD, ADDED_S, 0.5, 2.0),
    (USD, ADDED_S, 2.5, 1.0),
    ([1.0, 0.1], [1.0, 0.01], 1.2, 5.0),
    ([1.0, 0.5, math.inf], [0.3, 0.3, 0.5], 1.2, 3.0),
    ([-1.0, 0.5, 0.0], [0.3, 0.3, 0.5], 1.2, 3.0),
    ([1.0, 0.2], [9.0, 0.2], 1.2, 3.0),
]


@pytest.mark.parametrize(("usd", "added_s", "load", "wait_s_max"), CASES)
def test_the_curve_is_what_plain_value_iteration_arrives_at(
    usd: list[float], added_s: list[float], load: float, wait_s_max: float
) -> None:
    gap_s_mean = sum(added_s) / len(added_s) / load
    curve = value_curve(usd, added_s, gap_s_mean, wait_s_max, points=33)
    assert curve is not None
    expected, _ = iterated(usd, added_s, gap_s_mean, wait_s_max, 33)
    assert curve.wait_s == pytest.approx(np.linspace(0.0, wait_s_max, 33))
    assert curve.usd == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("gap_s_mean", [0.2, 1.0, 3.0])
def test_where_only_one_fits_its_time_is_worth_what_a_renewal_argument_says(gap_s_mean: float) -> None:
    # A request is kept only by an idle pool and takes w seconds: s USD per cycle of w + gap seconds, so that starting
    # w seconds later costs s * w / (w + gap).
    curve = value_curve([2.0], [1.0], gap_s_mean, 1.0, points=401)
    assert curve is not None
    assert curve.price_usd(0.0, 1.0) == pytest.approx(2.0 * 1.0 / (1.0 + gap_s_mean), rel=0.02)


def test_time_that_will_hardly_be_needed_is_as_good_as_free() -> None:
    curve = value_curve(USD, ADDED_S, LOAD_MEAN_S / 0.3, 5.0)
    assert curve is not None
    for worth, work_s in zip(USD, ADDED_S, strict=True):
        assert curve.price_usd(0.0, work_s) < 1e-4 * worth


def test_an_overloaded_pools_time_goes_at_the_price_of_the_cheapest_that_it_keeps() -> None:
    # Load 2, a quarter of it dear, patience for many requests: the rest of the time goes to the cheap ones.
    curve = value_curve([1.0, 0.4, 0.4, 0.4], [0.1] * 4, 0.05, 50.0)
    assert curve is not None
    assert curve.price_usd(25.0, 0.1) == pytest.approx(0.4, rel=0.01)


def test_the_fuller_the_line_the_dearer_is_its_time_until_it_is_too_long() -> None:
    curve = value_curve(USD, ADDED_S, LOAD_MEAN_S, 5.0)
    assert curve is not None
    prices = [curve.price_usd(x_s, 0.2) for x_s in np.linspace(0.0, 4.5, 10)]
    assert prices == sorted(prices)


demands = st.lists(
    st.tuples(st.floats(-0.5, 5.0) | st.just(math.inf), st.floats(0.01, 3.0)), min_size=1, max_size=12
).map(lambda pairs: tuple(map(list, zip(*pairs, strict=True))))


@settings(deadline=None)
@given(demands, st.floats(0.01, 10.0), st.floats(0.2, 20.0))
def test_a_longer_wait_is_never_worth_more_and_an_empty_line_is_the_zero(
    demand: tuple[list[float], list[float]], gap_s_mean: float, wait_s_max: float
) -> None:
    curve = value_curve(*demand, gap_s_mean, wait_s_max)
    assert curve is not None
    assert all(math.isfinite(usd) for usd in curve.usd)
    assert curve.usd[0] == 0.0
    assert list(curve.usd) == sorted(curve.usd, reverse=True)
    assert list(curve.wait_s) == sorted(set(curve.wait_s))
    assert (curve.wait_s[0], curve.wait_s[-1]) == (0.0, wait_s_max)
    # All that the time can bring is the dearest of what may come.
    worth = max((usd for usd in demand[0] if usd != math.inf), default=0.0)
    assert -curve.usd[-1] <= max(0.0, worth) * (1.0 + (wait_s_max + gap_s_mean) / gap_s_mean) + 1e-9


@settings(deadline=None, max_examples=40)
@given(demands, st.floats(0.05, 5.0), st.floats(0.5, 10.0), st.sampled_from([1e-6, 0.1, 30.0]))
def test_the_currency_and_the_unit_of_time_do_not_matter(
    demand: tuple[list[float], list[float]], gap_s_mean: float, wait_s_max: float, scale: float
) -> None:
    usd, added_s = demand
    curve = value_curve(usd, added_s, gap_s_mean, wait_s_max, points=40)
    dearer = value_curve([scale * u for u in usd], added_s, gap_s_mean, wait_s_max, points=40)
    slower = value_curve(usd, [8.0 * a for a in added_s], 8.0 * gap_s_mean, 8.0 * wait_s_max, points=40)
    assert curve is not None
    assert dearer is not None
    assert slower is not None
    most = max(1.0, -curve.usd[-1])
    assert [u / scale for u in dearer.usd] == pytest.approx(curve.usd, abs=1e-7 * most)
    assert slower.usd == pytest.approx(curve.usd, abs=1e-9 * most)
    assert slower.wait_s == pytest.approx([8.0 * x for x in curve.wait_s])


@pytest.mark.parametrize(
    ("usd", "added_s", "gap_s_mean", "wait_s_max"),
    [([], [], 1.0, 5.0), ([1.0], [0.0], 1.0, 5.0), ([1.0], [1.0], 0.0, 5.0), ([1.0], [1.0], 1.0, 0.0)],
)
def test_where_nothing_can_be_scarce_there_is_no_curve(
    usd: list[float], added_s: list[float], gap_s_mean: float, wait_s_max: float
) -> None:
    assert value_curve(usd, added_s, gap_s_mean, wait_s_max) is None


def test_time_is_worth_nothing_to_those_who_come_anyway_or_would_rather_go() -> None:
    for usd in ([math.inf] * 3, [-1.0, 0.0, -0.1]):
        curve = value_curve(usd, ADDED_S, LOAD_MEAN_S, 5.0)
        assert curve is not None
        assert curve.usd == pytest.approx([0.0] * len(curve.usd), abs=1e-12)


def test_the_forced_make_what_is_left_dearer() -> None:
    alone = value_curve([1.0, 0.2, 0.0], [0.2, 0.2, 0.2], 0.2, 5.0)
    beside = value_curve([1.0, 0.2, math.inf], [0.2, 0.2, 0.2], 0.2, 5.0)
    assert alone is not None
    assert beside is not None
    assert beside.price_usd(0.0, 0.2) > 2.0 * alone.price_usd(0.0, 0.2)


# ---- bursts -------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(demands, st.floats(0.05, 5.0), st.floats(0.5, 10.0), st.sampled_from([1.0, 0.5, 0.0]))
def test_whoever_comes_alone_comes_in_no_burst(
    demand: tuple[list[float], list[float]], gap_s_mean: float, wait_s_max: float, burst: float
) -> None:
    assert value_curve(*demand, gap_s_mean, wait_s_max, burst) == value_curve(*demand, gap_s_mean, wait_s_max)


@settings(deadline=None, max_examples=40)
@given(demands, st.floats(0.05, 5.0), st.floats(0.5, 10.0), st.floats(1.0, 1e9))
def test_a_burst_is_bounded_by_an_eighth_of_the_longest_wait(
    demand: tuple[list[float], list[float]], gap_s_mean: float, wait_s_max: float, burst: float
) -> None:
    usd, added_s = demand
    found = value_curve(usd, added_s, gap_s_mean, wait_s_max, burst, points=40)
    times = max(1.0, min(burst, wait_s_max / 8.0 / float(np.mean(added_s))))
    # So many of a kind are one request that is as much dearer, longer and rarer.
    one = value_curve([times * u for u in usd], [times * a for a in added_s], times * gap_s_mean, wait_s_max, points=40)
    assert found is not None
    assert one is not None
    assert found.usd == pytest.approx(one.usd, rel=1e-6, abs=1e-6 * max(1.0, -one.usd[-1]))


@pytest.mark.parametrize(("load", "from_share"), [(0.8, 0.0), (1.0, 0.0), (1.2, 0.6), (2.0, 0.4)])
@pytest.mark.parametrize("wait_s_max", [5.0, 10.0])
def test_when_requests_come_at_once_a_line_is_dearer_before_its_end(
    load: float, from_share: float, wait_s_max: float
) -> None:
    # With more load than capacity an almost empty line is cheaper: it may run empty before the next burst.
    gap_s_mean = LOAD_MEAN_S / load
    alone, few, many = (value_curve(USD, ADDED_S, gap_s_mean, wait_s_max, burst) for burst in (1.0, 2.0, 4.0))
    assert alone is not None
    assert few is not None
    assert many is not None
    for wait_s in np.linspace(from_share * wait_s_max, 0.8 * wait_s_max, 9):
        assert few.price_usd(wait_s, 0.4) >= 0.98 * alone.price_usd(wait_s, 0.4)
        assert many.price_usd(wait_s, 0.4) >= 0.98 * few.price_usd(wait_s, 0.4)
    assert many.price_usd(0.8 * wait_s_max, 0.4) > 1.3 * alone.price_usd(0.8 * wait_s_max, 0.4)


# ---- simulated queues ---------------------------------------------------------------------------------------------

Keeps = Callable[[float, float, float], bool]  # USD, seconds, wait


def earned(stream: list[tuple[float, float, float]], wait_s_max: float, keeps: Keeps) -> float:
    """USD that a queue earns from (gap, USD, seconds) one after the other, when ``keeps`` decides who fits in."""
    wait_s = usd = 0.0
    for gap_s, worth, work_s in stream:
        wait_s = max(0.0, wait_s - gap_s)
        if wait_s + work_s <= wait_s_max and keeps(worth, work_s, wait_s):
            wait_s, usd = wait_s + work_s, usd + worth
    return usd


def stream_of(usd: list[float], added_s: list[float], gap_s_mean: float, n: int, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    which = rng.integers(0, len(usd), n)
    return list(zip(rng.exponential(gap_s_mean, n).tolist(), np.take(usd, which), np.take(added_s, which), strict=True))


def by_price(curve: BidCurve) -> Keeps:
    return lambda usd, work_s, wait_s: usd >= curve.price_usd(wait_s, work_s)


def by_threshold(usd_per_s_least: float) -> Keeps:
    return lambda usd, work_s, wait_s: usd >= usd_per_s_least * work_s


@pytest.mark.parametrize("load", [0.8, 1.2, 2.0])
@pytest.mark.parametrize("kind", ["three", "lognormal", "classes"])
def test_whoever_keeps_by_the_price_earns_no_less_than_first_come_and_than_any_fixed_threshold(
    kind: str, load: float
) -> None:
    rng = np.random.default_rng(7)
    usd, added_s = {
        "three": (USD, ADDED_S),
        "lognormal": (rng.lognormal(0.0, 1.0, 64).tolist(), rng.lognormal(-1.5, 0.7, 64).tolist()),
        "classes": ([0.05, 0.1, 1.0, 2.0], [0.1] * 4),
    }[kind]
    gap_s_mean = float(np.mean(added_s)) / load
    stream = stream_of(usd, added_s, gap_s_mean, 20_000, seed=11)
    curve = value_curve(usd, added_s, gap_s_mean, 3.0)
    assert curve is not None
    priced = earned(stream, 3.0, by_price(curve))
    first_come = earned(stream, 3.0, lambda usd, work_s, wait_s: True)
    thresholds = sorted({u / a for u, a in zip(usd, added_s, strict=True)})
    fixed = max(earned(stream, 3.0, by_threshold(least)) for least in thresholds[:: max(1, len(thresholds) // 12)])
    assert priced >= first_come
    assert priced >= fixed
    if load > 1.0:
        assert priced > 1.02 * first_come
        assert priced > fixed


def test_with_one_price_for_all_first_come_is_nearly_as_good() -> None:
    gap_s_mean = 0.1 / 1.2
    stream = stream_of([1.0], [0.1], gap_s_mean, 20_000, seed=3)
    curve = value_curve([1.0], [0.1], gap_s_mean, 3.0)
    assert curve is not None
    priced = earned(stream, 3.0, by_price(curve))
    assert priced == pytest.approx(earned(stream, 3.0, lambda usd, work_s, wait_s: True), rel=0.005)


def test_a_queue_that_keeps_by_the_price_earns_what_the_equations_promise() -> None:
    gap_s_mean = LOAD_MEAN_S / 1.2
    _, gain = iterated(USD, ADDED_S, gap_s_mean, 2.0, 61)
    curve = value_curve(USD, ADDED_S, gap_s_mean, 2.0, points=61)
    assert curve is not None
    stream = stream_of(USD, ADDED_S, gap_s_mean, 40_000, seed=5)
    assert earned(stream, 2.0, by_price(curve)) / len(stream) == pytest.approx(gain, rel=0.02)


@pytest.mark.parametrize("load", [0.8, 1.0, 1.2, 2.0])
@pytest.mark.parametrize("wait_s_max", [5.0, 10.0])
def test_whoever_knows_that_requests_come_at_once_earns_more_from_them(wait_s_max: float, load: float) -> None:
    gap_s_mean, batch, n = LOAD_MEAN_S / load, 8, 20_000
    alone = value_curve(USD, ADDED_S, gap_s_mean, wait_s_max)
    bursts = value_curve(USD, ADDED_S, gap_s_mean, wait_s_max, batch)
    assert alone is not None
    assert bursts is not None
    # Eight at once, each of its own kind, and then nobody for eight times as long.
    single = stream_of(USD, ADDED_S, gap_s_mean * batch, n, seed=3)
    stream = [(gap_s * (i % batch == 0), usd, added_s) for i, (gap_s, usd, added_s) in enumerate(single)]
    ignorant, knowing = (earned(stream, wait_s_max, by_price(curve)) for curve in (alone, bursts))
    assert knowing > 0.998 * ignorant
    if load <= 1.0:
        assert knowing > 1.003 * ignorant


LINE = BidCurve((0.0, 1.0, 2.0, 3.0, 4.0), (0.0, -1.0, -2.0, -4.0, -8.0))


def test_a_cushion_makes_a_short_line_cheap_and_leaves_a_long_one_as_it_is() -> None:
    soft = cushioned(LINE, [1.0, 2.0, 9.0], [1.0, 1.0, 1.0])
    assert soft is not None
    assert soft.price_usd(0.0, 1.0) == pytest.approx(0.5 / 0.8)  # in the middle of the first second of a fifth of four
    for wait_s in (1.0, 2.0, 3.0):
        assert soft.price_usd(wait_s, 1.0) == pytest.approx(LINE.price_usd(wait_s, 1.0))
    assert cushioned(None, [1.0], [1.0]) is None


def test_where_all_requests_are_worth_about_the_same_the_price_rises_later_and_to_nine_tenths() -> None:
    alike = cushioned(LINE, [1.0, 2.2, 3.0, math.inf], [1.0, 2.0, 3.0, 1.0])
    assert alike is not None
    assert alike.price_usd(0.0, 1.0) == pytest.approx(0.9 * 0.5 / 2.8)
    assert alike.price_usd(3.0, 1.0) == pytest.approx(0.9 * LINE.price_usd(3.0, 1.0))
