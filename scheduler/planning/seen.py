"""What a ledger has seen, hour by hour, and how well a ratio of two of its sums is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Hours = NDArray[np.float64]

HOUR_S = 3600.0
DAY_H, WEEK_H = 24, 168
_EPOCH_H = 72  # 1970 began on a Thursday: hours since Monday 00:00 UTC
_BLOCKS = 8
_CONFIDENCE = 0.95  # on either side
# How much of an hour's surprise is still there in the next. Real load is such; few hours cannot show it of themselves.
_CARRY = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Pace:
    """Seconds from first to last token (``decode_s``) and tokens after the first, by hour, of one pool's streams.

    Its curve says ``least_s`` per token to a request that is alone, and ``most_s`` to one in a full batch.
    """

    pool: str
    least_s: float
    most_s: float
    decode_s: Hours
    tokens: Hours


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Arrays of one length, one entry an hour (UTC), oldest first; hours without requests are in it.

    ``share``: how much of the hour was looked at, 0 to 1. ``requests``: all that came. ``served``: complete ones, of which
    ``bought`` from APIs; tokens are theirs. ``judged``: requests with an objective that can be told, of which ``in_time``.
    ``usd_api`` holds whatever was not spent on energy. ``work_ratios``: by pool, what gates have learnt, now.
    """

    start_s: Hours
    share: Hours
    requests: Hours
    served: Hours
    bought: Hours
    judged: Hours
    in_time: Hours
    input_tokens: Hours
    output_tokens: Hours
    api_tokens: Hours
    usd_api: Hours
    usd_energy: Hours
    paces: tuple[Pace, ...] = ()
    work_ratios: Mapping[str, float] = field(default_factory=dict)

    @property
    def hours(self) -> float:
        """Hours looked at."""
        return float(self.share.sum())

    def per_hour(self, what: str) -> float | None:
        """Mean of a column per hour; None where no time has passed."""
        return float(getattr(self, what).sum()) / self.hours if self.hours else None

    def ratio(self, over: str, under: str) -> float | None:
        """Sum of one column over the sum of another; None where that is zero."""
        below = float(getattr(self, under).sum())
        return float(getattr(self, over).sum()) / below if below else None


@dataclass(frozen=True, slots=True)
class Estimate:
    """``give_or_take``: half of the 90 % interval of ``value``; infinite where nothing can be said."""

    value: float
    give_or_take: float


def hour_of_week(start_s: Hours) -> NDArray[np.int64]:
    """0 for Monday 00:00 UTC, to 167."""
    return ((start_s // HOUR_S).astype(np.int64) + _EPOCH_H) % WEEK_H


def season_of(start_s: Hours) -> NDArray[np.int64] | None:
    """The hours that are alike: time of day, and weekend or not from a week on; None where there are not two of each."""
    if len(start_s) < 2 * DAY_H:
        return None
    of_week = hour_of_week(start_s)
    weekend = (of_week >= 5 * DAY_H) & (len(start_s) >= WEEK_H)
    return of_week % DAY_H + DAY_H * weekend


def estimate(
    above: Hours, below: Hours, error_least: float = 0.0, season: NDArray[np.int64] | None = None, smooth: bool = False
) -> Estimate:
    """The sum of ``above`` over that of ``below`` (which is not zero), and how far it may be off by chance.

    What is left of each hour after the ratio, and after the mean of its ``season``, is added up in blocks; the spread of the
    blocks gives the error (batch means), with what neighbouring blocks have in common, never below ``error_least``.
    ``smooth``: there is a season that was seen only once; successive differences are free of it (von Neumann 1941).
    """
    value, n = float(above.sum() / below.sum()), len(above)
    if n < 2:
        return Estimate(value, math.inf)
    left = above - value * below
    if smooth:
        squares = n * float(np.mean(np.diff(left) ** 2)) / 2.0 * carried(1) / (1.0 - _CARRY)
        freedom = n - 1.0
    else:
        cells = 0
        if season is not None:
            kinds, season = np.unique(season, return_inverse=True)
            cells = len(kinds)
            left = left - (np.bincount(season, left) / np.bincount(season))[season]
        hours = min(DAY_H, max(1, n // _BLOCKS))
        sums = np.add.reduceat(left, np.arange(0, n, hours))
        free_share = max(1, n - cells) / n  # what the season's means have not taken
        squares = float((sums**2).sum()) * len(sums) / (len(sums) - 1) / free_share * carried(hours)
        freedom = (len(sums) - 1) * free_share
    error = max(math.sqrt(squares) / abs(float(below.sum())), error_least)
    return Estimate(value, float(stdtrit(freedom, _CONFIDENCE)) * error)


def carried(hours: int) -> float:
    """By how much the variance of blocks of so many hours grows with what neighbours have in common."""
    alone = hours + 2.0 * sum((hours - k) * _CARRY**k for k in range(1, hours))
    return hours * (1.0 + _CARRY) / (1.0 - _CARRY) / alone
