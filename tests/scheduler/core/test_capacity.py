"""A pool's time: where its bid curve is read, whose line a request makes longer, and how old the news is."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.capacity import BidCurve, Capacity, Level, overtaken_s, price_usd, room_s
from tests.support.markets import NOW_S, bid_curves, levels


def falling(usd_per_s: float) -> BidCurve:
    """A second of wait is worth the same wherever the line ends."""
    return BidCurve((0.0, 1_000.0), (0.0, -1_000.0 * usd_per_s))


# Urgent, usual, patient; the dearest time is in the middle.
STAIRS = (Level(1.0, 0.2, falling(0.01)), Level(5.0, 2.0, falling(0.04)), Level(60.0, 9.0, falling(0.02)))
# Free up to 1 s of wait, 0.01 USD a second beyond.
LATER = BidCurve((0.0, 1.0, 101.0), (0.0, 0.0, -1.0))


def pool(**fields: Any) -> Capacity:
    values: dict[str, Any] = {
        "replicas": 2,
        "slots": 8,
        "running": 3,
        "waiting": 1,
        "service_s_mean": 2.0,
        "as_of_s": NOW_S,
    }
    return Capacity(**(values | fields))


def interpolated(curve: BidCurve, x_s: float) -> Fraction:
    """V by exact linear interpolation, flat beyond both ends."""
    xs, ys = [Fraction(w) for w in curve.wait_s], [Fraction(u) for u in curve.usd]
    x = min(max(Fraction(x_s), xs[0]), xs[-1])
    i = max(1, bisect_left(xs, x))
    return ys[i - 1] + (ys[i] - ys[i - 1]) * (x - xs[i - 1]) / (xs[i] - xs[i - 1])


@given(bid_curves(), st.floats(0.0, 400.0), st.floats(0.0, 50.0))
def test_the_bid_curve_is_linear_between_its_points_and_prices_a_difference(
    curve: BidCurve, x_s: float, added_s: float
) -> None:
    assert curve.at(x_s) == pytest.approx(float(interpolated(curve, x_s)), abs=1e-9)
    drop = max(0.0, float(interpolated(curve, x_s) - interpolated(curve, x_s + added_s)))
    assert curve.price_usd(x_s, added_s) == pytest.approx(drop, abs=1e-9)


def test_time_that_would_grow_in_value_with_the_backlog_is_free_not_a_gift() -> None:
    assert BidCurve((0.0, 1.0), (0.0, 5.0)).price_usd(0.0, 1.0) == 0.0


@pytest.mark.parametrize(
    ("ttft_s_max", "usd_per_s"),
    [
        (0.5, 0.04),  # more urgent than all: it makes every line longer
        (1.0, 0.04),
        (1.5, 0.04),
        (5.0, 0.04),
        (5.1, 0.02),  # the urgent never wait for it
        (60.0, 0.02),
        (1e9, 0.02),  # less urgent than all: it stands in the last line
    ],
)
def test_a_request_pays_the_dearest_of_its_own_line_and_the_slower_ones(ttft_s_max: float, usd_per_s: float) -> None:
    assert price_usd(STAIRS, ttft_s_max, 0.5) == pytest.approx(0.5 * usd_per_s)


def test_a_line_of_unknown_value_costs_nothing_and_hides_no_other() -> None:
    stairs = (STAIRS[0], STAIRS[1]._replace(bid=None), STAIRS[2])
    assert price_usd(stairs, 1.0, 1.0) == pytest.approx(0.02)
    assert price_usd((STAIRS[1]._replace(bid=None),), 1.0, 1.0) == 0.0
    assert price_usd((), 1.0, 1.0) == 0.0


@pytest.mark.parametrize(
    ("age_s", "sent_s", "usd"),
    [
        (0.0, 0.0, 0.005),  # the line ends at 3 s
        (2.0, 0.0, 0.005),  # at 1 s by now
        (2.5, 0.0, 0.0),  # at half a second: the half second that is added is free
        (2.25, 0.0, 0.0025),  # a quarter of it is
        (50.0, 0.0, 0.0),  # a line does not drain below nothing
        (50.0, 2.0, 0.005),  # and what has joined since does not vanish into it
    ],
)
def test_a_line_drains_as_the_news_of_it_grows_old_and_what_joined_since_counts(
    age_s: float, sent_s: float, usd: float
) -> None:
    assert price_usd((Level(5.0, 3.0, LATER),), 5.0, 0.5, age_s, sent_s) == pytest.approx(usd)


@given(levels(), st.floats(0.1, 100.0), st.floats(0.0, 5.0), st.floats(0.0, 5.0), st.floats(0.0, 5.0))
def test_the_price_is_that_of_one_line_which_the_request_makes_longer(
    stairs: tuple[Level, ...], ttft_s_max: float, added_s: float, age_s: float, sent_s: float
) -> None:
    own = [level for level in stairs if level.ttft_s_max >= ttft_s_max] or list(stairs[-1:])
    prices = [
        level.bid.price_usd(max(0.0, level.wait_s - age_s) + sent_s, added_s) for level in own if level.bid is not None
    ]
    assert price_usd(stairs, ttft_s_max, added_s, age_s, sent_s) == max(prices, default=0.0)


@pytest.mark.parametrize(("ttft_s_max", "wait_s"), [(0.5, 0.2), (1.0, 0.2), (2.0, 2.0), (60.0, 9.0), (1e9, 9.0)])
def test_a_request_waits_in_the_line_of_its_objective(ttft_s_max: float, wait_s: float) -> None:
    assert pool(levels=STAIRS).wait_s(ttft_s_max) == wait_s
    assert pool(levels=STAIRS).wait_s(ttft_s_max, age_s=1.0, sent_s=0.5) == max(0.0, wait_s - 1.0) + 0.5


def test_a_pool_without_lines_makes_nobody_wait_but_for_what_was_sent_there() -> None:
    assert pool().wait_s(1.0, age_s=3.0) == 0.0
    assert pool().wait_s(1.0, age_s=3.0, sent_s=0.5) == 0.5


def test_a_gate_sees_what_others_send_so_only_this_gateways_own_work_is_added() -> None:
    assert pool(admitted_per_s=100.0).joined_s(0.7, 5.0) == 0.7


@pytest.mark.parametrize(
    ("admitted_per_s", "age_s", "joined_s"),
    [
        (3.0, 0.0, 0.7),  # fresh news needs no forecast
        (3.0, -1.0, 0.7),
        (3.0, 2.0, 3.0),  # three replica-seconds a second for two replicas: one and a half of wait a second
        (2.0, 2.0, 2.0),  # the line stays as long: it drains by these two seconds
        (0.5, 2.0, 0.7),  # this gateway alone has sent more than all usually do
    ],
)
def test_without_a_gate_what_all_gateways_send_is_forecast_and_is_no_less_than_this_ones_own(
    admitted_per_s: float, age_s: float, joined_s: float
) -> None:
    seen = pool(gated=False, admitted_per_s=admitted_per_s)
    assert seen.joined_s(0.7, age_s) == pytest.approx(joined_s)


def test_a_pool_without_replicas_has_no_forecast() -> None:
    assert replace(pool(gated=False, admitted_per_s=9.0), replicas=0).joined_s(0.7, 5.0) == 0.7


# ---- earliest deadline first ---------------------------------------------------------------------------------------


@given(levels(), st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3))
def test_those_who_overtake_make_a_wait_longer_by_no_more_than_may_overtake(
    stairs: tuple[Level, ...], shares: list[float]
) -> None:
    busy = tuple(level._replace(load=load) for level, load in zip(stairs, shares, strict=False))
    for i, level in enumerate(busy):
        most_s = sum(fast.load * (level.ttft_s_max - fast.ttft_s_max) for fast in busy[:i])
        assert overtaken_s(stairs, i) == level.wait_s
        assert level.wait_s <= overtaken_s(busy, i) <= (level.wait_s + most_s) * (1 + 1e-12)


def test_a_long_wait_is_overtaken_by_all_who_come_until_its_deadline_is_the_next() -> None:
    stairs = (Level(1.0, 0.0, load=0.25), Level(5.0, 4.5))
    assert overtaken_s(stairs, 1) == pytest.approx(4.5 + 0.25 * 4.0)
    assert overtaken_s((stairs[0], Level(5.0, 1.5)), 1) == pytest.approx(2.0, rel=1e-3)  # w = 1.5 + w / 4
    assert overtaken_s(stairs, 0) == 0.0


@pytest.mark.parametrize(
    ("shares", "wait_s", "expected_s"),
    [
        ((0.9,), 0.3, 3.0),  # w = 0.3 + 0.9 w: many come between, none of them for long
        ((0.9,), 0.5, 0.5 + 0.9 * 4.0),  # beyond 4 s nobody overtakes any more
        ((0.4, 0.4), 0.4, 2.0),  # w = 0.4 + 0.8 w
        ((0.4, 0.4), 1.0, (1.0 + 0.4 * 3.0) / 0.6),  # of the second class only those of the next 3 s
        ((0.5, 0.5), 4.0, 4.0 + 0.5 * 4.0 + 0.5 * 3.0),
    ],
)
def test_those_who_overtake_those_who_overtake_count_as_well(
    shares: tuple[float, ...], wait_s: float, expected_s: float
) -> None:
    fast = tuple(Level(limit_s, 0.0, load=load) for limit_s, load in zip((1.0, 2.0), shares, strict=False))
    found_s = overtaken_s((*fast, Level(5.0, wait_s)), len(fast))
    assert found_s <= expected_s + 1e-9
    assert found_s == pytest.approx(expected_s, rel=0.02)  # nearly: after some rounds the rest is left


@pytest.mark.parametrize(("load", "room"), [(0.0, 4.5), (0.25, 3.5), (0.5, 2.5), (1.0, 0.9), (3.0, 0.9)])
def test_the_room_of_a_line_is_what_faster_ones_leave_and_never_less_than_the_fastest_has(
    load: float, room: float
) -> None:
    assert room_s((Level(1.0, 0.0, load=load), Level(5.0, 0.0)), 1, 0.9) == pytest.approx(room)
    assert room_s((Level(1.0, 0.0, load=load), Level(5.0, 0.0)), 0, 0.9) == pytest.approx(0.9)
