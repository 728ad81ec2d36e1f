"""What a kWh costs at a site, and the carbon in it, at an instant: pure, from cluster.yaml and what the feeds have listed.

A tariff is flat, goes by the local clock (time of use), or follows the day-ahead market plus a surcharge; the last may be
negative and is given as it is. A local time that a change to winter time repeats has its price both times; one that a change
to summer time skips never comes.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple, get_args
from zoneinfo import ZoneInfo

from pricing.listing import CarbonIntensity, PowerPrice, Step
from scheduler.config.prices import DayAhead, Electricity, Period, TimeOfUse, Weekday

_WEEKDAYS: tuple[str, ...] = get_args(Weekday)
_DAY_MIN = 24 * 60
# A weekly period that a change of the clock skips comes back after a fortnight; what has not changed by then never will.
_DAYS_AHEAD = 21


class Tariff(NamedTuple):
    """``usd_per_kwh`` holds from now until ``until_s`` (infinity: as long as cluster.yaml says so).

    ``observed_s``: when the price was last seen, which is now for one that is written in cluster.yaml.
    """

    usd_per_kwh: float
    label: str
    until_s: float
    observed_s: float


def tariff_at(
    electricity: Electricity, power: PowerPrice | None, now_s: float, observed_s: float | None = None
) -> Tariff | None:
    """The tariff at ``now_s``. None: its feed has no price for this instant and no fallback is declared.

    ``power`` is what the feed of ``day_ahead`` lists, ``observed_s`` when it was seen. Raises ValueError for a timezone
    that does not exist.
    """
    if electricity.day_ahead is not None:
        return _day_ahead(electricity.day_ahead, power, now_s, now_s if observed_s is None else observed_s)
    if electricity.time_of_use is not None:
        return _time_of_use(electricity.time_of_use, now_s)
    if electricity.usd_per_kwh is None:
        return None
    return Tariff(electricity.usd_per_kwh, "flat", math.inf, now_s)


def grams_per_kwh_at(carbon: CarbonIntensity | None, now_s: float) -> float | None:
    """Grams of CO2 equivalent per kWh drawn at ``now_s``; None where nobody says."""
    held = None if carbon is None else _step_at(carbon.steps, now_s)
    return None if held is None else held.value


def mean_usd_per_kwh(electricity: Electricity, power: PowerPrice | None, start_s: float, end_s: float) -> float | None:
    """Mean over [start_s, end_s), weighted by time; None where any part of it has no known price.

    An empty window has the price of its instant. Raises ValueError where ``end_s`` comes before ``start_s``.
    """
    if end_s < start_s:
        raise ValueError("a window ends before it starts")
    weighted, at_s = 0.0, start_s
    while tariff := tariff_at(electricity, power, at_s):
        if tariff.until_s >= end_s:
            whole_s = end_s - start_s
            return (weighted + tariff.usd_per_kwh * (end_s - at_s)) / whole_s if at_s > start_s else tariff.usd_per_kwh
        weighted += tariff.usd_per_kwh * (tariff.until_s - at_s)
        at_s = tariff.until_s
    return None


def check(electricity: Electricity) -> list[str]:
    """What is wrong with the section and shows only on this machine: a timezone that its database does not know."""
    if electricity.time_of_use is None:
        return []
    try:
        _zone(electricity.time_of_use.timezone)
    except ValueError as error:
        return [f"time_of_use.timezone: {error}"]
    return []


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown, not a key at all, and the name of a folder of zones
        raise ValueError(f"there is no timezone {name!r}") from None


def _step_at(steps: tuple[Step, ...], now_s: float) -> Step | None:
    i = bisect_right(steps, now_s, key=lambda step: step.start_s) - 1
    return steps[i] if i >= 0 and now_s < steps[i].end_s else None


def _day_ahead(market: DayAhead, power: PowerPrice | None, now_s: float, observed_s: float) -> Tariff | None:
    steps = power.steps if power is not None else ()
    held = _step_at(steps, now_s)
    if held is not None:
        surcharge = market.surcharge_usd_per_kwh
        label = f"day-ahead {market.feed}/{market.product}" + (f" + {surcharge:g}" if surcharge else "")
        return Tariff(held.value + surcharge, label, held.end_s, observed_s)
    if market.fallback_usd_per_kwh is None:
        return None
    next_i = bisect_right(steps, now_s, key=lambda step: step.start_s)
    since = f" since {datetime.fromtimestamp(steps[next_i - 1].end_s, UTC):%Y-%m-%dT%H:%MZ}" if next_i else ""
    until_s = steps[next_i].start_s if next_i < len(steps) else math.inf
    return Tariff(market.fallback_usd_per_kwh, f"fallback: feed {market.feed} silent{since}", until_s, now_s)


def _time_of_use(tariff: TimeOfUse, now_s: float) -> Tariff:
    zone, week = _zone(tariff.timezone), _week(tariff)
    held = _held(week, zone, now_s)
    until_s = next((at_s for at_s in _edges_s(tariff, zone, now_s) if _held(week, zone, at_s) != held), math.inf)
    if held < 0:
        return Tariff(tariff.usd_per_kwh, "time of use: outside all periods", until_s, now_s)
    period = tariff.periods[held]
    return Tariff(period.usd_per_kwh, f"time of use: {_days(period)} {period.hours}", until_s, now_s)


def _minutes(period: Period) -> tuple[int, int]:
    """Start and end in minutes of the local day; a period that wraps ends no later than it starts."""
    (start_h, start_min), (end_h, end_min) = (hours.split(":") for hours in period.hours.split("-"))
    return int(start_h) * 60 + int(start_min), int(end_h) * 60 + int(end_min)


@lru_cache(maxsize=64)
def _week(tariff: TimeOfUse) -> bytes:
    """For each minute of a local week from Monday on, one more than the index of the period that holds, or 0."""
    week = bytearray(7 * _DAY_MIN)
    for index in reversed(range(len(tariff.periods))):  # so that the first one has the last word
        period = tariff.periods[index]
        start, end = _minutes(period)
        for day in period.days:
            first = _WEEKDAYS.index(day) * _DAY_MIN + start
            for minute in range(first, first + end - start + (0 if start < end else _DAY_MIN)):
                week[minute % len(week)] = index + 1
    return bytes(week)


def _held(week: bytes, zone: ZoneInfo, at_s: float) -> int:
    """Index of the period that holds at an instant, -1 outside all of them."""
    # Rounded down: a float a microsecond before the full hour must not be read as the hour.
    local = datetime.fromtimestamp(math.floor(at_s), zone)
    return week[local.weekday() * _DAY_MIN + local.hour * 60 + local.minute] - 1


def _edges_s(tariff: TimeOfUse, zone: ZoneInfo, now_s: float) -> Iterator[float]:
    """Every instant after ``now_s`` at which another period may begin to hold, ascending; changes of the clock included."""
    edges_min = {0, *(edge % _DAY_MIN for period in tariff.periods for edge in _minutes(period))}
    today, before_s = datetime.fromtimestamp(now_s, zone).date(), now_s
    for ahead in range(_DAYS_AHEAD):
        for at_s in sorted(_local_instants_s(today + timedelta(days=ahead), edges_min, zone)):
            if at_s > before_s:
                if _offset_s(zone, at_s) != _offset_s(zone, before_s):
                    yield _clock_change_s(zone, before_s, at_s)
                yield at_s
                before_s = at_s


def _local_instants_s(day: date, minutes: set[int], zone: ZoneInfo) -> set[float]:
    """The instants of local times of a day: both of one that comes twice, none of one that is skipped."""
    local = [datetime.combine(day, time(minute // 60, minute % 60), zone) for minute in minutes]
    instants = {at.replace(fold=fold).timestamp(): at for at in local for fold in (0, 1)}
    return {at_s for at_s, at in instants.items() if datetime.fromtimestamp(at_s, zone).time() == at.time()}


def _offset_s(zone: ZoneInfo, at_s: float) -> float:
    return (datetime.fromtimestamp(math.floor(at_s), zone).utcoffset() or timedelta()).total_seconds()


def _clock_change_s(zone: ZoneInfo, before_s: float, after_s: float) -> float:
    """The first full second with the later offset, by bisection: zoneinfo does not list its changes."""
    low, high = math.floor(before_s), math.ceil(after_s)
    later = _offset_s(zone, high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _offset_s(zone, middle) == later else (middle, high)
    return float(high)


def _days(period: Period) -> str:
    """Days of a period, runs joined: ``mon-fri``, ``mon,wed,sat-sun``."""
    days = sorted({_WEEKDAYS.index(day) for day in period.days})
    runs = [[_WEEKDAYS[i] for _, i in run] for _, run in groupby(enumerate(days), lambda pair: pair[1] - pair[0])]
    return ",".join(run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
