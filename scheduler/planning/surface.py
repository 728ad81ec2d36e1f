"""What a number of working replicas is worth in each time bin, from all requests of one unit as arrays.

In a bin the requests with the highest saving per replica-second are served first, the last of them in part: the optimum
of the fractional knapsack (Dantzig 1957), and what a shadow price on replica-seconds comes to (economics: section 1). Fluid:
work neither waits for the next bin nor is lost to queueing; how much of a replica counts is for the caller to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_SECONDS_PER_HOUR = 3600.0
_CLOSE = 1e-9


class Rows(Protocol):
    """All requests of one unit as columns [request], in any order; ``planning.units.Unit`` is one.

    ``at_s`` seconds; ``work_s`` replica-seconds on its technology (infinite: cannot be served); ``elsewhere_usd`` at the
    cheapest API (infinite: has to stay); ``energy_usd`` at home. Each row stands for ``stands_for`` requests.
    """

    @property
    def at_s(self) -> NDArray[Any]: ...
    @property
    def work_s(self) -> NDArray[Any]: ...
    @property
    def elsewhere_usd(self) -> NDArray[Any]: ...
    @property
    def energy_usd(self) -> NDArray[Any]: ...
    @property
    def stands_for(self) -> float: ...


class Position(NamedTuple):
    """Where capacities lie among levels: the level below, and the share of the way to the next one."""

    below: NDArray[np.int64]
    share: Floats


@dataclass(frozen=True, slots=True)
class Surface:
    """Savings of one unit, per bin and level of working replicas; USD per hour and replicas, by time bin.

    ``edges_s`` [bin + 1]. ``levels`` [level] replicas, from 0, ascending. ``api_saved_usd_per_hour`` and
    ``energy_usd_per_hour`` [bin, level]: what is no longer bought, and what serving that at home draws; both are 0 up to
    ``must``, their difference is concave and rises from there on. ``must`` [bin]: replicas for what has to stay, with
    ``must_energy_usd_per_hour``. ``all_api_usd_per_hour`` [bin]: all that may leave is bought. ``load`` [bin]: all that
    this technology could serve.
    """

    edges_s: Floats
    levels: Floats
    api_saved_usd_per_hour: Floats
    energy_usd_per_hour: Floats
    all_api_usd_per_hour: Floats
    load: Floats
    must: Floats
    must_energy_usd_per_hour: Floats

    @property
    def hours(self) -> Floats:
        """Length of each bin."""
        return np.diff(self.edges_s) / _SECONDS_PER_HOUR

    def saved(self, capacity: Floats | float, growth: float = 1.0) -> Floats:
        """USD per hour [bin] that ``capacity`` working replicas (one figure, or one per bin) save, net of energy.

        ``growth`` times the requests: each share of the capacity then meets the traffic of today, so that it is
        growth * saved(capacity / growth). What the work that has to stay draws is not in it: nobody can avoid that.
        """
        at = np.broadcast_to(np.asarray(capacity, np.float64) / growth, self.load.shape)
        below, share = position(self.levels, at)
        rows = np.arange(len(at))
        net = self.api_saved_usd_per_hour - self.energy_usd_per_hour
        return growth * (net[rows, below] * (1.0 - share) + net[rows, below + 1] * share)


def position(levels: Floats, capacity: Floats) -> Position:
    """For interpolation between ``levels``; flat above the last one. There are at least two levels, the first is 0."""
    below = np.clip(np.searchsorted(levels, capacity, side="right") - 1, 0, len(levels) - 2)
    share = (capacity - levels[below]) / (levels[below + 1] - levels[below])
    return Position(below, np.clip(share, 0.0, 1.0))


def bins_of(at_s: NDArray[Any], edges_s: Floats) -> NDArray[np.int64]:
    """The bin of each instant; the end of the last bin belongs to it. Raises ValueError for what lies outside."""
    found = np.searchsorted(edges_s, at_s, side="right") - 1
    found[at_s == edges_s[-1]] = len(edges_s) - 2
    outside = int(np.count_nonzero((found < 0) | (found > len(edges_s) - 2)))
    if outside:
        raise ValueError(f"{outside} requests lie outside of the time bins")
    return found


def load_of(requests: Rows, edges_s: Floats) -> Floats:
    """Replicas [bin] that all which can be served here takes on average: levels up to its largest are always enough."""
    return _per_bin(requests.work_s, requests, edges_s, bins_of(requests.at_s, edges_s), np.isfinite(requests.work_s))


def surface_of(requests: Rows, edges_s: Floats, levels: Floats) -> Surface:
    """The surface of a unit. ``edges_s`` and ``levels`` ascend strictly, ``levels`` from 0.

    What may leave and would not save anything at home never goes home. Raises ValueError where ``levels`` ends below what
    is worth serving in some bin (so that it is flat above), and for a request that must stay and cannot be served.
    """
    if len(levels) < 2 or levels[0] != 0.0 or not (np.diff(levels) > 0.0).all() or not (np.diff(edges_s) > 0.0).all():
        raise ValueError("levels ascend from 0 and time bins have a length")
    bins = bins_of(requests.at_s, edges_s)
    fits, may_leave = np.isfinite(requests.work_s), np.isfinite(requests.elsewhere_usd)
    if (lost := int(np.count_nonzero(~(fits | may_leave)))) > 0:
        raise ValueError(f"{lost} requests have to stay and cannot be served here")
    must = _per_bin(requests.work_s, requests, edges_s, bins, ~may_leave)
    rows = np.flatnonzero(fits & may_leave & (requests.elsewhere_usd > requests.energy_usd))
    api, energy = _filled(requests, rows, bins[rows], edges_s, levels, must)
    return Surface(
        edges_s=edges_s,
        levels=levels,
        api_saved_usd_per_hour=api,
        energy_usd_per_hour=energy,
        all_api_usd_per_hour=_SECONDS_PER_HOUR * _per_bin(requests.elsewhere_usd, requests, edges_s, bins, may_leave),
        load=_per_bin(requests.work_s, requests, edges_s, bins, fits),
        must=must,
        must_energy_usd_per_hour=_SECONDS_PER_HOUR * _per_bin(requests.energy_usd, requests, edges_s, bins, ~may_leave),
    )


def _per_bin(
    values: NDArray[Any], requests: Rows, edges_s: Floats, bins: NDArray[np.int64], which: NDArray[np.bool_]
) -> Floats:
    """Sum of ``values`` [request] per second of each bin."""
    total = np.bincount(bins[which], values[which], minlength=len(edges_s) - 1)
    return np.asarray(total * requests.stands_for / np.diff(edges_s), np.float64)


def _filled(
    requests: Rows,
    rows: NDArray[np.int64],
    bins: NDArray[np.int64],
    edges_s: Floats,
    levels: Floats,
    must: Floats,
) -> tuple[Floats, Floats]:
    """USD per hour [bin, level] saved at the API and drawn at home, when ``rows`` are served in order of their worth."""
    work_s = np.asarray(requests.work_s[rows], np.float64)
    with np.errstate(divide="ignore"):
        density = (requests.elsewhere_usd[rows] - requests.energy_usd[rows]) / work_s
    order = np.lexsort((-density, bins))
    rows = rows[order]
    work_s = work_s[order]
    columns = [np.asarray(part[rows], np.float64) for part in (requests.elsewhere_usd, requests.energy_usd)]
    ends = np.concatenate([[0], np.cumsum(np.bincount(bins, minlength=len(must)))])
    # Level by level in memory: whoever looks for the best level of all bins at once goes through it in that order.
    api, energy = (np.zeros((len(levels), len(must))).T for _ in range(2))
    # Sums begin anew in each bin: differences of one long sum would lose the digits of small bins.
    for row, (first, last, length_s) in enumerate(zip(ends[:-1], ends[1:], np.diff(edges_s), strict=True)):
        here = slice(first, last)
        per_s = requests.stands_for / length_s
        served = must[row] + np.concatenate([[0.0], np.cumsum(work_s[here])]) * per_s
        if served[-1] > levels[-1] * (1.0 + _CLOSE):
            raise ValueError(f"levels end at {levels[-1]:g} replicas, and {served[-1]:g} are worth having in bin {row}")
        for table, column in zip((api, energy), columns, strict=True):
            usd = np.concatenate([[0.0], np.cumsum(column[here])])
            table[row] = np.interp(levels, served, usd * (per_s * _SECONDS_PER_HOUR))
    return api, energy
