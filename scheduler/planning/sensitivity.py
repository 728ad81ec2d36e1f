"""One assumption at a time between a low and a high value: what the plan then costs, and what would then be best."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from scheduler.planning import document


class Consequence(NamedTuple):
    """USD per hour of the chosen plan, unchanged, and GPUs that would be best to own."""

    usd_per_hour: float
    gpus: float


@dataclass(frozen=True, slots=True)
class Moved:
    """An assumption in ``unit``, its range, and what comes of a value of it, all others as planned."""

    assumption: str
    unit: str
    low: float
    high: float
    at: Callable[[float], Consequence]


def tornado(moved: Iterable[Moved]) -> tuple[document.Sensitivity, ...]:
    """Each at both ends of its range, the largest swing first, those that swing alike by name.

    Raises ValueError for a range that ends below its start, and for a cost that is no number.
    """
    found = [_both(one) for one in moved]
    return tuple(sorted(found, key=lambda one: (-one.swing_usd_per_hour, one.assumption)))


def _both(moved: Moved) -> document.Sensitivity:
    if not moved.low <= moved.high:
        raise ValueError(f"{moved.assumption}: {moved.low} to {moved.high} is no range")
    low, high = moved.at(moved.low), moved.at(moved.high)
    if not (math.isfinite(low.usd_per_hour) and math.isfinite(high.usd_per_hour)):
        raise ValueError(f"{moved.assumption}: costs of {low.usd_per_hour} and {high.usd_per_hour} cannot be compared")
    return document.Sensitivity(
        assumption=moved.assumption,
        unit=moved.unit,
        low=moved.low,
        high=moved.high,
        usd_per_hour_low=low.usd_per_hour,
        usd_per_hour_high=high.usd_per_hour,
        gpus_low=low.gpus,
        gpus_high=high.gpus,
    )
