"""The second stage for one unit: with so many replicas at work anyway, what is best to rent and to serve in each time bin.

    kept(c) = growth * saved(c * usable / growth) - short * missing(c)
    best(c) = max over whole k >= 0 of kept(c + k) - k * rent

Tables are [replicas, bin] and [level, bin]: the best of many bins at once is found row by row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scheduler.planning.scenarios import Instant
from scheduler.planning.surface import Floats, Surface, position

Counts = NDArray[np.int64]

_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class UnitMoney:
    """What replicas of a unit cost, USD per replica and hour; None: not to be had.

    ``idle_usd_per_hour`` is what of each of these prices is power, and moves with its price. ``rented_availability``: share
    of the bins in which any can be rented. A rented one works ``rented_start_s`` later than it is paid for, and is kept for
    ``rented_hold_s``. ``owned_availability``: share of the time in which an owned one works. ``usable``: how much of a
    replica the fluid may count. ``short_usd_per_hour``: what a missing replica of work that has to stay counts as.
    """

    owned_usd_per_hour: float | None
    reserved_usd_per_hour: float | None = None
    rented_usd_per_hour: float | None = None
    idle_usd_per_hour: float = 0.0
    owned_availability: float = 1.0
    rented_availability: float = 1.0
    rented_start_s: float = 0.0
    rented_hold_s: float = _SECONDS_PER_HOUR
    usable: float = 1.0
    short_usd_per_hour: float = 100.0

    def rent_usd_per_hour(self, power_price: float = 1.0) -> float:
        """USD for an hour of work of a rented replica, its start spread over the time that it is kept; inf: none."""
        if (
            self.rented_usd_per_hour is None
            or self.rented_hold_s <= self.rented_start_s
            or not self.rented_availability
        ):
            return math.inf
        paid = self.rented_usd_per_hour + self.idle_usd_per_hour * (power_price - 1.0)
        return max(0.0, paid) / (1.0 - self.rented_start_s / self.rented_hold_s)


class Hours(NamedTuple):
    """For numbers of replicas that work anyway, ascending by one: USD per hour [replicas, bin] that is kept.

    ``alone`` without renting more, ``best`` with, at ``rent_usd_per_hour`` each (inf: none can be). Both may have more rows
    than were asked for.
    """

    alone: Floats
    best: Floats
    rent_usd_per_hour: float


def enough(surface: Surface, money: UnitMoney, instant: Instant) -> int:
    """Replicas above which nothing is gained."""
    return math.ceil(instant.growth * float(surface.levels[-1]) / money.usable)


def hours(surface: Surface, money: UnitMoney, instant: Instant, replicas: Counts) -> Hours:
    """The best of each bin with these ``replicas`` (ascending by one), and with more up to all that is worth having."""
    rent_usd = money.rent_usd_per_hour(instant.power_price)
    if not math.isfinite(rent_usd):
        alone = _kept(surface, money, instant, replicas)
        return Hours(alone, alone, rent_usd)
    every = np.arange(replicas[0], max(int(replicas[-1]), enough(surface, money, instant)) + 1)
    alone = _kept(surface, money, instant, every)
    rent = rent_usd * (every - every[0])[:, None]
    best = alone - rent
    _run(np.maximum, best[::-1])
    return Hours(alone, best + rent, rent_usd)


def rented(of: Hours, money: UnitMoney, replicas: Counts) -> list[tuple[float, Counts]]:
    """Replicas to rent [replicas, bin] where they can be had and where not, each with its chance; of equals the fewest."""
    none = np.zeros((len(replicas), of.alone.shape[1]), np.int64)
    if not math.isfinite(of.rent_usd_per_hour):
        return [(1.0, none)]
    every = np.arange(len(of.alone))[:, None]
    usd = of.alone - of.rent_usd_per_hour * every
    best = usd.copy()
    _run(np.maximum, best[::-1])
    place = np.where(usd == best, every, len(every))
    _run(np.minimum, place[::-1])
    extra = place[: len(replicas)] - every[: len(replicas)]
    chances = (money.rented_availability, extra), (1.0 - money.rented_availability, none)
    return [(chance, more) for chance, more in chances if chance > 0.0]


def served(surface: Surface, money: UnitMoney, instant: Instant, replicas: Counts) -> tuple[Floats, Floats]:
    """USD per hour [replicas, bin] not bought, and drawn as energy for that, by ``replicas`` [replicas, bin] at work."""
    usd = _net(surface, instant)
    best = usd.copy()
    _run(np.maximum, best)
    used = np.where(usd == best, np.arange(len(usd))[:, None], 0)
    _run(np.maximum, used)
    below, share = _positions(surface, money, instant, replicas)
    bins = np.arange(usd.shape[1])
    low, high = used[below, bins], used[below + 1, bins]
    prices = instant.api_price, instant.power_price
    tables = surface.api_saved_usd_per_hour.T, surface.energy_usd_per_hour.T
    api, energy = (
        price * instant.growth * (table[low, bins] * (1.0 - share) + table[high, bins] * share)
        for price, table in zip(prices, tables, strict=True)
    )
    return api, energy


def missing(surface: Surface, money: UnitMoney, instant: Instant, replicas: Counts) -> Floats:
    """Replicas' worth of work [replicas, bin] that has to stay and finds no room."""
    return np.asarray(np.maximum(0.0, instant.growth * surface.must - money.usable * replicas), np.float64)


def _positions(surface: Surface, money: UnitMoney, instant: Instant, replicas: Counts) -> tuple[Counts, Floats]:
    return position(surface.levels, np.asarray(replicas * (money.usable / instant.growth), np.float64))


def _net(surface: Surface, instant: Instant) -> Floats:
    """USD per hour [level, bin] saved at the prices of ``instant`` and requests of today, in the order of today's worth."""
    return instant.api_price * surface.api_saved_usd_per_hour.T - instant.power_price * surface.energy_usd_per_hour.T


def _kept(surface: Surface, money: UnitMoney, instant: Instant, replicas: Counts) -> Floats:
    """USD per hour [replicas, bin] that working replicas save, less what is missing for what must stay.

    Where at the prices of ``instant`` more of the requests no longer pays, they stay away.
    """
    net = _net(surface, instant)
    _run(np.maximum, net)
    below, share = _positions(surface, money, instant, replicas)
    kept = instant.growth * (net[below] * (1.0 - share)[:, None] + net[below + 1] * share[:, None])
    if surface.must.any():
        kept -= money.short_usd_per_hour * missing(surface, money, instant, replicas[:, None])
    return np.asarray(kept, np.float64)


def _run(ufunc: np.ufunc, table: NDArray[Any]) -> None:
    """``ufunc.accumulate`` along the first axis, in place: row by row, which is several times as fast."""
    for row in range(1, len(table)):
        ufunc(table[row - 1], table[row], out=table[row])
