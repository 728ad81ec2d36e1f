"""The tariff at an instant, against a slow oracle that looks at the wall clock minute by minute."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pricing.listing import CarbonIntensity, PowerPrice, Step
from pricing.tariff import check, grams_per_kwh_at, mean_usd_per_kwh, tariff_at
from scheduler.config.prices import DayAhead, Electricity, Period, TimeOfUse

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
HOUR_S = 3600.0
# Wraps midnight and the week's end, touches the hours that Berlin and New York skip and repeat, overlaps, odd minutes.
AWKWARD = (
    Period(days=("sat", "sun"), hours="22:30-02:17", usd_per_kwh=0.11),
    Period(days=("mon", "tue", "wed", "thu", "fri"), hours="08:00-20:00", usd_per_kwh=0.40),
    Period(days=("sun",), hours="01:30-02:45", usd_per_kwh=0.05),
    Period(hours="22:00-06:00", usd_per_kwh=0.20),
    Period(days=("wed",), hours="00:00-24:00", usd_per_kwh=0.33),
)


def utc(text: str) -> float:
    """Unix seconds of an instant in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def by_clock(zone: str, *periods: Period, otherwise: float = 0.30) -> Electricity:
    """A time-of-use tariff."""
    return Electricity(time_of_use=TimeOfUse(timezone=zone, usd_per_kwh=otherwise, periods=periods))


def follows(fallback: float | None = None, surcharge: float = 0.12) -> Electricity:
    """A day-ahead tariff."""
    market = DayAhead(feed="smard", product="DE-LU", surcharge_usd_per_kwh=surcharge, fallback_usd_per_kwh=fallback)
    return Electricity(day_ahead=market)


def hours(*values: float | None, start_s: float = 0.0) -> PowerPrice:
    """One price an hour; None is a gap."""
    starts = [start_s + HOUR_S * i for i in range(len(values))]
    return PowerPrice(
        tuple(Step(at, at + HOUR_S, value) for at, value in zip(starts, values, strict=True) if value is not None)
    )


def oracle(tou: TimeOfUse, local: datetime) -> Period | None:
    """The period that a person would read off the wall clock and the calendar."""
    clock, today = local.strftime("%H:%M"), DAYS[local.weekday()]
    yesterday = DAYS[local.weekday() - 1]
    for period in tou.periods:
        start, end = period.hours.split("-")
        if start < end:
            if today in period.days and start <= clock < end:
                return period
        elif (today in period.days and clock >= start) or (yesterday in period.days and clock < end):
            return period
    return None


def walked(electricity: Electricity, start_s: float, end_s: float) -> list[tuple[float, float]]:
    """(from when, price) of every stretch between two instants, going from one ``until_s`` to the next."""
    stretches, at_s = [], start_s
    while at_s < end_s:
        tariff = tariff_at(electricity, None, at_s)
        assert tariff is not None and tariff.until_s > at_s
        stretches.append((at_s, tariff.usd_per_kwh))
        at_s = tariff.until_s
    return stretches


@pytest.mark.parametrize(
    ("zone", "year"), [("Europe/Berlin", 2025), ("America/New_York", 2024), ("Australia/Lord_Howe", 2023)]
)
def test_a_year_by_the_clock_is_what_every_single_minute_of_it_says(zone: str, year: int) -> None:
    """No stretch begins a minute early or late, neither when the clock is put forward nor when it is put back."""
    electricity, local = by_clock(zone, *AWKWARD), ZoneInfo(zone)
    assert electricity.time_of_use is not None
    start_s, end_s = utc(f"{year}-01-01T00:00"), utc(f"{year + 1}-01-01T00:00")
    by_minute: list[tuple[float, float]] = []
    for at_s in range(int(start_s), int(end_s), 60):
        held = oracle(electricity.time_of_use, datetime.fromtimestamp(at_s, local))
        price = held.usd_per_kwh if held is not None else 0.30
        if not by_minute or by_minute[-1][1] != price:
            by_minute.append((float(at_s), price))
    assert walked(electricity, start_s, end_s) == by_minute


days = st.lists(st.sampled_from(DAYS), min_size=1, max_size=7).map(tuple)
clock = st.integers(0, 24 * 60 - 1).map(lambda m: f"{m // 60:02d}:{m % 60:02d}")
spans = st.tuples(clock, clock | st.just("24:00")).map("-".join)
periods = st.builds(Period, days=days, hours=spans, usd_per_kwh=st.sampled_from([0.1, 0.2, 0.3]))
zones = st.sampled_from(
    ["Europe/Berlin", "America/New_York", "UTC", "America/Havana", "Asia/Kathmandu", "Pacific/Apia", "America/Nuuk"]
)
instants = st.floats(utc("2010-01-01T00:00"), utc("2037-01-01T00:00"))


@given(st.lists(periods, min_size=1, max_size=5), zones, instants, st.floats(0, 1, exclude_max=True))
@example([Period(hours="00:00-24:00", usd_per_kwh=0.1)], "UTC", 1e9, 0.5)
@example([Period(days=("sun",), hours="02:00-03:00", usd_per_kwh=0.1)], "Europe/Berlin", utc("2025-03-24T00:00"), 0.9)
@example([Period(days=("fri",), hours="10:00-11:00", usd_per_kwh=0.1)], "Pacific/Apia", utc("2011-12-25T00:00"), 0.9)
@settings(deadline=None, max_examples=300)
def test_every_instant_has_one_tariff_that_holds_until_exactly_when_it_says(
    some: list[Period], zone: str, now_s: float, share: float
) -> None:
    """It equals the oracle's now, anywhere before ``until_s``, and another period holds from then on."""
    electricity, local = by_clock(zone, *some, otherwise=0.9), ZoneInfo(zone)
    tou = electricity.time_of_use
    tariff = tariff_at(electricity, None, now_s)
    assert tariff is not None and tou is not None
    held = oracle(tou, datetime.fromtimestamp(math.floor(now_s), local))
    assert tariff.usd_per_kwh == (held.usd_per_kwh if held is not None else 0.9)
    assert tariff.until_s > now_s
    horizon_s = min(tariff.until_s, now_s + 30 * 86_400)
    within_s = min(now_s + share * (horizon_s - now_s), math.nextafter(horizon_s, 0.0))
    later = tariff_at(electricity, None, within_s)
    assert later is not None and later[:3] == tariff[:3]
    if math.isfinite(tariff.until_s):
        assert oracle(tou, datetime.fromtimestamp(tariff.until_s, local)) is not held


@pytest.mark.parametrize(
    ("at", "price", "until"),
    [
        ("2025-03-30T00:59", 0.30, "2025-03-30T01:00"),  # 01:59 in Berlin; a minute later it is 03:00
        ("2025-03-30T01:00", 0.10, "2025-03-30T02:00"),
        ("2025-10-25T23:59", 0.30, "2025-10-26T00:30"),  # 01:59 in summer time
        ("2025-10-26T00:30", 0.10, "2025-10-26T01:00"),  # 02:30, until the clock goes back to 02:00
        ("2025-10-26T01:00", 0.30, "2025-10-26T01:30"),
        ("2025-10-26T01:30", 0.10, "2025-10-26T03:00"),  # 02:30 for the second time
    ],
)
def test_hours_that_the_clock_skips_or_repeats_go_by_what_it_shows(at: str, price: float, until: str) -> None:
    """02:30-04:00: an hour shorter in March, twice its first half hour in October."""
    electricity = by_clock("Europe/Berlin", Period(hours="02:30-04:00", usd_per_kwh=0.10))
    tariff = tariff_at(electricity, None, utc(at))
    assert tariff is not None and (tariff.usd_per_kwh, tariff.until_s) == (price, utc(until))


def test_a_clock_put_forward_over_midnight_does_not_hide_the_edges_behind_it() -> None:
    """Pyongyang, 2018-05-04: 23:30 was followed by 00:00, so that a quarter to twelve never came."""
    late, later = Period(hours="22:00-00:05", usd_per_kwh=0.10), Period(hours="23:45-23:50", usd_per_kwh=0.20)
    tariff = tariff_at(by_clock("Asia/Pyongyang", late, later), None, utc("2018-05-04T14:00"))
    assert tariff is not None and tariff.until_s == utc("2018-05-04T15:05")


def test_the_last_moment_before_a_change_still_has_the_old_price() -> None:
    """The float next below a full hour is nearer to it than the microsecond that datetime rounds to."""
    electricity, change_s = by_clock("UTC", Period(hours="08:00-20:00", usd_per_kwh=0.50)), utc("2025-06-02T08:00")
    tariff = tariff_at(electricity, None, math.nextafter(change_s, 0.0))
    assert tariff is not None and (tariff.usd_per_kwh, tariff.until_s) == (0.30, change_s)


def test_a_period_on_sunday_night_reaches_into_monday() -> None:
    """Days name the day on which a period starts, across the week's end as well."""
    electricity = by_clock("UTC", Period(days=("sun",), hours="22:00-06:00", usd_per_kwh=0.10))
    monday, tuesday = utc("2025-06-02T05:59"), utc("2025-06-03T05:59")
    prices = [tariff.usd_per_kwh for at in (monday, tuesday) if (tariff := tariff_at(electricity, None, at))]
    assert prices == [0.10, 0.30]


def test_the_first_period_that_holds_wins_and_the_label_names_it() -> None:
    """As cluster.yaml documents."""
    electricity = by_clock(
        "UTC",
        Period(days=("mon", "tue", "wed", "fri"), hours="08:00-20:00", usd_per_kwh=0.50),
        Period(hours="00:00-12:00", usd_per_kwh=0.10),
    )
    at_nine, at_one = (
        tariff_at(electricity, None, utc("2025-06-02T09:00")),
        tariff_at(electricity, None, utc("2025-06-02T01:00")),
    )
    late = tariff_at(electricity, None, utc("2025-06-02T21:00"))
    assert at_nine is not None and at_one is not None and late is not None
    assert (at_nine.usd_per_kwh, at_nine.label) == (0.50, "time of use: mon-wed,fri 08:00-20:00")
    assert (at_one.usd_per_kwh, at_one.label) == (0.10, "time of use: mon-sun 00:00-12:00")
    assert (late.usd_per_kwh, late.label) == (0.30, "time of use: outside all periods")


def test_a_flat_price_holds_for_ever_and_an_explicit_zero_is_a_price() -> None:
    """Own solar power may be written as free; it is not the same as unknown."""
    assert tariff_at(Electricity(usd_per_kwh=0.0), None, 5.0) == (0.0, "flat", math.inf, 5.0)


def test_the_market_price_is_taken_with_its_surcharge_even_where_it_is_negative() -> None:
    """What a negative price means for dispatch is decided elsewhere."""
    tariff = tariff_at(follows(), hours(0.05, -0.50), 3700.0, observed_s=3600.0)
    assert tariff == (pytest.approx(-0.38), "day-ahead smard/DE-LU + 0.12", 7200.0, 3600.0)
    bare = tariff_at(follows(surcharge=0.0), hours(0.05), 0.0)
    assert bare == (0.05, "day-ahead smard/DE-LU", 3600.0, 0.0)


@pytest.mark.parametrize(
    ("power", "now_s", "label", "until_s"),
    [
        (None, 10.0, "fallback: feed smard silent", math.inf),
        (PowerPrice(()), 10.0, "fallback: feed smard silent", math.inf),
        (hours(0.1, None, 0.1), 3600.0, "fallback: feed smard silent since 1970-01-01T01:00Z", 7200.0),
        (hours(0.1, None, 0.1), 10_800.0, "fallback: feed smard silent since 1970-01-01T03:00Z", math.inf),
        (hours(0.1, start_s=7200.0), 10.0, "fallback: feed smard silent", 7200.0),
    ],
)
def test_a_gap_of_the_feed_has_the_declared_fallback_or_no_price_at_all(
    power: PowerPrice | None, now_s: float, label: str, until_s: float
) -> None:
    """The fallback is all in: no surcharge comes on top. The hours next to a gap are not stretched into it."""
    assert tariff_at(follows(fallback=0.31), power, now_s, observed_s=1.0) == (0.31, label, until_s, now_s)
    assert tariff_at(follows(), power, now_s) is None


@given(st.lists(st.none() | st.floats(-0.5, 5.0), max_size=12), st.floats(0, 12 * HOUR_S), st.floats(0, 12 * HOUR_S))
def test_a_mean_over_a_window_is_the_sum_over_its_seconds(
    values: list[float | None], one_s: float, other_s: float
) -> None:
    """Oracle: overlap of the window with every hour. An hour without a price leaves the whole window without one."""
    start_s, end_s = min(one_s, other_s), max(one_s, other_s)
    mean = mean_usd_per_kwh(follows(), hours(*values), start_s, end_s)
    touched = [i for i in range(13) if (i * HOUR_S < end_s or i * HOUR_S <= start_s) and (i + 1) * HOUR_S > start_s]
    known = [(i, values[i]) for i in touched if i < len(values)]
    if len(known) < len(touched) or any(value is None for _, value in known):
        assert mean is None
        return
    parts = [(min(end_s, (i + 1) * HOUR_S) - max(start_s, i * HOUR_S), value) for i, value in known]
    whole_s = end_s - start_s
    expected = sum(s * v for s, v in parts if v is not None) / whole_s if whole_s > 1e-6 else known[0][1]
    assert mean == pytest.approx((expected or 0.0) + 0.12, abs=1e-6)


def test_a_mean_by_the_clock_weighs_each_period_by_its_hours() -> None:
    """A Berlin day of 25 hours: 12 dear ones, 13 cheap ones."""
    electricity = by_clock("Europe/Berlin", Period(hours="08:00-20:00", usd_per_kwh=0.50), otherwise=0.25)
    mean = mean_usd_per_kwh(electricity, None, utc("2025-10-25T22:00"), utc("2025-10-26T23:00"))
    assert mean == pytest.approx((12 * 0.50 + 13 * 0.25) / 25)
    with pytest.raises(ValueError, match="before it starts"):
        mean_usd_per_kwh(electricity, None, 1.0, 0.0)


def test_carbon_is_what_the_feed_says_of_this_instant_and_unknown_otherwise() -> None:
    """Never the last value held on, and never zero."""
    carbon = CarbonIntensity((Step(0.0, 1800.0, 120.0), Step(3600.0, 5400.0, 80.0)))
    assert [grams_per_kwh_at(carbon, at) for at in (-1.0, 0.0, 1799.0, 1800.0, 3600.0, 5400.0)] == [
        None, 120.0, 120.0, None, 80.0, None,
    ]  # fmt: skip
    assert grams_per_kwh_at(None, 0.0) is None


@pytest.mark.parametrize("zone", ["Europe/Berlim", "Europe", "../etc/passwd", "/etc/localtime", "a\0b"])
def test_a_timezone_that_does_not_exist_is_found_before_it_is_needed(zone: str) -> None:
    """`baseload check` says so; asking for the tariff all the same raises instead of guessing UTC."""
    electricity = by_clock(zone, *AWKWARD)
    assert check(electricity) == [f"time_of_use.timezone: there is no timezone {zone!r}"]
    with pytest.raises(ValueError, match="no timezone"):
        tariff_at(electricity, None, 0.0)


@pytest.mark.parametrize(
    "electricity", [by_clock("America/Sao_Paulo", *AWKWARD), Electricity(usd_per_kwh=0.1), follows()]
)
def test_a_sound_section_has_no_problems(electricity: Electricity) -> None:
    """Nothing to report."""
    assert check(electricity) == []
