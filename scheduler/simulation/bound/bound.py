"""The clairvoyant bound on a whole site: the least that any schedule can have paid for these requests, in USD.

Where every request may use one pool at most, pools share nothing but the allowance of late requests, and each is solved
exactly (``pool.py``). Otherwise prices of all pools are sought together (``joint.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from scheduler.simulation.bound.dual import allow_late
from scheduler.simulation.bound.edf import Steps
from scheduler.simulation.bound.joint import joint
from scheduler.simulation.bound.pool import PoolBound, late_requests_max, pool_bound
from scheduler.simulation.bound.site import BoundPools, BoundRequests

__all__ = ["Bound", "BoundPools", "BoundRequests", "clairvoyant"]


@dataclass(frozen=True, slots=True)
class Bound:
    """No schedule with at most that many late requests pays less than ``usd_total``.

    ``usd_total`` is proven: ``usd_all_api - usd_saved``. ``usd_api`` and ``usd_energy`` describe the optimum of the relaxed
    problem (``accepted``, ``[n, K]`` shares of each request served by each pool, the late requests in full), and add up to
    ``usd_total`` only up to the gap of the proof. ``usd_all_api``: everything that may leave does, the rest at its energy.
    ``prices``: USD per replica-second, by pool. ``local_share``: of the requests, by number.
    """

    usd_total: float
    usd_saved: float
    usd_api: float
    usd_energy: float
    usd_all_api: float
    accepted: np.ndarray
    late_requests: np.ndarray
    prices: tuple[Steps, ...]
    local_share: float
    method: str


def clairvoyant(requests: BoundRequests, pools: BoundPools, allowance: float) -> Bound:
    """The bound for these requests on these pools, where at most ``allowance`` (a fraction) of them may be late.

    A request that may neither leave nor use a pool is nobody's cost. Forced requests are as in ``pool_bound``.
    """
    # A pool that never has capacity serves nobody who may leave: its price would have to be sought without end.
    is_there = np.array([level.level.any() for level in pools.capacity], bool)
    eligible = requests.eligible & (is_there | np.isinf(requests.usd_elsewhere)[:, None])
    requests = replace(requests, eligible=eligible)
    if (requests.eligible.sum(axis=1) <= 1).all():
        return _separate(requests, pools, allowance)
    found = joint(requests, pools.capacity, late_requests_max(len(requests.arrival_s), allowance))
    return _account(requests, found.accepted, found.late_requests, found.usd_saved, found.prices, "prices of all pools")


def _separate(requests: BoundRequests, pools: BoundPools, allowance: float) -> Bound:
    """Every request has one pool at most: each pool alone, then the allowance where it is worth most."""
    count, kinds = requests.eligible.shape
    accepted, gain_usd = np.zeros((count, kinds)), np.zeros(count)
    solved: list[PoolBound] = []
    for k in range(kinds):
        rows = np.flatnonzero(requests.eligible[:, k])
        bound = pool_bound(requests.on_pool(k, rows), pools.capacity[k], 0.0)
        accepted[rows, k], gain_usd[rows] = bound.accepted, bound.late_gain_usd
        solved.append(bound)
    late = allow_late(gain_usd, late_requests_max(count, allowance))
    accepted[late] = requests.eligible[late]  # the one pool that each of them has
    saved_usd = sum(bound.usd_saved_on_time for bound in solved) + float(gain_usd[late].sum())
    return _account(requests, accepted, late, saved_usd, tuple(bound.price for bound in solved), "greedy by pool")


def _account(
    requests: BoundRequests,
    accepted: np.ndarray,
    late: np.ndarray,
    saved_usd: float,
    prices: tuple[Steps, ...],
    method: str,
) -> Bound:
    """The bill of the optimum."""
    may_leave = np.isfinite(requests.usd_elsewhere)
    elsewhere_usd = np.where(may_leave, requests.usd_elsewhere, 0.0)
    forced = ~may_leave & requests.eligible.any(axis=1)
    # What must stay is served sometime, whether or not that is on time; where several pools could, by the thriftiest.
    thrifty = np.where(requests.eligible, requests.energy_usd, np.inf)[forced].min(axis=1, initial=np.inf)
    forced_usd = float(thrifty.sum())
    local = np.minimum(1.0, accepted.sum(axis=1))
    local[forced] = 1.0
    all_api_usd = float(elsewhere_usd.sum()) + forced_usd
    return Bound(
        usd_total=all_api_usd - saved_usd,
        usd_saved=saved_usd,
        usd_api=float(np.dot(elsewhere_usd, 1.0 - local)),
        usd_energy=forced_usd + float((accepted * requests.energy_usd)[may_leave].sum()),
        usd_all_api=all_api_usd,
        accepted=accepted,
        late_requests=late,
        prices=prices,
        local_share=float(local.mean()) if len(local) else 0.0,
        method=method,
    )
