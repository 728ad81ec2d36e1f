"""Dispatch policies by name: the shipped one, and the rules that people use today, all on the live functions.

A rule is what changes: the soft costs that ``decide`` sorts by, whether bid prices are made and the gate asks for them, how
long a gate may hold a request, and what the policy knows. Everything else (filters, fallback, accounting) is the same code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from scheduler.core import costs
from scheduler.core.costs import COSTS, Cost
from scheduler.core.market import NO_LOAD, Decision, Load, Policy, Quote, Request
from scheduler.core.standing import Standing
from scheduler.core.supply import Offer
from scheduler.simulation import litellm_rules
from scheduler.simulation.litellm_rules import Deployment

Soft = Sequence[tuple[str, Cost]]
Reorder = Callable[[Decision, Standing, float], Decision]

COMMITMENT = "commitment"
# More than any request costs: what a rule will not use comes after everything that it will.
_LAST_USD = 1e6
_BUT_SCARCITY = tuple((name, cost) for name, cost in COSTS if name != "scarcity")


@dataclass(frozen=True, slots=True)
class Rule:
    """One policy. ``threshold`` is what tuning turns, ``thresholds`` the values that it tries.

    ``hold``: the share of the time until the last moment to leave for which a gate may hold a request. ``scales``: who says
    how many replicas there are (nobody: as many as there may be).
    """

    name: str
    soft: Soft
    bids: bool = False
    evicts: bool = False
    knows_lengths: bool = False
    scales: Literal["", "hpa", "commitment"] = ""
    hold: float = 1.0
    reorders: Reorder | None = None
    threshold: float = 0.0
    thresholds: tuple[float, ...] = ()

    def start_by_s(self, leave_by_s: float, now_s: float) -> float:
        """Until when a gate may hold a request that has somewhere else to go."""
        return now_s + self.hold * max(0.0, leave_by_s - now_s)


def _is_local(offer: Offer) -> bool:
    return offer.capacity is not None or offer.kind != "api"


def preference(prefers: Cost) -> Soft:
    """Costs of a rule that has no money in it but the bill: ``prefers`` says how much later an offer comes."""
    return (*_BUT_SCARCITY, ("preference", prefers))


def _all_api(request: Request, offer: Offer, load: Load, policy: Policy, now_s: float) -> float:
    return _LAST_USD if _is_local(offer) else 0.0


def _all_local(request: Request, offer: Offer, load: Load, policy: Policy, now_s: float) -> float:
    return 0.0 if _is_local(offer) else _LAST_USD


def _overflow_queue(threshold: float) -> Soft:
    """Local until the wait in line (the snapshot's and this gateway's own) reaches ``threshold`` of the objective."""

    def prefers(request: Request, offer: Offer, load: Load, policy: Policy, now_s: float) -> float:
        if not _is_local(offer):
            return _LAST_USD
        full = costs.wait_s(request, offer, load, now_s) > threshold * request.service_class.ttft_s_max
        return 2.0 * _LAST_USD if full else 0.0

    return preference(prefers)


def _overflow_kv(threshold: float) -> Soft:
    """Local until the KV cache of the pool is full to ``threshold``, or its slots are where the cache is not known."""

    def prefers(request: Request, offer: Offer, load: Load, policy: Policy, now_s: float) -> float:
        capacity = offer.capacity
        if not _is_local(offer) or capacity is None:
            return _LAST_USD
        slots = capacity.running / capacity.slots if capacity.slots else 1.0
        usage = capacity.kv_usage or slots
        return 2.0 * _LAST_USD if usage > threshold or capacity.waiting > capacity.slots else 0.0

    return preference(prefers)


def _static_price(usd_per_replica_s: float) -> Soft:
    """A constant shadow price on work, as a planner would compute it once."""

    def scarcity(request: Request, offer: Offer, load: Load, policy: Policy, now_s: float) -> float:
        return usd_per_replica_s * costs.work_s(request, offer)

    return (*_BUT_SCARCITY, ("scarcity", scarcity))


def _quality_threshold(threshold: float) -> Soft:
    """Difficult requests to the API, the others local: routing by quality alone."""

    def prefers(request: Request, offer: Offer, load: Load, policy: Policy, now_s: float) -> float:
        return _LAST_USD if _is_local(offer) == (request.difficulty > threshold) else 0.0

    return preference(prefers)


def _lowest_cost(decision: Decision, standing: Standing, now_s: float) -> Decision:
    return _reordered(decision, standing, litellm_rules.lowest_cost)


def _least_busy(decision: Decision, standing: Standing, now_s: float) -> Decision:
    return _reordered(decision, standing, litellm_rules.least_busy)


def _reordered(
    decision: Decision, standing: Standing, choose: Callable[[Sequence[Deployment]], int | None]
) -> Decision:
    """The merit order that litellm's router makes: its choice first, and after a failure its choice among the rest."""
    left = list(decision.merit_order)
    loads = standing.load.offers
    order: list[Quote] = []
    while left:
        chosen = choose(
            [
                Deployment(
                    usd_per_input=quote.offer.rate.usd_per_input,
                    usd_per_output=quote.offer.rate.usd_per_output,
                    in_flight=loads.get(quote.offer.id, NO_LOAD).inflight,
                )
                for quote in left
            ]
        )
        order.append(left.pop(chosen or 0))
    return replace(decision, merit_order=tuple(order))


_WAITS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
_SHARES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 0.9)
_DIFFICULTIES = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0)


def rule(name: str, threshold: float = math.nan) -> Rule:
    """The policy of that name; ``threshold`` where it has one to tune. Raises KeyError for an unknown name."""
    made = {
        "bid-price": lambda t: Rule("bid-price", COSTS, bids=True, evicts=True),
        COMMITMENT: lambda t: Rule(COMMITMENT, COSTS, bids=True, evicts=True, scales="commitment"),
        "all-api": lambda t: Rule("all-api", preference(_all_api)),
        "all-local": lambda t: Rule("all-local", preference(_all_local)),
        "overflow-queue": lambda t: Rule("overflow-queue", _overflow_queue(t), threshold=t, thresholds=_WAITS),
        "overflow-kv": lambda t: Rule("overflow-kv", _overflow_kv(t), threshold=t, thresholds=_SHARES),
        "static-price": lambda t: Rule("static-price", _static_price(t), threshold=t),
        "quality-threshold": lambda t: Rule(
            "quality-threshold", _quality_threshold(t), threshold=t, thresholds=_DIFFICULTIES
        ),
        "lowest-cost": lambda t: Rule("lowest-cost", _BUT_SCARCITY, reorders=_lowest_cost),
        "least-busy": lambda t: Rule("least-busy", _BUT_SCARCITY, reorders=_least_busy),
        "hpa": lambda t: Rule(
            "hpa", _overflow_queue(0.5), scales="hpa", threshold=t, thresholds=(0.5, 0.65, 0.8, 0.95)
        ),
        "greedy-perfect": lambda t: Rule("greedy-perfect", _overflow_queue(0.93), knows_lengths=True),
    }
    return made[name](threshold)


NAMES = (
    "bid-price", "overflow-queue", "overflow-kv", "lowest-cost", "least-busy", "static-price", "quality-threshold",
    "hpa", "greedy-perfect", "all-api", "all-local",
)  # fmt: skip
# The last is the shipped policy on replicas that come and go, where the site file lets them.
KNOWN = (*NAMES, COMMITMENT)
