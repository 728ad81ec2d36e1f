"""What feeds of power and carbon share: what a source says of stretches of time, made into steps that can be trusted."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from pricing.feeds import FeedChanged, FeedUnavailable
from pricing.feeds.reading import TEXT_MAX, Problems, plain, readable
from pricing.listing import Step

KWH_PER_MWH = 1000.0
# Years 2000 to 2100: an instant outside is in a wrong unit.
INSTANT_S_MIN, INSTANT_S_MAX = 946_684_800.0, 4_102_444_800.0


class Reading(NamedTuple):
    """One entry of a source. ``value`` None: the source has none (yet), which leaves a gap."""

    path: str
    start_s: float
    end_s: float
    value: float | None
    forecast: bool = False


def sound(start_s: float, end_s: float) -> bool:
    """Whether these are the ends of a stretch of time in this century."""
    return INSTANT_S_MIN <= start_s < end_s <= INSTANT_S_MAX


def steps_of(entries: Iterable[Reading | str]) -> tuple[Step, ...]:
    """Steps in ascending order; what is said twice counts once, and nothing is filled in.

    A text is what is wrong with an unreadable entry, with its path. Raises FeedChanged where these are more than the
    values, or where two values are given for one instant; FeedUnavailable where the source has no value at all.
    """
    known: list[tuple[Step, str]] = []
    problems = Problems()
    for entry in entries:
        if isinstance(entry, str):
            problems.append(entry)
        elif entry.value is not None:
            known.append((Step(entry.start_s, entry.end_s, entry.value), entry.path))
    readable(known, problems)
    if not known:
        raise FeedUnavailable("the source has no values for this time")
    steps: list[Step] = []
    for step, path in sorted(known):
        if steps and step == steps[-1]:
            continue
        if steps and step.start_s < steps[-1].end_s:
            at = datetime.fromtimestamp(step.start_s, UTC)
            raise FeedChanged(f"{plain(path, TEXT_MAX)}: a second value for {at:%Y-%m-%dT%H:%M:%SZ}")
        steps.append(step)
    return tuple(steps)
