"""``clear``: about once a second, from what was observed: capacity, health, bid prices, and the money leases.

The bid curves come from ``bids.BidBook``, which solves V(x) anew every quarter of a minute; here they meet the lines that
they are read at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from scheduler.core.capacity import BidCurve, Capacity
from scheduler.core.market import Lease, Market, Policy
from scheduler.core.supply import Offer


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything that one clearing reads: priced offers, leases, and pools as their gates report them."""

    now_s: float
    offers: tuple[Offer, ...]
    pools: Mapping[str, Capacity] = field(default_factory=dict)
    leases: Mapping[str, Lease] = field(default_factory=dict)
    bids: Mapping[str, Mapping[float, BidCurve | None]] = field(default_factory=dict)  # by offer and TTFT objective
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
        bids = observation.bids.get(offer.id, {})
        levels = tuple(level._replace(bid=bids.get(level.ttft_s_max, level.bid)) for level in pool.levels)
        capacity = replace(pool, levels=levels)
        offers.append(replace(offer, healthy=pool.replicas > 0, capacity=capacity))
    return Market(market.version + 1, observation.now_s, tuple(offers), observation.leases)


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
