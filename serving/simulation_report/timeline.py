"""Money, load and bid prices over the judged part of a simulation, in bins wide enough to be read."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from scheduler.simulation.bound.edf import Steps
from scheduler.simulation.simulate import PolicyResult, Result
from scheduler.simulation.tally import BUCKETS

_REQUESTS_PER_BIN = 40
_WIDTHS = (1, 2, 3, 4, 5, 6, 8, 10)  # buckets in a bin: divisors of their number
_UNITS = ((86_400.0, "days", 4.0), (3600.0, "hours", 3.0), (60.0, "minutes", 5.0), (1.0, "seconds", 0.0))


class Bins(NamedTuple):
    """Equal parts of the judged window. ``edges`` on the trace's clock in ``unit``; ``width_s`` seconds each."""

    edges: np.ndarray
    unit: str
    width_s: float
    edges_s: np.ndarray
    merged: int

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self.edges_s) - 1


def bins_of(result: Result) -> Bins:
    """Bins of the tally's buckets, merged until a usual one has some tens of requests."""
    window = result.scenario.judged
    merged = next((w for w in _WIDTHS if result.requests * w >= _REQUESTS_PER_BIN * BUCKETS), _WIDTHS[-1])
    edges_s = np.linspace(window.start_s, window.end_s, BUCKETS // merged + 1)
    size_s, unit, _ = next(row for row in _UNITS if window.end_s >= row[0] * row[2])
    return Bins(edges_s / size_s, unit, window.span_s / (BUCKETS // merged), edges_s, merged)


class Spend(NamedTuple):
    """USD per hour, by bin."""

    api: np.ndarray
    energy: np.ndarray


def spend(policy: PolicyResult, bins: Bins) -> Spend:
    """What a policy paid for the requests that arrived in each bin."""
    sums = policy.tally.series.reshape(bins.size, bins.merged, -1).sum(axis=1) * 3600.0 / bins.width_s
    return Spend(sums[:, 0], sums[:, 1])


class Work(NamedTuple):
    """Replicas that the requests which arrived in each bin would keep busy: served here, by APIs, by nobody."""

    local: np.ndarray
    burst: np.ndarray
    unserved: np.ndarray


def work(policy: PolicyResult, result: Result, bins: Bins) -> Work:
    """Local work by bin and by who took it; requests that no pool could serve have none."""
    assert result.prices is not None  # noqa: S101 - simulate always hands them on
    requests, tally = result.prices.requests, policy.tally
    seconds = np.where(requests.eligible, requests.prefill_work_s + requests.decode_work_s, 0.0).max(axis=1)
    own = {offer_id for pool in result.scenario.site.pools for offer_id in pool.offer_ids}
    takers = np.zeros(max(tally.offers.values(), default=0) + 1, int)
    for offer_id, place in tally.offers.items():
        takers[place] = 0 if offer_id in own else 1 if offer_id else 2
    taken = np.full(len(seconds), 2)
    taken[np.asarray(tally.number, int)] = takers[np.asarray(tally.offer, int)]
    sums = [
        np.histogram(requests.arrival_s[taken == who], bins.edges_s, weights=seconds[taken == who])[0] / bins.width_s
        for who in range(3)
    ]
    return Work(*sums)


def bids(policy: PolicyResult, pool: str, bins: Bins) -> np.ndarray | None:
    """Mean bid price of a pool by bin, USD per replica-second; a bin without a clearing has the price before it."""
    sums = policy.tally.bids.get(pool)
    if sums is None:
        return None
    usd, clearings = sums.reshape(bins.size, bins.merged, 2).sum(axis=1).T
    if not clearings.any():
        return None
    last = np.maximum.accumulate(np.where(clearings > 0, np.arange(bins.size), -1))
    last[last < 0] = int(np.argmax(clearings > 0))
    return np.asarray(usd[last] / clearings[last])


def dual(price: Steps, bins: Bins) -> np.ndarray:
    """Mean of the clairvoyant's price of a pool by bin, USD per replica-second."""
    if not len(price.at_s):
        return np.zeros(bins.size)
    edges_s = np.maximum(bins.edges_s, price.at_s[0])
    found = np.diff(price.integral(edges_s)) / bins.width_s
    return np.where(np.isfinite(found), found, np.nan)
