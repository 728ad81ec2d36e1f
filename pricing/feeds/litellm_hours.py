"""Off-peak hours as litellm's map writes them, cut into windows of a UTC day.

litellm reads a weekday at the instant itself, on a calendar that may not be UTC's; a ``Window`` counts by the UTC day on
which it starts. Both say the same once a window is cut wherever either day ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pricing.feeds.reading import WINDOWS_MAX

DAY_S = 86_400
YEAR = 2026  # whose rules of a time zone count
_ALL_DAYS = (1, 2, 3, 4, 5, 6, 7)
_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
_NAMES = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def windows(block: Mapping[str, Any]) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """(start_s, end_s, days) of every window of an ``off_peak_pricing`` block, none of them past midnight UTC.

    ``days`` is empty for all seven. Raises ValueError for hours or days that cannot be read, and for a calendar whose
    distance to UTC changes within the year: its windows do not hold still in UTC.
    """
    offset_s = _offset_s(block.get("weekday_timezone"))
    rules: list[Any] = [{"hours_utc": block["hours_utc"]}] if block.get("hours_utc") is not None else []
    listed = block.get("windows")
    if listed is not None:
        if not isinstance(listed, list):
            raise ValueError("windows is no list")
        rules += listed
    found = 0
    for rule in rules:
        if not isinstance(rule, dict):
            raise ValueError("a window is no object")
        days = _days(rule.get("weekdays"))
        for start_s, end_s in _hours(rule.get("hours_utc")):
            for piece in _cut(start_s, end_s, days, offset_s):
                found += 1
                if found > WINDOWS_MAX:
                    raise ValueError(f"more than {WINDOWS_MAX} windows")
                yield piece
    if not found:
        raise ValueError("no hours")


def _cut(start_s: int, end_s: int, days: tuple[int, ...], offset_s: int) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """One window in pieces, none of which crosses midnight in UTC or on the calendar of its weekdays."""
    pieces = [(start_s, end_s)] if start_s < end_s else [(start_s, DAY_S), (0, end_s)]
    turn_s = -offset_s % DAY_S  # when the calendar's day begins, in UTC
    for low, high in pieces:
        for a, b in ((low, min(high, turn_s)), (max(low, turn_s), high)):
            if a < b:
                later = (a + offset_s) // DAY_S  # how many days the calendar is ahead of UTC in this piece
                yield a, b, tuple(sorted((day - 1 - later) % 7 + 1 for day in days)) if days != _ALL_DAYS else ()


def _hours(value: Any) -> Iterator[tuple[int, int]]:
    """Seconds of the UTC day; start and end alike mean the whole day."""
    for text in value if isinstance(value, list) else [value]:
        match = _HOURS.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(f"{text!r} are no hours like 16:30-00:30")
        h0, m0, h1, m1 = (int(part) for part in match.groups())
        yield h0 * 3600 + m0 * 60, h1 * 3600 + m1 * 60


def _days(value: Any) -> tuple[int, ...]:
    if value is None:
        return _ALL_DAYS
    if not isinstance(value, list) or not value:
        raise ValueError("weekdays is no list of days")
    return tuple(sorted({_day(day) for day in value}))


def _day(value: Any) -> int:
    """ISO weekday of a number from 1 or an English name."""
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 7:
        return value
    if isinstance(value, str) and value.strip().lower()[:3] in _NAMES:
        return _NAMES.index(value.strip().lower()[:3]) + 1
    raise ValueError(f"{value!r} is no weekday")


def _offset_s(timezone: Any) -> int:
    """Seconds that a calendar is ahead of UTC, by the rules in force."""
    if timezone is None:
        return 0
    try:
        zone = ZoneInfo(timezone)
    except (TypeError, ValueError, OSError, ZoneInfoNotFoundError):
        raise ValueError(f"{timezone!r} is no time zone") from None
    offsets = {datetime(YEAR, month, 1, tzinfo=UTC).astimezone(zone).utcoffset() for month in range(1, 13)}
    if len(offsets) > 1:
        raise ValueError(f"the distance of {timezone} to UTC changes within the year")
    offset = offsets.pop()
    return 0 if offset is None else int(offset.total_seconds())
