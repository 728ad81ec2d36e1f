"""Scenarios of the years to come: days of the trace drawn anew, growth, API and power prices. Nothing here knows of replicas.

Days are drawn as often as the trace has them, with their hours in order (block bootstrap: Künsch 1989; economics: section 4):
the scenarios show how far the trace may be from the days to come, and no more than it can know of itself. So that a hundred
of them are stable, every day comes up equally often over all scenarios (balanced bootstrap: Davison, Hinkley and Schechtman
1986), and changes of prices and load are a Latin hypercube at the middles of its strata (McKay, Beckman and Conover 1979).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, qmc

from scheduler.config.planning import PlanningSpec, Uncertain

Floats = NDArray[np.float64]

INSTANTS = 4
_DAY_S = 86_400.0
_DAYS_MIN = 2  # a single day says nothing of how days differ
_PARTS = 10
_CLOSE = 1e-9


class Instant(NamedTuple):
    """How much larger than today, at one time of the horizon: requests, API prices, price of power."""

    growth: float
    api_price: float
    power_price: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """One future. ``weight`` [bin]: share of the time that is like this bin of the trace, 1 in all.

    ``instants`` are spread evenly over the horizon; a cost is the mean over them.
    """

    weight: Floats
    instants: tuple[Instant, ...]


class _Blocks(NamedTuple):
    """What is drawn as a whole: ``of`` [bin] its block, ``drawn`` how many are, ``share`` [bin] of the time as it is."""

    of: NDArray[np.int64]
    drawn: int
    share: Floats


def draw(spec: PlanningSpec, edges_s: Floats, seed: int, count: int | None = None) -> tuple[Scenario, ...]:
    """``count`` scenarios (default: ``spec.scenarios``) of the time bins between ``edges_s``; all weigh the same.

    Blocks are days from the first edge on. What remains of a last day is in every scenario, and counts in its hours as
    much as any other day. A trace of less than two days is drawn in tenths, whatever the hour.
    """
    count = spec.scenarios if count is None else count
    if count < 1:
        raise ValueError(f"at least one scenario is needed, not {count}")
    rng = np.random.default_rng(seed)
    blocks = _blocks(edges_s)
    drawn = rng.permutation(np.tile(np.arange(blocks.drawn), count)).reshape(count, blocks.drawn)
    changes = (spec.growth_per_year, spec.api_price_per_year, spec.power_price_per_year)
    quantiles = qmc.LatinHypercube(d=len(changes), scramble=False, rng=rng).random(count)
    yearly = [_factors(change, quantiles[:, column]) for column, change in enumerate(changes)]
    return tuple(
        Scenario(_weight(blocks, days), _instants(spec.horizon_years, [float(of[row]) for of in yearly]))
        for row, days in enumerate(drawn)
    )


def expected(spec: PlanningSpec, edges_s: Floats) -> Scenario:
    """The trace as it is, with the mean changes."""
    blocks = _blocks(edges_s)
    means = [1.0 + of.mean for of in (spec.growth_per_year, spec.api_price_per_year, spec.power_price_per_year)]
    return Scenario(_weight(blocks, np.arange(blocks.drawn)), _instants(spec.horizon_years, means))


def _instants(years: float, yearly: list[float]) -> tuple[Instant, ...]:
    """The middles of equal parts of the horizon."""
    at_years = [(k + 0.5) / INSTANTS * years for k in range(INSTANTS)]
    return tuple(Instant(*(factor**year for factor in yearly)) for year in at_years)


def _factors(change: Uncertain, quantiles: Floats) -> Floats:
    """Lognormal factors a year with the mean and the standard deviation of ``change``: prices and loads stay above zero."""
    mean = 1.0 + change.mean
    variance = math.log1p((change.sd / mean) ** 2)
    return np.asarray(mean * np.exp(math.sqrt(variance) * norm.ppf(quantiles) - 0.5 * variance), np.float64)


def _blocks(edges_s: Floats) -> _Blocks:
    """Days if there are at least two of them, else tenths of the span; each holds at least one bin."""
    length_s = np.diff(edges_s)
    span_s = float(edges_s[-1] - edges_s[0])
    middle_s = 0.5 * (edges_s[:-1] + edges_s[1:]) - edges_s[0]
    days = math.floor(span_s / _DAY_S + _CLOSE)
    if days < _DAYS_MIN:
        parts, of = np.unique(np.floor(middle_s * (_PARTS / span_s)), return_inverse=True)
        return _Blocks(of.astype(np.int64), len(parts), length_s / span_s)
    if length_s.max() > _DAY_S * (1.0 + _CLOSE):
        raise ValueError("time bins are longer than the days that are drawn")
    left_s = span_s - days * _DAY_S
    # In the hours of the rest of a day there is one day more.
    seen = days + (middle_s % _DAY_S < left_s)
    return _Blocks((middle_s // _DAY_S).astype(np.int64), days, length_s / _DAY_S / seen)


def _weight(blocks: _Blocks, drawn: NDArray[np.int64]) -> Floats:
    """Shares of time of the bins when these blocks are drawn; what is never drawn is there once."""
    times = np.ones(int(blocks.of.max()) + 1)
    times[: blocks.drawn] = np.bincount(drawn, minlength=blocks.drawn)
    weight = blocks.share * times[blocks.of]
    return np.asarray(weight / weight.sum(), np.float64)
