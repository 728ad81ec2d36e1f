"""Soft terms: ``(request, offer, load, policy, now_s) -> USD``. Their sum is the price at which an offer competes.

    J = cash + scarcity + waiting + pace + wrong_answer (+ floor)      (docs: ARCHITECTURE.md, "One currency")

Nothing here is a weight or a score: each term is money that somebody would pay.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scheduler.core.capacity import price_usd
from scheduler.core.market import NO_LOAD, Load, Policy, Request
from scheduler.core.supply import Offer, Usage

_TPOT_S_OLD = 60.0

Cost = Callable[[Request, Offer, Load, Policy, float], float]


def usage_at(request: Request, offer: Offer) -> Usage:
    """What the request is expected to use there: what its session left in that cache, this tokenizer, the reasoning."""
    usage = request.usage
    if request.prefix_tokens and request.prefix_offer == offer.id and not usage.cached_tokens:
        usage = usage._replace(cached_tokens=min(request.prefix_tokens, usage.input_tokens))
    if offer.reasoning_tokens or offer.tokens_ratio != 1.0:
        usage = offer.expected(usage)
    return usage


def work_s(request: Request, offer: Offer) -> float:
    """Replica-seconds of the pool that the request takes from others; 0 at a provider."""
    capacity = offer.capacity
    return 0.0 if capacity is None else offer.curve.work_s(usage_at(request, offer), capacity.slots_bound)


def cash(request: Request, offer: Offer, load: Load, policy: Policy, now_s: float) -> float:
    """Avoidable money: the API bill, or the energy of a GPU, at this request's own token mix."""
    return offer.rate.usd(usage_at(request, offer))


def floor(request: Request, offer: Offer, load: Load, policy: Policy, now_s: float) -> float:
    """``policy.local_floor: amortized``: a fixed standard price folded in where a site's chargeback is binding."""
    if offer.floor is None:
        return 0.0
    return offer.floor.usd(offer.curve.work_s(request.usage))


def wait_s(request: Request, offer: Offer, load: Load, now_s: float) -> float:
    """Predicted seconds in the pool's line: the snapshot's, drained since, plus what this gateway has sent."""
    capacity = offer.capacity
    if capacity is None:
        return 0.0
    age_s = max(0.0, now_s - capacity.as_of_s)
    here = load.offers.get(offer.id, NO_LOAD)
    joined_s = capacity.joined_s(here.waiting_s(now_s), age_s)
    return capacity.wait_s(request.service_class.ttft_s_max, age_s, joined_s)


def scarcity(request: Request, offer: Offer, load: Load, policy: Policy, now_s: float) -> float:
    """Bid price of the pool's time that this request takes away, softened where a gate asks again on exact state."""
    capacity = offer.capacity
    if capacity is None or not capacity.levels:
        return 0.0
    age_s = now_s - capacity.as_of_s
    if age_s < 0.0:
        age_s = 0.0
    here = load.offers.get(offer.id, NO_LOAD)
    usd = price_usd(
        capacity.levels,
        request.service_class.ttft_s_max,
        work_s(request, offer) / max(1, capacity.replicas),
        age_s,
        capacity.joined_s(here.waiting_s(now_s), age_s),
    )
    return policy.bid_prefilter * usd if capacity.gated else usd


def alone_s(request: Request, offer: Offer, load: Load) -> float:
    """Predicted seconds to the first token that a person reads, where nobody else waits."""
    ttft_s = offer.curve.prefill_s(usage_at(request, offer)) * load.offers.get(offer.id, NO_LOAD).ttft_ratio
    if offer.reasoning_tokens:  # the first token that a person reads comes after the thinking
        ttft_s += offer.reasoning_tokens * offer.curve.itl_s(1)
    return ttft_s


def ttft_usd(request: Request, ttft_s: float) -> float:
    """What a time to first token costs: a price per second, and the price of a missed objective."""
    service_class = request.service_class
    usd = ttft_s * service_class.usd_per_s_waiting
    return usd + service_class.usd_per_ttft_miss if ttft_s > service_class.ttft_s_max else usd


def waiting(request: Request, offer: Offer, load: Load, policy: Policy, now_s: float) -> float:
    """Time to first token as money.

    Behind a gate no request waits for what would miss its objective: it is sent on in time, so the queue alone is no miss.
    """
    ttft_s, limit_s = alone_s(request, offer, load), request.service_class.ttft_s_max
    capacity = offer.capacity
    if capacity is not None and not (capacity.gated and ttft_s > limit_s):
        ttft_s += wait_s(request, offer, load, now_s)
        if capacity.gated:
            ttft_s = min(ttft_s, limit_s)
    return ttft_usd(request, ttft_s)


def pace(request: Request, offer: Offer, load: Load, policy: Policy, now_s: float) -> float:
    """The price of a missed TPOT objective, where one answer in ten was slower lately; by the curve where none was seen."""
    service_class = request.service_class
    if service_class.tpot_s_max == math.inf:
        return 0.0
    here, capacity = load.offers.get(offer.id, NO_LOAD), offer.capacity
    tpot_s = here.tpot_s
    if not tpot_s or now_s - here.tpot_at_s > _TPOT_S_OLD:  # who is left alone for being slow is tried again
        running = 0.0 if capacity is None else capacity.running / max(1, capacity.replicas)
        tpot_s = offer.curve.itl_s(running + 1.0)
    return service_class.usd_per_tpot_miss if tpot_s > service_class.tpot_s_max else 0.0


def wrong_answer(request: Request, offer: Offer, load: Load, policy: Policy, now_s: float) -> float:
    """Expected cost of an answer that is not good enough: "hard goes to the frontier" is this term, not a rule."""
    return request.service_class.usd_per_wrong_answer * (1.0 - offer.quality.at(request.difficulty))


COSTS: tuple[tuple[str, Cost], ...] = (
    ("scarcity", scarcity),
    ("waiting", waiting),
    ("pace", pace),
    ("wrong_answer", wrong_answer),
    ("floor", floor),
)
