"""What a bought model costs at this moment: whose price counts, in which hours, and until when."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing import bought
from pricing.book import Entry, Held
from pricing.bought import Entries, Found
from pricing.listing import TokenPrice, Window
from scheduler.config.supply import Price, ProviderModel
from scheduler.core.supply import Rate, Tier, Usage
from tests.pricing.desk_cases import NOW_S, TTL_S, config
from tests.pricing.price_strategies import gpu, tokens
from tests.support.sites import CURVE

MINUTE_S, DAY_S = 60, 86_400
CONFIG = config()
SERVED = CONFIG.providers[0].models[0]  # bought at what a or b say
RATE = Rate(1e-6, 1e-6, 1e-6)


WEEK = 7 * 1440


def week_of(window: Window) -> list[bool]:
    """For every minute of a week from Monday on whether the window holds, painted one minute at a time."""
    held = [False] * WEEK
    for day in window.days or range(1, 8):
        minute = (day - 1) * 1440 + window.start_s // MINUTE_S
        while True:
            held[minute % WEEK] = True
            minute += 1
            if minute % 1440 == window.end_s // MINUTE_S % 1440:
                break
    return held


def first_held(weeks: list[list[bool]], at: int) -> int | None:
    """Index of the first window that holds in minute ``at`` of the epoch, by the calendar."""
    moment = datetime.fromtimestamp(at * MINUTE_S, UTC)
    minute = moment.weekday() * 1440 + moment.hour * 60 + moment.minute
    return next((i for i, held in enumerate(weeks) if held[minute]), None)


minutes = st.sampled_from([0, 1, 59, 360, 720, 990, 1380, 1439])
days = st.sets(st.integers(1, 7), max_size=3).map(lambda drawn: tuple(sorted(drawn)))
windows = st.builds(
    lambda start, end, on: Window(start * MINUTE_S, end * MINUTE_S, {"standard": RATE}, on),
    minutes,
    minutes | st.just(1440),
    days,
)


@settings(deadline=None)
@given(st.lists(windows, max_size=4).map(tuple), st.integers(28_000_000, 28_000_000 + WEEK), st.floats(0, 59.9))
def test_the_first_window_that_holds_an_instant_wins_and_nothing_changes_before_the_time_that_is_told(
    drawn: tuple[Window, ...], at: int, seconds: float
) -> None:
    drawn = tuple(msgspec.structs.replace(w, rates={"standard": Rate(i, 0, 0)}) for i, w in enumerate(drawn))
    weeks = [week_of(window) for window in drawn]
    window, until_s = bought.window_at(TokenPrice({"standard": RATE}, drawn), at * MINUTE_S + seconds)
    expected = first_held(weeks, at)
    assert window == (None if expected is None else drawn[expected])
    assert until_s > at * MINUTE_S + seconds
    if not drawn:
        assert until_s == math.inf
        return
    until = int(until_s) // MINUTE_S
    assert all(first_held(weeks, minute) == expected for minute in range(at, until))
    edges = {edge // MINUTE_S % 1440 for w in drawn for edge in (w.start_s, w.end_s)}
    assert until_s % MINUTE_S == 0
    assert until % 1440 in edges
    assert until - at <= WEEK


def entries(*known: Entry) -> Entries:
    return {(entry.feed, entry.product): entry for entry in known}


def entry(feed: str, usd_per_mtok: float, age_s: float = 0.0, **fields: Any) -> Entry:
    seen_s = NOW_S - age_s
    return msgspec.structs.replace(Entry(feed, "m", tokens(usd_per_mtok), seen_s, seen_s), **fields)


def find(*known: Entry, now_s: float = NOW_S) -> Found | str:
    return bought.find(CONFIG, SERVED, entries(*known), now_s)


def test_the_first_source_with_a_good_price_counts_and_the_others_are_compared_with_it() -> None:
    found = find(entry("a", 2.0, age_s=100.0), entry("b", 2.1))
    assert isinstance(found, Found)
    assert (found.price, found.source, found.observed_s) == (tokens(2.0), "a: m", NOW_S - 100.0)
    assert found.expires_s == NOW_S - 100.0 + TTL_S
    (other,) = found.others
    assert (other.source, other.agrees, other.note) == ("b: m", True, "")
    assert other.ratio == pytest.approx(1.05)
    assert other.blended_usd_per_mtok == pytest.approx(2.1 * 0.75 + 6.3 * 0.25)


def test_a_source_that_disagrees_or_is_free_is_said_to() -> None:
    found = find(entry("a", 2.0), entry("b", 5.0))
    assert isinstance(found, Found)
    assert (found.others[0].agrees, found.others[0].note) == (False, "a part differs 2.5-fold")
    found = find(entry("a", 2.0), entry("b", 0.0))
    assert isinstance(found, Found)
    assert (found.others[0].agrees, found.others[0].note) == (False, "a part is free there")
    found = find(entry("a", 0.0), entry("b", 1.0))
    assert isinstance(found, Found)
    assert found.others[0].ratio is None


@pytest.mark.parametrize(
    ("unusable", "why"),
    [
        (None, "not heard of yet"),
        (entry("a", 1.0, age_s=TTL_S), "last seen 1.0 h ago, believed for 1.0 h"),
        (Entry("a", "m"), "no price"),
        (Entry("a", "m", refused="usd_per_input is nan"), "usd_per_input is nan"),
        (Entry("a", "m", held=Held(tokens(0.0), "free at first sight", 0, 1, True)), "free at first sight"),
        (Entry("a", "m", gpu(1.0), NOW_S, NOW_S), "no price of tokens"),
    ],
)
def test_without_a_good_price_the_next_source_counts_and_without_any_there_is_a_reason_and_no_default(
    unusable: Entry | None, why: str
) -> None:
    known = [unusable] if unusable is not None else []
    found = find(*known, entry("b", 3.0))
    assert isinstance(found, Found)
    assert found.source == "b: m"
    assert why in found.others[0].note
    reason = find(*known)
    assert isinstance(reason, str)
    assert why in reason
    assert "b: m: not heard of yet" in reason


def test_a_price_lives_to_the_last_moment_of_its_time_and_not_one_longer() -> None:
    assert isinstance(find(entry("a", 1.0), now_s=NOW_S + TTL_S - 0.001), Found)
    assert isinstance(find(entry("a", 1.0), now_s=NOW_S + TTL_S), str)


def test_a_price_in_quarantine_leaves_the_good_one_in_use() -> None:
    found = find(entry("a", 1.0, held=Held(tokens(900.0), "changed 900-fold", NOW_S, 1, True)))
    assert isinstance(found, Found)
    assert found.price == tokens(1.0)


def found_of(price: TokenPrice) -> Found:
    return Found(price, "source", NOW_S, NOW_S + TTL_S)


def test_a_model_that_its_provider_has_ended_has_no_price_and_expires_with_it() -> None:
    ending = tokens(1.0, deprecated_s=NOW_S + 100.0)
    rated = bought.rate_now(found_of(ending), "standard", NOW_S)
    assert not isinstance(rated, str)
    assert rated.expires_s == NOW_S + 100.0 + bought.GRACE_S
    for deprecated_s in (NOW_S, 0.0):
        reason = bought.rate_now(found_of(tokens(1.0, deprecated_s=deprecated_s)), "standard", NOW_S)
        assert isinstance(reason, str)
        assert "ended" in reason


def test_a_service_tier_without_a_price_cannot_be_bought_and_off_peak_hours_leave_alone_what_they_do_not_name() -> None:
    flex = Rate(5e-7, 5e-7, 1e-6)
    half = Rate(5e-7, 5e-7, 5e-7)
    price = TokenPrice({"standard": RATE, "flex": flex})
    rated = bought.rate_now(found_of(price), "flex", NOW_S)
    assert not isinstance(rated, str)
    assert (rated.rate, rated.off_peak) == (flex, False)
    assert "'priority'" in str(bought.rate_now(found_of(price), "priority", NOW_S))
    cheaper = msgspec.structs.replace(price, off_peak=(Window(0, DAY_S, {"standard": half}),))
    rates = [bought.rate_now(found_of(cheaper), tier, NOW_S) for tier in ("standard", "flex")]
    assert [found.rate for found in rates if not isinstance(found, str)] == [half, flex]


def test_a_rate_expires_a_moment_after_the_hours_that_it_belongs_to() -> None:
    day_s = NOW_S // DAY_S * DAY_S
    cheap = Rate(1e-7, 1e-7, 1e-7)
    price = TokenPrice({"standard": RATE}, (Window(59_400, 1_800, {"standard": cheap}),))
    expected = [(59_399, RATE, 59_400, False), (59_400, cheap, 88_200, True), (1_799, cheap, 1_800, True)]
    for second, rate, ends_s, off_peak in expected:
        found = Found(price, "source", day_s, day_s + 10 * DAY_S)
        rated = bought.rate_now(found, "standard", day_s + second)
        assert rated == (rate, day_s + ends_s + bought.GRACE_S, off_peak)


OWN = {
    "input": 2.0,
    "output": 10.0,
    "cached": 0.5,
    "cache_write": 2.5,
    "reasoning": 20.0,
    "usd_per_request": 0.02,
    "usd_per_search": 0.01,
    "tiers": [
        {"input_tokens_above": 200_000, "input": 4.0, "output": 15.0},
        {"input_tokens_above": 50, "input": 3, "output": 11, "cached": 0},
    ],
    "off_peak_pricing": [{"hours_utc": "22:30-06:00", "factor": 0.5}],
}


def test_ones_own_price_is_per_million_tokens_with_tiers_in_order_and_what_is_missing_billed_as_its_whole() -> None:
    price = bought.own_price(Price.model_validate(OWN))
    rate = price.rates["standard"]
    assert price.rates == dict.fromkeys(("standard", "flex", "priority"), rate)
    assert rate == Rate(
        2e-6,
        5e-7,
        1e-5,
        0.02,
        (Tier(50, 3e-6, 0.0, 1.1e-5), Tier(200_000, 4e-6, 4e-6, 1.5e-5)),
        usd_per_cache_write=2.5e-6,
        usd_per_reasoning=2e-5,
        usd_per_search=0.01,
    )
    bill = rate.usd(Usage(300_000, 100_000, 1_000, cache_write_tokens=50_000, reasoning_tokens=500, searches=2))
    assert bill == pytest.approx(0.02 + 0.3 * 4.0 + 0.001 * 15.0 + 2 * 0.01)


def test_ones_own_off_peak_hours_scale_every_part_of_the_price() -> None:
    price = bought.own_price(Price.model_validate(OWN))
    (window,) = price.off_peak
    assert (window.start_s, window.end_s, window.days) == (81_000, 21_600, ())
    usage = Usage(300_000, 100_000, 1_000, 50_000, 10, 500, 2)
    for tier in ("standard", "flex", "priority"):
        assert window.rates[tier].usd(usage) == pytest.approx(0.5 * price.rates[tier].usd(usage))  # type: ignore[index]


def test_ones_own_price_never_ages_but_is_told_anew_within_the_policys_time_to_live() -> None:
    served = ProviderModel.model_validate({"model": "large", "upstream": "up", "price": OWN, "curve": CURVE})
    found = bought.find(CONFIG, served, {}, NOW_S)
    assert isinstance(found, Found)
    assert (found.source, found.observed_s) == ("cluster.yaml", NOW_S)
    assert found.expires_s == NOW_S + CONFIG.policy.price_ttl_s
    assert bought.keys(CONFIG, served) == []


def test_litellms_own_map_counts_where_no_feed_brings_a_newer_one() -> None:
    served = ProviderModel.model_validate({"model": "large", "upstream": "gpt-4o", "price": "litellm", "curve": CURVE})
    found = bought.find(CONFIG, served, {}, NOW_S)
    assert isinstance(found, Found)
    assert "(bundled)" in found.source
    newer = config(
        feeds=[{"name": name, "kind": "litellm-map" if name == "a" else "static"} for name in "ab"]
        + [{"name": "alone", "kind": "static"}]
    )
    assert bought.keys(newer, served) == [("a", "gpt-4o")]
    assert bought.find(newer, served, {}, NOW_S) == "a: gpt-4o: not heard of yet"
    known = Entry("a", "gpt-4o", tokens(7.0), NOW_S, NOW_S)
    found = bought.find(newer, served, entries(known), NOW_S)
    assert isinstance(found, Found)
    assert (found.price, found.source) == (tokens(7.0), "a: gpt-4o")


def test_hours_of_one_day_that_have_passed_are_waited_for_until_next_week() -> None:
    monday_s = 4 * DAY_S
    price = TokenPrice({"standard": RATE}, (Window(3600, 7200, {"standard": RATE}, (1,)),))
    assert bought.window_at(price, monday_s + 7200) == (None, monday_s + 7 * DAY_S + 3600)
