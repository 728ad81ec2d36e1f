"""Soft terms: ``(request, offer, load, policy) -> USD``. Their sum is the price at which an offer competes.

    J = cash + scarcity + waiting + wrong_answer (+ floor)      (docs: ARCHITECTURE.md, "One currency")

Nothing here is a weight or a score: each term is money that somebody would pay.
"""

from __future__ import annotations

from collections.abc import Callable

from scheduler.core.market import NO_LOAD, Load, Policy, Request
from scheduler.core.supply import Offer

Cost = Callable[[Request, Offer, Load, Policy], float]


def cash(request: Request, offer: Offer, load: Load, policy: Policy) -> float:
    """Avoidable money: the API bill, or the energy of a GPU, at this request's own token mix."""
    usage = request.usage
    if offer.reasoning_tokens or offer.tokens_ratio != 1.0:
        usage = offer.expected(usage)
    return offer.rate.usd(usage)


def floor(request: Request, offer: Offer, load: Load, policy: Policy) -> float:
    """``policy.local_floor: amortized``: a fixed standard price folded in where a site's chargeback is binding."""
    if offer.floor is None:
        return 0.0
    return offer.floor.usd(offer.curve.work_s(request.usage))


def wait_s(offer: Offer, load: Load) -> float:
    """Predicted seconds in the queue: the snapshot's, plus what this gateway has sent since."""
    if offer.capacity is None:
        return 0.0
    return offer.capacity.wait_s(load.offers.get(offer.id, NO_LOAD).new_since_snapshot)


def scarcity(request: Request, offer: Offer, load: Load, policy: Policy) -> float:
    """Bid price of the pool's time that this request takes away, softened here because the gate asks again."""
    capacity = offer.capacity
    if capacity is None or capacity.bid is None:
        return 0.0
    added_s = offer.curve.work_s(request.usage) / max(1, capacity.replicas)
    return policy.bid_prefilter * capacity.bid.price_usd(wait_s(offer, load), added_s)


def waiting(request: Request, offer: Offer, load: Load, policy: Policy) -> float:
    """Time to first token as money: a price per second, and the price of a missed objective."""
    service_class = request.service_class
    capacity = offer.capacity
    here = load.offers.get(offer.id, NO_LOAD)
    ttft_s = offer.curve.prefill_s(request.usage) * here.ttft_ratio
    if offer.reasoning_tokens:  # the first token that a person reads comes after the thinking
        ttft_s += offer.reasoning_tokens * offer.curve.itl_s(1)
    if capacity is not None:
        ttft_s += capacity.wait_s(here.new_since_snapshot)
    usd = ttft_s * service_class.usd_per_s_waiting
    return usd + service_class.usd_per_ttft_miss if ttft_s > service_class.ttft_s_max else usd


def wrong_answer(request: Request, offer: Offer, load: Load, policy: Policy) -> float:
    """Expected cost of an answer that is not good enough: "hard goes to the frontier" is this term, not a rule."""
    return request.service_class.usd_per_wrong_answer * (1.0 - offer.quality.at(request.difficulty))


COSTS: tuple[tuple[str, Cost], ...] = (
    ("scarcity", scarcity),
    ("waiting", waiting),
    ("wrong_answer", wrong_answer),
    ("floor", floor),
)
