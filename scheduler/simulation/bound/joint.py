"""The bound where requests may choose between pools: a price for each pool, improved pool by pool, proven request by request.

For any prices, no schedule saves more than the capacity costs at them plus, for every request, the surplus on the pool that
suits it best (weak duality, see ``dual.py``). With the prices of the other pools held, the best price of one pool is that of
the greedy on values less the surplus that each request has elsewhere. Such rounds may stop short of the best prices, so
they start from those of the slotted form on merged groups, which sees all pools at once but only in coarse time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from scheduler.simulation.bound.dual import LeastPrice, Work, allow_late, capacity_usd
from scheduler.simulation.bound.edf import Steps, place
from scheduler.simulation.bound.grouping import merge, one_by_one, slots_of
from scheduler.simulation.bound.pool import split
from scheduler.simulation.bound.site import BoundRequests
from scheduler.simulation.bound.slotted import Groups, solve

_GAIN_MIN = 1e-4  # a round that lowers the bound by less is the last one
_COLUMNS_MAX = 30_000  # HiGHS then takes seconds
_SLOTS_MAX = 5000
_WIDER = 1.4
_BINS = 6  # classes of worth among requests that are otherwise alike
_PASSES = 2


class Joint(NamedTuple):
    """USD saved at most; shares ``[n, K]`` of a schedule for fluid work that comes near; late requests; a price per pool."""

    usd_saved: float
    accepted: np.ndarray
    late_requests: np.ndarray
    prices: tuple[Steps, ...]


class _Site:
    """Requests, pools and, per pool, what serving each request there saves at the current price."""

    def __init__(self, requests: BoundRequests, capacity: tuple[Steps, ...], late_max: int) -> None:
        self.capacity = capacity
        self.late_max = late_max
        self.forced = np.isinf(requests.usd_elsewhere)
        # What stays is compared with its thriftiest pool.
        least = np.where(requests.eligible, requests.energy_usd, np.inf).min(axis=1, initial=np.inf)
        base_usd = np.where(self.forced, least, requests.usd_elsewhere)
        self.works: list[Work] = []
        self.rows: list[np.ndarray] = []
        for k in range(len(capacity)):
            rows = np.flatnonzero(requests.eligible[:, k])
            work = requests.on_pool(k, rows)
            self.rows.append(rows)
            self.works.append(work._replace(usd_saved=base_usd[rows] - requests.energy_usd[rows, k]))
        self._shrink_forced()
        self.net_usd = np.full((len(self.forced), len(capacity)), -np.inf)
        self.late_usd = np.full((len(self.forced), len(capacity)), -np.inf)
        self.pool_usd = np.zeros(len(capacity))
        self.prices: list[Steps] = [Steps(np.zeros(1), np.zeros(1))] * len(capacity)

    def _shrink_forced(self) -> None:
        """Where forced work overfills the pools, go on with as much of it as a first pass can place."""
        left = self.forced.astype(np.float64)
        choices = np.bincount(np.concatenate(self.rows), minlength=len(left)) if self.rows else left
        for k, rows in enumerate(self.rows):
            pick = left[rows] > 0.0
            first = np.where(choices[rows] == 1, 2.0, 1.0)
            left[rows[pick]] -= self._placed(k, pick, first[pick], left[rows[pick]])[0]
        share = np.where(self.forced & (left > 1e-9), 1.0 - left, 1.0)
        self.works = [_scaled(work, share[rows]) for work, rows in zip(self.works, self.rows, strict=True)]

    def _placed(self, k: int, pick: np.ndarray, density: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, Steps]:
        """Shares of the picked requests that one pool can serve, at most ``share`` of each; and its price.

        ``density``: worth in USD per replica-second, infinite where it has to be served.
        """
        part = Work(*(values[pick] for values in self.works[k]))
        work_s = part.prefill_work_s + part.decode_work_s
        must = np.isinf(density)
        value = np.where(must, 0.0, density) * work_s * share
        part = _scaled(part, share)._replace(usd_saved=value, forced=must)
        pieces, delta_s, owner, prefills = split(part)
        placed = place(pieces, delta_s, self.capacity[k])
        served = np.where(part.on_time & ((value > 0.0) | must | (work_s <= 0.0)), share, 0.0)
        for at in (slice(0, prefills), slice(prefills, None)):
            np.minimum.at(served, owner[at], placed.work_s[at] / pieces.work_s[at] * share[owner[at]])
        return served, placed.price

    def reprice(self, k: int, price: Steps) -> None:
        """Take a new price for one pool."""
        work, rows = self.works[k], self.rows[k]
        least = LeastPrice(price)
        self.prices[k] = price
        self.pool_usd[k] = capacity_usd(self.capacity[k], price)
        cost_usd = work.prefill_work_s * least.between(work.arrival_s, work.arrival_s + work.ttft_s)
        cost_usd += work.decode_work_s * least.between(work.arrival_s, work.arrival_s + (work.ttft_s + work.decode_s))
        self.net_usd[rows, k] = np.where(work.on_time, work.usd_saved - cost_usd, -np.inf)
        late_s = work.prefill_work_s + work.decode_work_s
        self.late_usd[rows, k] = work.usd_saved - late_s * least.between(work.arrival_s, work.arrival_s + work.late_s)

    def surplus(self, but: frozenset[int] = frozenset()) -> np.ndarray:
        """The best each request can do without some pools: nothing at least, minus infinity if it has nowhere to go."""
        kept = [k for k in range(len(self.capacity)) if k not in but]
        best: np.ndarray = self.net_usd[:, kept].max(axis=1, initial=-np.inf)
        return np.where(self.forced, best, np.maximum(0.0, best))

    def improve(self, k: int) -> None:
        """The best price of one pool while the others keep theirs."""
        other = self.surplus(frozenset((k,)))[self.rows[k]]
        work_s = self.works[k].prefill_work_s + self.works[k].decode_work_s
        density = (self.works[k].usd_saved - other) / np.where(work_s > 0.0, work_s, 1.0)
        self.reprice(k, self._placed(k, np.ones(len(other), bool), density, np.ones(len(other)))[1])

    def proven(self) -> tuple[float, np.ndarray]:
        """What the prices prove (USD), and the requests that are worth being late."""
        on_time = self.surplus()
        on_time = np.where(np.isneginf(on_time), 0.0, on_time)  # never on time anywhere: left out
        late_usd = self.late_usd.max(axis=1, initial=-np.inf)
        gain_usd = np.where(np.isneginf(late_usd), 0.0, late_usd - on_time)
        late = allow_late(gain_usd, self.late_max)
        return float(self.pool_usd.sum() + on_time.sum() + gain_usd[late].sum()), late

    def schedule(self, wished: np.ndarray) -> np.ndarray:
        """Shares ``[n, K]`` that fit, near those wished for: what does not fit a pool is offered to the next ones."""
        left = np.where(self.forced, 1.0, np.maximum(0.0, 1.0 - wished.sum(axis=1)))
        accepted = wished.copy()
        for _ in range(_PASSES):
            for k, rows in enumerate(self.rows):
                share = np.minimum(1.0, accepted[rows, k] + left[rows])
                pick = np.flatnonzero(share > 0.0)
                work_s = self.works[k].prefill_work_s + self.works[k].decode_work_s
                density = np.where(
                    self.forced[rows], np.inf, self.works[k].usd_saved / np.where(work_s > 0.0, work_s, 1.0)
                )
                accepted[rows[pick], k] = self._placed(k, pick, density[pick], share[pick])[0]
                left[rows[pick]] = share[pick] - accepted[rows[pick], k]
        return accepted


def _scaled(work: Work, share: np.ndarray) -> Work:
    """A share of each request."""
    return work._replace(
        prefill_work_s=work.prefill_work_s * share,
        decode_work_s=work.decode_work_s * share,
        usd_saved=work.usd_saved * share,
    )


def joint(requests: BoundRequests, capacity: tuple[Steps, ...], late_max: int) -> Joint:
    """The bound for all pools together, with at most ``late_max`` late requests."""
    site = _Site(requests, capacity, late_max)
    start, wished = coarse_prices(requests, capacity)
    for k, price in enumerate(start):
        site.reprice(k, price)
    best_usd, late = site.proven()
    prices = tuple(site.prices)
    before_usd = np.inf
    while best_usd < before_usd - _GAIN_MIN * abs(best_usd):
        before_usd = best_usd
        for k in range(len(capacity)):
            site.improve(k)
            usd, now_late = site.proven()
            if usd < best_usd:
                best_usd, late, prices = usd, now_late, tuple(site.prices)
    accepted = site.schedule(wished)
    accepted[late] = np.arange(len(capacity)) == site.late_usd[late].argmax(axis=1)[:, None]
    return Joint(best_usd, accepted, late, prices)


def coarse_prices(requests: BoundRequests, capacity: tuple[Steps, ...]) -> tuple[tuple[Steps, ...], np.ndarray]:
    """Prices of the slotted form on merged groups, with slots as wide as it takes to have few columns, and its shares."""
    from_s = float(requests.arrival_s.min())
    span_s = float(requests.arrival_s.max()) - from_s
    after_s = float((requests.ttft_s[:, None] + requests.decode_s).max(initial=0.0))
    slot_s = max(float(requests.ttft_s.min()) / 2.0, span_s / _SLOTS_MAX, 1e-3)
    while True:
        groups, owner = merge(_willing(one_by_one(requests, from_s, slot_s)), _BINS, outward=False)
        windows = groups.prefill_slot + groups.decode_slot - 2 * groups.first_slot[:, None] + 2
        columns = int(windows[groups.allowed].sum())
        if columns <= _COLUMNS_MAX or slot_s > span_s + after_s:
            break
        # Twice as wide, columns fall by four at most: both the groups and the slots that each may use.
        slot_s *= max(_WIDER, (columns / _COLUMNS_MAX) ** 0.5)
    slots = int(np.ceil((span_s + after_s) / slot_s)) + 1
    flows = solve(groups, slots_of(capacity, from_s, slot_s, slots), 0.0, np.zeros(0))
    at_s = from_s + slot_s * np.arange(slots + 1)
    return tuple(Steps(at_s, np.append(row, 0.0)) for row in flows.price), flows.accepted[owner]


def _willing(groups: Groups) -> Groups:
    """What has to be served is worth more than all else instead: it may not fit, and prices need no proof."""
    work_s = groups.prefill_work_s + groups.decode_work_s
    density = np.where(groups.allowed, groups.usd_saved / np.where(work_s > 0.0, work_s, np.inf), 0.0)
    must = ~groups.may_leave[:, None]
    return replace(
        groups,
        may_leave=np.ones(len(groups.units), bool),
        usd_saved=np.where(must, groups.usd_saved + 2.0 * density.max(initial=0.0) * work_s, groups.usd_saved),
    )
