"""Prices that come as steps over time: how what a source says now is laid over what it said before."""

from __future__ import annotations

from pricing.listing import CarbonIntensity, PowerPrice, Price, Step


def merged(old: tuple[Step, ...], new: tuple[Step, ...]) -> tuple[Step, ...]:
    """``new`` steps, and of the old ones what lies before the first and after the last of them."""
    start_s, end_s = new[0].start_s, new[-1].end_s
    before = [step._replace(end_s=min(step.end_s, start_s)) for step in old if step.start_s < start_s]
    after = [step._replace(start_s=max(step.start_s, end_s)) for step in old if step.end_s > end_s]
    return (*before, *new, *after)


def revised(old: tuple[Step, ...], new: tuple[Step, ...]) -> tuple[Step, ...]:
    """The part of ``new`` that changes what ``old`` says: merging it alone says all that merging ``new`` does.

    From the first to the last step that differs; where steps are only gone, their neighbours, between which nothing is.
    """
    start_s, end_s = new[0].start_s, new[-1].end_s
    cut = [Step(max(s.start_s, start_s), min(s.end_s, end_s), s.value) for s in old]
    had = [step for step in cut if step.start_s < step.end_s]
    shorter, first, last = min(len(had), len(new)), 0, 0
    while first < shorter and had[first] == new[first]:
        first += 1
    if first == len(had) == len(new):
        return ()
    while last < shorter - first and had[-1 - last] == new[-1 - last]:
        last += 1
    low, high, gone = first, len(new) - last, had[first : len(had) - last]
    if low == high:
        return new[low - 1 : high + 1]
    before = bool(gone) and gone[0].start_s < new[low].start_s
    after = bool(gone) and gone[-1].end_s > new[high - 1].end_s
    return new[low - before : high + after]


def steps_of(price: Price) -> tuple[Step, ...] | None:
    """The steps of a price over time, None for prices of the moment."""
    return price.steps if isinstance(price, PowerPrice | CarbonIntensity) else None
