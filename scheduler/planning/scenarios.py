"""Scenarios of the years to come: days of the trace drawn anew, growth, API and power prices. Nothing here knows of replicas.

As many days are drawn as the trace has, with their hours in order (block bootstrap: Künsch 1989; economics: section 4), newer
ones more often, and in each scenario all of them are somewhat busier or quieter (``days``). So that a hundred of them are
stable, every day comes up as often over all scenarios as it should (balanced bootstrap: Davison, Hinkley and Schechtman
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
from scheduler.planning.days import balanced, blocks_of, shares_of, weight_of

Floats = NDArray[np.float64]

INSTANTS = 4


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


def draw(
    spec: PlanningSpec, edges_s: Floats, seed: int, count: int | None = None, *, level_sd: float = 0.0
) -> tuple[Scenario, ...]:
    """``count`` scenarios (default: ``spec.scenarios``) of the time bins between ``edges_s``; all weigh the same.

    Blocks are days from the first edge on. What remains of a last day is in every scenario, and counts in its hours as
    much as any other day. A trace of less than two days is drawn in tenths, whatever the hour. ``level_sd``: of the
    logarithm of the load of a whole scenario, around the growth that is assumed.
    """
    count = spec.scenarios if count is None else count
    if count < 1:
        raise ValueError(f"at least one scenario is needed, not {count}")
    rng = np.random.default_rng(seed)
    blocks = blocks_of(edges_s)
    drawn = balanced(shares_of(blocks, spec.day_half_life), count, rng)
    changes = (spec.growth_per_year, spec.api_price_per_year, spec.power_price_per_year)
    quantiles = qmc.LatinHypercube(d=1 + len(changes), scramble=False, rng=rng).random(count)
    levels = np.exp(level_sd * norm.ppf(quantiles[:, -1]) - 0.5 * level_sd**2)
    yearly = [_factors(change, quantiles[:, column]) for column, change in enumerate(changes)]
    return tuple(
        Scenario(weight_of(blocks, days), _instants(spec.horizon_years, [float(of[row]) for of in yearly], levels[row]))
        for row, days in enumerate(drawn)
    )


def expected(spec: PlanningSpec, edges_s: Floats) -> Scenario:
    """The trace as it is, with the mean changes."""
    blocks = blocks_of(edges_s)
    means = [1.0 + of.mean for of in (spec.growth_per_year, spec.api_price_per_year, spec.power_price_per_year)]
    return Scenario(weight_of(blocks, np.arange(blocks.drawn)), _instants(spec.horizon_years, means))


def today(edges_s: Floats) -> Scenario:
    """The trace as it is, and nothing changes: time bins from ``edges_s`` [bin + 1], which may begin anywhere."""
    blocks = blocks_of(edges_s - edges_s[0])
    return Scenario(weight_of(blocks, np.arange(blocks.drawn)), (Instant(1.0, 1.0, 1.0),))


def _instants(years: float, yearly: list[float], level: float = 1.0) -> tuple[Instant, ...]:
    """The middles of equal parts of the horizon; ``level`` times the requests at each of them."""
    at_years = [(k + 0.5) / INSTANTS * years for k in range(INSTANTS)]
    growth, api_price, power_price = yearly
    return tuple(Instant(level * growth**year, api_price**year, power_price**year) for year in at_years)


def _factors(change: Uncertain, quantiles: Floats) -> Floats:
    """Lognormal factors a year with the mean and the standard deviation of ``change``: prices and loads stay above zero."""
    mean = 1.0 + change.mean
    variance = math.log1p((change.sd / mean) ** 2)
    return np.asarray(mean * np.exp(math.sqrt(variance) * norm.ppf(quantiles) - 0.5 * variance), np.float64)
