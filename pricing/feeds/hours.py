"""Prices by hour of the UTC day: from overlapping conditions, as sources state them, to windows that do not overlap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from pricing.feeds.reading import WINDOWS_MAX
from pricing.listing import ServiceTier, Window
from scheduler.core.supply import Rate

DAY_S = 86_400
ALL_DAYS = frozenset(range(1, 8))


class Span(NamedTuple):
    """Seconds of a UTC day from ``start_s`` up to ``end_s``, past midnight where ``end_s`` is less.

    ``days`` are ISO weekdays of the instant itself: the hours after midnight belong to the new day.
    """

    start_s: int
    end_s: int
    days: frozenset[int] = ALL_DAYS

    def holds(self, second: int, day: int) -> bool:
        """Is that second of that weekday inside?"""
        if day not in self.days:
            return False
        if self.start_s <= self.end_s:
            return self.start_s <= second < self.end_s
        return second >= self.start_s or second < self.end_s


Rates = dict[ServiceTier, Rate]


class TooMany(ValueError):
    """More windows, or more combinations of hours, than anyone sells by."""


def windows(spans: Sequence[Span], rates_when: Callable[[frozenset[int]], Rates]) -> tuple[Window, ...]:
    """Windows in which the rates are not those outside all ``spans``; none overlaps another or passes midnight.

    ``rates_when`` says what holds while the spans of these indices do. Raises TooMany.
    """
    base = rates_when(frozenset())
    known = {frozenset[int](): base}
    edges = sorted({0, DAY_S, *(edge for span in spans for edge in span[:2])})
    found: list[Window] = []
    for start_s, end_s in pairwise(edges):
        days_of: dict[frozenset[int], list[int]] = {}
        for day in sorted(ALL_DAYS):
            active = frozenset(i for i, span in enumerate(spans) if span.holds(start_s, day))
            days_of.setdefault(active, []).append(day)
        for active, days in days_of.items():
            if active not in known:
                known[active] = rates_when(active)
            rates = known[active]
            if rates != base:
                _add(found, Window(start_s, end_s, rates, () if len(days) == len(ALL_DAYS) else tuple(days)))
            if max(len(found), len(known)) > WINDOWS_MAX:
                raise TooMany(f"more than {WINDOWS_MAX} windows")
    return tuple(found)


def _add(found: list[Window], window: Window) -> None:
    """Append, or prolong a window that ends where this one begins and says the same."""
    for i, before in enumerate(found):
        if (before.end_s, before.rates, before.days) == (window.start_s, window.rates, window.days):
            found[i] = Window(before.start_s, window.end_s, window.rates, window.days)
            return
    found.append(window)
