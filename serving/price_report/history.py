"""The types of a price history, bounded for drawing, and what can be said of one series."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import msgspec

from serving.report.words import plain

Point = tuple[float, float | None]

POINTS_MAX = 2000
_UNIT_CHARS_MAX = 24
_AT_S_MAX = 4.0e9  # the year 2096: an instant beyond it is a mistake of the source


class Series(msgspec.Struct, frozen=True):
    """A value that holds from each point to the next: ``(Unix seconds, value)``, None where no good one was known.

    ``unit`` as people read it, for instance ``USD/Mtok``; all series of one figure share it.
    """

    name: str
    unit: str
    points: tuple[Point, ...]


class Mark(msgspec.Struct, frozen=True):
    """Something that happened to prices: a quarantine, a disagreement, a source that fell silent."""

    at_s: float
    text: str


class PriceHistoryView(msgspec.Struct, frozen=True):
    """What the page draws over time: blended USD/Mtok by offer, USD/kWh and g CO2/kWh by site, USD/GPU-hour by rent."""

    offers: tuple[Series, ...] = ()
    power: tuple[Series, ...] = ()
    carbon: tuple[Series, ...] = ()
    rents: tuple[Series, ...] = ()
    marks: tuple[Mark, ...] = ()


class Change(NamedTuple):
    """A value that became another at ``at_s``."""

    at_s: float
    before: float
    after: float

    @property
    def size(self) -> float:
        """How large it is, whichever way it went: |ln ratio|; infinite from, to or through zero."""
        return abs(math.log(self.after / self.before)) if self.before > 0 and self.after > 0 else math.inf


class Summary(NamedTuple):
    """One series in figures. ``mean`` is weighted by time, ``gap_s`` how long no good value was known."""

    name: str
    unit: str
    points: int
    start_s: float
    first: float
    last: float | None
    low: float
    low_at_s: float
    high: float
    high_at_s: float
    mean: float
    gap_s: float
    changes: int
    largest: Change | None


def bounded(series: Series, points_max: int = POINTS_MAX) -> Series:
    """The same line through at most ``points_max`` points: what changes nothing goes first, extremes stay.

    Points are put in order; values that are not finite count as not known, impossible instants are left out.
    """
    points, unit = _changes(series.points), plain(series.unit, _UNIT_CHARS_MAX)
    if len(points) <= points_max:
        return Series(series.name, unit, points)
    # Of each part the ends, both extremes and the start of a gap: five points at most.
    parts = max(1, points_max // 5)
    kept: list[Point] = []
    for part in range(parts):
        some = points[part * len(points) // parts : (part + 1) * len(points) // parts]
        values = [(value, i) for i, (_, value) in enumerate(some) if value is not None]
        gap = next((i for i, (_, value) in enumerate(some) if value is None), 0)
        wanted = {0, len(some) - 1, gap} | ({min(values)[1], max(values)[1]} if values else set())
        kept += [some[i] for i in sorted(wanted)]
    return Series(series.name, unit, tuple(kept))


def _changes(points: tuple[Point, ...]) -> tuple[Point, ...]:
    """The points at which something changes, in order."""
    possible = [point for point in points if 0.0 <= point[0] <= _AT_S_MAX]
    kept: list[Point] = []
    for at_s, value in sorted(possible, key=lambda point: point[0]):
        good = value if value is not None and math.isfinite(value) else None
        if kept and kept[-1][0] == at_s:
            kept.pop()  # the last word on an instant counts
        if not kept or kept[-1][1] != good:
            kept.append((at_s, good))
    return tuple(kept)


def summary(series: Series, until_s: float) -> Summary | None:
    """``series`` in figures up to ``until_s``; None where no good value was ever known."""
    points = _changes(series.points)
    known = [(at_s, value) for at_s, value in points if value is not None]
    if not known:
        return None
    low_at_s, low = min(known, key=lambda point: point[1])
    high_at_s, high = max(known, key=lambda point: point[1])
    spans = list(_spans(points, until_s))
    known_s = sum(span_s for span_s, value in spans if value is not None)
    weighted = sum(span_s * value for span_s, value in spans if value is not None)
    # A gap hides when a value changed, not that it did.
    moves = [Change(b[0], a[1], b[1]) for a, b in pairwise(known) if a[1] != b[1]]
    return Summary(
        name=series.name,
        unit=plain(series.unit, _UNIT_CHARS_MAX),
        points=len(points),
        start_s=points[0][0],
        first=known[0][1],
        last=points[-1][1],
        low=low,
        low_at_s=low_at_s,
        high=high,
        high_at_s=high_at_s,
        mean=weighted / known_s if known_s else known[-1][1],
        gap_s=sum(span_s for span_s, value in spans if value is None),
        changes=len(moves),
        largest=max(moves, key=lambda move: move.size, default=None),
    )


def _spans(points: tuple[Point, ...], until_s: float) -> Iterator[tuple[float, float | None]]:
    ends = [at_s for at_s, _ in points[1:]] + [max(until_s, points[-1][0])]
    return ((end_s - at_s, value) for (at_s, value), end_s in zip(points, ends, strict=True))
