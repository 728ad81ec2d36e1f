"""What rented capacity that can be taken away really costs, and how often it was taken away in a price history.

Effective price of an hour of useful work:

    usd_per_hour / (availability * (1 - restart share)) + interruptions per hour * USD lost in each

Source: renewal reward; availability, not price, is the risk of spot (Mao et al., "SkyServe", EuroSys 2025).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from scheduler.config.prices import Rental

_SECONDS_PER_HOUR = 3600.0


class PriceChange(NamedTuple):
    """``usd_per_hour`` holds from ``start_s`` until the next change."""

    start_s: float
    usd_per_hour: float


class SpotStatistics(NamedTuple):
    """How a bid would have fared over ``hours`` of history, of which ``hours_held`` were at or below the bid.

    ``usd_per_hour_mean`` (of the hours held), ``interruptions_per_hour`` (of an hour held) and ``restart_share`` are None
    where the bid never held: nothing is known of them then. The names are those of a Rental.
    """

    hours: float
    hours_held: float
    interruptions: int
    availability: float
    usd_per_hour_mean: float | None
    interruptions_per_hour: float | None
    restart_share: float | None


def effective_usd_per_hour(usd_per_hour: float, rental: Rental) -> float:
    """USD for an hour of useful work at the listed price ``usd_per_hour``. Raises ValueError for what is no price.

    Dividing by the availability is exact where capacity is paid for or replaced at the same price while it is missing;
    where nothing is billed then and nothing stands in, it bounds the price from above.

    >>> rental = Rental(usd_per_hour=2.0, availability=0.8, restart_share=0.05,
    ...                 interruptions_per_hour=0.1, usd_lost_per_interruption=1.5)
    >>> round(effective_usd_per_hour(2.0, rental), 4)
    2.7816
    >>> effective_usd_per_hour(2.0, Rental(usd_per_hour=2.0))
    2.0
    """
    if not (math.isfinite(usd_per_hour) and usd_per_hour >= 0.0):
        raise ValueError(f"no price: {usd_per_hour} USD per hour")
    useful_share = rental.availability * (1.0 - rental.restart_share)
    return usd_per_hour / useful_share + rental.interruptions_per_hour * rental.usd_lost_per_interruption


def interruption_statistics(
    changes: Iterable[tuple[float, float]], bid_usd_per_hour: float, until_s: float, start_up_s: float = 0.0
) -> SpotStatistics:
    """What a bid of ``bid_usd_per_hour`` would have met between the first of ``changes`` and ``until_s``.

    ``changes``: (start_s, usd_per_hour) in any order; the price holds until the next change. An interruption is a rise
    from at or below the bid to above it. Each time the price comes back, ``start_up_s`` of the rented time go into
    starting (all of it, where it was shorter). A history of prices knows nothing of capacity that was not to be had at
    any price: since providers stopped clearing spot markets by bids, that is the greater part, and availability so
    measured is the best case. Raises ValueError for a history without a span, or with a price that is none.

    >>> day = [(0, 1.0), (6 * 3600, 5.0), (12 * 3600, 1.0)]
    >>> found = interruption_statistics(day, bid_usd_per_hour=2.0, until_s=24 * 3600, start_up_s=360)
    >>> found.availability, found.interruptions, round(found.interruptions_per_hour, 4), round(found.restart_share, 4)
    (0.75, 1, 0.0556, 0.0111)
    """
    steps = sorted(PriceChange(*change) for change in changes)
    if not steps or not all(math.isfinite(x) for step in steps for x in step) or not math.isfinite(until_s):
        raise ValueError("a history needs prices, and finite ones")
    if not steps[0].start_s < until_s:
        raise ValueError(f"the history starts at {steps[0].start_s:g}, not before {until_s:g}")
    ends_s = [step.start_s for step in steps[1:]] + [until_s]
    held_s = paid = starting_s = run_s = 0.0
    interruptions = 0
    for step, following_s in zip(steps, ends_s, strict=True):
        length_s = min(following_s, until_s) - step.start_s
        if length_s <= 0.0:
            continue
        if step.usd_per_hour <= bid_usd_per_hour:
            held_s += length_s
            run_s += length_s
            paid += length_s * step.usd_per_hour
        elif run_s:
            interruptions += 1
            starting_s += min(run_s, start_up_s)
            run_s = 0.0
    starting_s += min(run_s, start_up_s)
    hours_held = held_s / _SECONDS_PER_HOUR
    span_s = until_s - steps[0].start_s
    return SpotStatistics(
        hours=span_s / _SECONDS_PER_HOUR,
        hours_held=hours_held,
        interruptions=interruptions,
        availability=held_s / span_s,
        usd_per_hour_mean=paid / held_s if held_s else None,
        interruptions_per_hour=interruptions / hours_held if held_s else None,
        restart_share=starting_s / held_s if held_s else None,
    )
