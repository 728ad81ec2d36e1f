"""How much of a load to own, reserve, rent and buy, by hand: load-duration curve, newsvendor and screening curves.

A load is in replicas, one figure for each slice of time; ``hours`` are the lengths of the slices in any unit, only their
shares count. USD per hour and replica throughout. ``running_usd_per_hour`` is what a replica costs only while it works
(energy above idle), ``api_usd_per_hour`` what an API asks for an hour of a replica's work. Inf: not to be had.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_ROUNDING = 1e-9


def _shares(hours: np.ndarray) -> np.ndarray:
    """Shares of time. Raises ValueError where there is no time, or some is negative."""
    lengths = np.asarray(hours, float)
    total = float(lengths.sum())
    if not total > 0.0 or (lengths < 0.0).any():
        raise ValueError("slices of time need lengths of at least zero, and one above it")
    return lengths / total


def load_duration(load: np.ndarray, hours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares of time (rising to 1), and the load that is reached or exceeded in each (falling; each level once)."""
    level, at = np.unique(np.asarray(load, float), return_inverse=True)
    share = np.bincount(at, _shares(hours), len(level))
    return np.minimum(1.0, np.cumsum(share[::-1])), level[::-1]


def newsvendor(
    load: np.ndarray,
    hours: np.ndarray,
    owned_usd_per_hour: float,
    alternative_usd_per_hour: float,
    running_usd_per_hour: float,
) -> float:
    """Replicas to own (fractional): the least x with P(load > x) <= owned / (alternative - running); 0 where it never pays.

    It minimises owned * x + running * E[min(load, x)] + alternative * E[max(0, load - x)], the cost of a replica against an
    alternative that is paid by use (economics: how much to own).
    """
    share, level = load_duration(load, hours)
    margin_usd = alternative_usd_per_hour - running_usd_per_hour
    if margin_usd <= 0.0 or math.isinf(owned_usd_per_hour):
        return 0.0
    ratio = owned_usd_per_hour / margin_usd
    exceeded = np.append(0.0, share[:-1])  # share of time above each level
    if share[level > 0.0].max(initial=0.0) <= ratio + _ROUNDING:
        return 0.0
    return float(level[exceeded <= ratio + _ROUNDING][-1])


class Line(NamedTuple):
    """What a replica-equivalent costs in USD per hour, used for a share u of the time: ``fixed + u * by_use``."""

    name: str
    fixed_usd_per_hour: float
    by_use_usd_per_hour: float

    def usd_per_hour(self, share: float) -> float:
        """Cost at this share of time."""
        return self.fixed_usd_per_hour + share * self.by_use_usd_per_hour


def lines(
    owned_usd_per_hour: float,
    reserved_usd_per_hour: float,
    rented_usd_per_hour: float,
    api_usd_per_hour: float,
    running_usd_per_hour: float,
) -> tuple[Line, ...]:
    """The screening lines of what is to be had: ``owned``, ``reserved``, ``rented``, ``api``."""
    found = (
        Line("owned", owned_usd_per_hour, running_usd_per_hour),
        Line("reserved", reserved_usd_per_hour, running_usd_per_hour),
        Line("rented", 0.0, rented_usd_per_hour + running_usd_per_hour),
        Line("api", 0.0, api_usd_per_hour),
    )
    return tuple(line for line in found if np.isfinite(line[1:]).all())


def crossings(screened: Sequence[Line]) -> tuple[tuple[float, str], ...]:
    """The lower envelope over shares of time from 0 to 1: the share from which each line is the cheapest, and its name.

    The first begins at 0. Of lines that cost the same, the first given is named.
    """
    if not screened:
        return ()
    at = 0.0
    here = min(screened, key=lambda line: line[1:])
    found = [(at, here.name)]
    while True:
        flatter = [line for line in screened if line.by_use_usd_per_hour < here.by_use_usd_per_hour]
        meets = [
            (line.fixed_usd_per_hour - here.fixed_usd_per_hour) / (here.by_use_usd_per_hour - line.by_use_usd_per_hour)
            for line in flatter
        ]
        if not meets or min(meets) >= 1.0:
            return tuple(found)
        at = max(at, min(meets))
        ties = [line for line, share in zip(flatter, meets, strict=True) if share <= at]
        here = min(ties, key=lambda line: line.by_use_usd_per_hour)
        found.append((at, here.name))
