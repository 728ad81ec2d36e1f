"""``clear``: about once a second, from what was observed: capacity, health, bid prices, and the money leases.

The bid price here is the static rule of the plan: the worth per replica-second of the last request that still fits when
the pool's time is handed out dearest first. It is zero while there is room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from scheduler.core.market import Lease, Market, Policy
from scheduler.core.supply import BidCurve, Capacity, Offer


class Demand(NamedTuple):
    """One recent request at a gate: what it would have cost elsewhere above its cost here, and its work."""

    usd_displaced: float
    work_s: float


@dataclass(frozen=True, slots=True)
class PoolObservation:
    """What a pool's gate reports. ``demand`` is a bounded sample of the last ``demand_span_s`` seconds."""

    replicas: int
    slots: int
    running: int
    waiting: int
    service_s_mean: float
    as_of_s: float
    demand: tuple[Demand, ...] = ()
    demand_span_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything that one clearing reads: priced offers, pool states, granted leases."""

    now_s: float
    offers: tuple[Offer, ...]
    pools: Mapping[str, PoolObservation] = field(default_factory=dict)
    leases: Mapping[str, Lease] = field(default_factory=dict)
    stale_after_s: float = 5.0


def clear(market: Market, observation: Observation, policy: Policy) -> Market:
    """The next market. Offers past their price's time to live drop out; a pool nobody has heard from is down."""
    offers = []
    for offer in observation.offers:
        if offer.expires_s <= observation.now_s:
            continue
        if offer.kind == "api":
            offers.append(offer)
            continue
        pool = observation.pools.get(offer.id)
        if pool is None or observation.now_s - pool.as_of_s > observation.stale_after_s:
            offers.append(replace(offer, healthy=False, capacity=None))
            continue
        capacity = Capacity(
            replicas=pool.replicas,
            slots=pool.slots,
            running=pool.running,
            waiting=pool.waiting,
            service_s_mean=pool.service_s_mean,
            as_of_s=pool.as_of_s,
            bid=bid_curve(pool.demand, pool.replicas, pool.demand_span_s, policy.horizon_s),
        )
        offers.append(replace(offer, healthy=pool.replicas > 0, capacity=capacity))
    return Market(market.version + 1, observation.now_s, tuple(offers), observation.leases)


# A wait below this is nobody's loss: time that no one waits for is free, however dear it was a moment ago.
_FREE_WAIT_S = 0.1


def bid_curve(demand: Sequence[Demand], replicas: int, span_s: float, horizon_s: float) -> BidCurve | None:
    """V(x) = -lambda * replicas * (x - 0.1 s)+, lambda the USD per replica-second at the margin; None while there is room.

    lambda is the worth ``usd_displaced / work_s`` at which the work of ``demand``, dearest first, fills the replicas'
    time over ``span_s``.
    """
    if not demand or replicas <= 0 or span_s <= 0:
        return None
    room_s = replicas * span_s
    for usd_displaced, work_s in sorted(demand, key=lambda d: -d.usd_displaced / max(d.work_s, 1e-9)):
        room_s -= work_s
        if room_s < 0:
            usd_per_s = max(0.0, usd_displaced / max(work_s, 1e-9))
            if not usd_per_s:
                return None
            return BidCurve(
                (0.0, _FREE_WAIT_S, horizon_s), (0.0, 0.0, -usd_per_s * replicas * (horizon_s - _FREE_WAIT_S))
            )
    return None


def grant(
    usd_budget: float,
    usd_spent_elsewhere: float,
    granted: Mapping[str, float],
    spent: Mapping[str, float],
    gateway: str,
) -> float:
    """USD that ``gateway`` may have spent in all since it started, so that all gateways together keep the budget.

    ``granted`` (the most that it may still believe to hold) and ``spent`` are cumulative per live gateway;
    ``usd_spent_elsewhere`` is what gateways that are gone have spent. What others were granted and have not spent
    counts as spent; the rest is shared equally, one share kept back, so the sum of all grants never exceeds the
    budget, however stale the reports. A grant is never below what was spent already; the last of a budget goes in
    ever smaller grants.
    """
    mine = spent.get(gateway, 0.0)
    committed = usd_spent_elsewhere + mine
    for other in granted.keys() | spent.keys():
        if other != gateway:
            committed += max(granted.get(other, 0.0), spent.get(other, 0.0))
    free = max(0.0, usd_budget - committed)
    alive = len(granted.keys() | spent.keys() | {gateway})
    # One share stays with nobody: a gateway that starts (or restarts, while its old leases still count) finds it.
    return mine + free / (alive + 1)
