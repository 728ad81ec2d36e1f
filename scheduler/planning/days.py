"""Days of a trace as what is drawn anew: how much the newest of them count, and how far the level of days to come may be off.

A few days seen together do not know what comes: the level of the next ones is forecast by an exponentially weighted mean of
those seen (simple exponential smoothing: Brown 1959), whose errors of the past say how far off it is. As few days tell
little of an error, it is shrunk to that of public traces (a scaled inverse chi-squared prior: Gelman et al., Bayesian Data
Analysis, section 2.6).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

# Root mean square of the errors, as logarithms, of such forecasts within the first four days of five public series: rates of
# ServeGen's m-small, m-mid and m-large, and tokens of its m-small and m-large requests (0.10 to 0.28; arXiv:2505.09999).
LEVEL_SD = 0.19
_WORTH_DAYS = 4.0  # of seen ones, that this counts for
_DAY_S, _WEEK_DAYS = 86_400.0, 7
_DAYS_MIN = 2  # a single day says nothing of how days differ
_PARTS = 10
_CLOSE, _NEARLY = 1e-9, 0.01


class Blocks(NamedTuple):
    """What is drawn as a whole: ``of`` [bin] its block, ``drawn`` how many are, ``share`` [bin] of the time as it is.

    ``are_days``: else they are tenths of a trace of less than two days.
    """

    of: Counts
    drawn: int
    share: Floats
    are_days: bool


def blocks_of(edges_s: Floats) -> Blocks:
    """Days if there are at least two of them, else tenths of the span; each holds at least one bin.

    A trace ends with a request: a last day that lacks a few minutes is a day.
    """
    length_s = np.diff(edges_s)
    span_s = float(edges_s[-1] - edges_s[0])
    middle_s = 0.5 * (edges_s[:-1] + edges_s[1:]) - edges_s[0]
    days = math.floor(span_s / _DAY_S + _NEARLY)
    if days < _DAYS_MIN:
        parts, of = np.unique(np.floor(middle_s * (_PARTS / span_s)), return_inverse=True)
        return Blocks(of.astype(np.int64), len(parts), length_s / span_s, False)
    if length_s.max() > _DAY_S * (1.0 + _CLOSE):
        raise ValueError("time bins are longer than the days that are drawn")
    # How many days there are at that time of the day: one more in the hours of the rest of one.
    seen = np.maximum(1.0, np.ceil((span_s - middle_s % _DAY_S) / _DAY_S))
    return Blocks((middle_s // _DAY_S).astype(np.int64), days, length_s / _DAY_S / seen, True)


def weight_of(blocks: Blocks, drawn: Counts) -> Floats:
    """Shares of time of the bins when these blocks are drawn; what is never drawn is there once."""
    times = np.ones(int(blocks.of.max()) + 1)
    times[: blocks.drawn] = np.bincount(drawn, minlength=blocks.drawn)
    weight = blocks.share * times[blocks.of]
    return np.asarray(weight / weight.sum(), np.float64)


def shares_of(blocks: Blocks, half_life: float) -> Floats:
    """How often each block comes up [block], 1 in all: a day that is ``half_life`` of the trace older half as often.

    From a week on by whole weeks, so that no day of the week counts more than another.
    """
    if not blocks.are_days:
        return np.full(blocks.drawn, 1.0 / blocks.drawn)
    period = _period(blocks.drawn)
    age = np.arange(blocks.drawn)[::-1] // period * period
    weights = np.exp2(-age / (half_life * blocks.drawn))
    return np.asarray(weights / weights.sum(), np.float64)


def balanced(shares: Floats, count: int, rng: np.random.Generator) -> Counts:
    """Blocks [count, block] in random order, each as near to its share of all as whole numbers can be."""
    places = (np.arange(count * len(shares)) + 0.5) / (count * len(shares))
    found = np.searchsorted(np.cumsum(shares)[:-1], places, side="right")
    return np.asarray(rng.permutation(found).reshape(count, len(shares)), np.int64)


def level_sd(blocks: Blocks, loads: Sequence[Floats], half_life: float) -> float:
    """Standard deviation, as a logarithm, of the level of days to come around the forecast, over series of load [bin].

    0 for a trace of less than two days: nothing is known of how days differ. Of a week and more, whole weeks are what is
    forecast. A series counts by its load; one that has a day without any says nothing.
    """
    if not blocks.are_days:
        return 0.0
    series = [levels for load in loads if (levels := _levels(blocks, load)).all()]
    squares = [_squares(_weekly(levels), half_life) for levels in series]
    mean = np.average(squares, axis=0, weights=[of.mean() for of in series]) if squares else np.zeros(0)
    return math.sqrt((_WORTH_DAYS * LEVEL_SD**2 + float(mean.sum())) / (_WORTH_DAYS + len(mean)))


def _period(days: int) -> int:
    return _WEEK_DAYS if days >= _WEEK_DAYS else 1


def _weekly(levels: Floats) -> Floats:
    """Levels of whole weeks, the last one up to the end; of less than a week, of days."""
    period = _period(len(levels))
    return np.asarray(levels[len(levels) % period :].reshape(-1, period).mean(axis=1), np.float64)


def _levels(blocks: Blocks, load: Floats) -> Floats:
    """Mean load of each whole day [day], each hour of it counting by its length."""
    sums = np.bincount(blocks.of, blocks.share * load, minlength=blocks.drawn)[: blocks.drawn]
    times = np.bincount(blocks.of, blocks.share, minlength=blocks.drawn)[: blocks.drawn]
    return np.asarray(sums / times, np.float64)


def _squares(levels: Floats, half_life: float) -> Floats:
    """Squared errors of what the first level, the first two and so on foretell of the mean of all later ones."""
    forecasts = [_recent(day, half_life * day) @ levels[:day] for day in range(1, len(levels))]
    came = [levels[day:].mean() for day in range(1, len(levels))]
    return np.asarray(np.log(np.array(came) / np.array(forecasts)) ** 2, np.float64)


def _recent(count: int, half_life: float) -> Floats:
    """Weights [count], 1 in all: what lies ``half_life`` further back has half of it."""
    weights = np.exp2(np.arange(1 - count, 1) / half_life)
    return np.asarray(weights / weights.sum(), np.float64)
