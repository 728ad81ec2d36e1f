"""The clairvoyant bound on a whole site: the least that any schedule can have paid for these requests, in USD.

Where every request may use one pool at most, pools share nothing but the allowance of late requests, and each is solved
exactly (``pool.py``). Otherwise prices come from the slotted form (``slotted.py``); what they prove is then taken request
by request, so that no grouping or slot of that form is left in the bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scheduler.simulation.bound.dual import Work, allow_late
from scheduler.simulation.bound.edf import Steps
from scheduler.simulation.bound.pool import PoolBound, constant, late_requests_max, pool_bound


@dataclass(frozen=True, slots=True)
class BoundRequests:
    """What is known about n requests and K pools once everything is over.

    ``[n]``: ``arrival_s`` (ascending or not), ``ttft_s`` (limit on the time to the first token), ``late_s`` (when a late
    request has to be done, counted from its arrival), ``usd_elsewhere`` (the cheapest admissible API; infinite if the
    request may not leave). ``[n, K]``: ``energy_usd``, ``prefill_work_s`` and ``decode_work_s`` (replica-seconds),
    ``decode_s`` (what decoding may take after the limit of the first token), ``eligible``.
    """

    arrival_s: np.ndarray
    ttft_s: np.ndarray
    late_s: np.ndarray
    usd_elsewhere: np.ndarray
    energy_usd: np.ndarray
    prefill_work_s: np.ndarray
    decode_work_s: np.ndarray
    decode_s: np.ndarray
    eligible: np.ndarray

    def on_pool(self, pool: int, rows: np.ndarray) -> Work:
        """Those requests as work for one pool."""
        elsewhere, energy = self.usd_elsewhere[rows], self.energy_usd[rows, pool]
        forced = np.isinf(elsewhere)
        prefill = self.prefill_work_s[rows, pool]
        return Work(
            arrival_s=self.arrival_s[rows],
            ttft_s=self.ttft_s[rows],
            decode_s=self.decode_s[rows, pool],
            late_s=self.late_s[rows],
            prefill_work_s=prefill,
            decode_work_s=self.decode_work_s[rows, pool],
            usd_saved=np.where(forced, 0.0, elsewhere - energy),
            forced=forced,
            on_time=prefill <= self.ttft_s[rows],
        )


@dataclass(frozen=True, slots=True)
class BoundPools:
    """``capacity[k]``: replica-seconds per second of pool k (its replicas), over the time of the trace."""

    capacity: tuple[Steps, ...]

    @classmethod
    def fixed(cls, replicas: np.ndarray, from_s: float) -> BoundPools:
        """Pools whose replicas never change, from ``from_s`` on."""
        return cls(tuple(constant(float(count), from_s) for count in replicas))


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
    if (requests.eligible.sum(axis=1) <= 1).all():
        return _separate(requests, pools, allowance)
    raise NotImplementedError


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
    accepted[late, requests.eligible[late].argmax(axis=1)] = 1.0
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
