"""What a request is worth at a pool: the ticket for its gate, and the sample of demand from which bid curves are solved."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

from scheduler.core import bids, costs
from scheduler.core.bids import Demand, Sample
from scheduler.core.market import NO_LOAD, Decision, Load, Policy, Quote
from serving.control import Wanted
from serving.gate.wire import Enter

_NO_LOADS = Load({}, {})
# A request that is sent on needs this long to be back at its gateway and on its way to the other source.
_ROUND_TRIP_S = 0.05
# Of each pool in one report. Reports come twice a second, and the controller keeps some thousands for its five minutes.
_SAMPLES_MAX = 32
_REPORT_MAX = 256


@lru_cache(maxsize=4096)
def pool_of(offer_id: str) -> str:
    """The pool or provider that an offer belongs to."""
    return offer_id.partition("/")[0]


def _elsewhere(decision: Decision, quote: Quote, tried: Collection[str]) -> Iterator[Quote]:
    """What is left to try outside the pool of ``quote``: the same engines by another name are no way out."""
    pool = pool_of(quote.offer.id)
    return (q for q in decision.merit_order if q.offer.id not in tried and pool_of(q.offer.id) != pool)


def displaced_usd(decision: Decision, quote: Quote, policy: Policy, tried: Collection[str] = ()) -> float:
    """USD that ``quote``'s pool displaces: the cheapest source outside it that was not tried, less the pool itself.

    Without the pool's scarcity, and without its line: both are judged at the gate, on exact state. inf where no other source
    is left.
    """
    request, offer = decision.request, quote.offer
    other = next(_elsewhere(decision, quote, tried), None)  # the cheapest comes first
    if other is None:
        return math.inf
    usd = bids.displaced(Decision(request, decision.market_version, (quote, other), ())).get(offer.id, math.inf)
    idle_usd = costs.waiting(request, replace(offer, capacity=None), _NO_LOADS, policy, 0.0)
    return usd + quote.terms.get("waiting", 0.0) - idle_usd


def ticket(
    ticket_id: str,
    decision: Decision,
    quote: Quote,
    load: Load,
    policy: Policy,
    tried: Collection[str],
    stream: bool,
    now_s: float,
) -> Enter:
    """What the gate of ``quote``'s pool has to know; ``tried`` are the offers that this request has been refused by.

    With another source left the wait is bounded by the objective, else by the deadline.
    """
    request, offer = decision.request, quote.offer
    usage = costs.usage_at(request, offer)
    objective_s, elapsed_s = request.service_class.ttft_s_max, now_s - request.arrived_s
    left_s = max(0.0, request.deadline_s - now_s)
    others = list(_elsewhere(decision, quote, tried))
    elsewhere_s = _fastest_s(decision, others, load)
    usd = displaced_usd(decision, quote, policy, tried)
    return Enter(
        id=ticket_id,
        work_s=offer.curve.work_s(usage),
        usd_displaced=None if usd == math.inf else usd,
        start_within_s=min(objective_s, left_s) if others else left_s,
        prefill_s=(usage.input_tokens - usage.cached_tokens) / offer.curve.prefill_tokens_per_s,
        kv_tokens=usage.input_tokens + usage.output_tokens,
        ttft_s_max=objective_s,
        ttft_within_s=objective_s - elapsed_s,
        leave_within_s=None if elsewhere_s is None else objective_s - elapsed_s - elsewhere_s - _ROUND_TRIP_S,
        usd_per_s_waiting=request.service_class.usd_per_s_waiting,
        stream=stream,
    )


def _fastest_s(decision: Decision, others: Sequence[Quote], load: Load) -> float | None:
    """Predicted seconds to the first token of the quickest provider among ``others``; None where there is none."""
    found: float | None = None
    for quote in others:
        offer = quote.offer
        if offer.kind == "api":
            ratio = load.offers.get(offer.id, NO_LOAD).ttft_ratio
            ttft_s = offer.curve.prefill_s(costs.usage_at(decision.request, offer)) * ratio
            ttft_s += offer.reasoning_tokens * offer.curve.itl_s(1)
            found = ttft_s if found is None else min(found, ttft_s)
    return found


class Wants:
    """A fair sample of what requests would displace at every pool, wherever they were sent; reported and begun anew."""

    def __init__(self) -> None:
        self._samples: dict[str, Sample] = {}

    def add(self, decision: Decision, policy: Policy) -> None:
        """One decision: each pool that might serve the request, at its cheapest offer."""
        seen = set()
        for quote in decision.merit_order:
            offer = quote.offer
            pool = pool_of(offer.id)
            if offer.capacity is None or pool in seen:
                continue
            seen.add(pool)
            usd = displaced_usd(decision, quote, policy)
            work_s = offer.curve.work_s(costs.usage_at(decision.request, offer))
            sample = self._samples.setdefault(pool, Sample(_SAMPLES_MAX))
            sample.add(Demand(usd, work_s, decision.request.service_class.ttft_s_max))

    def take(self) -> dict[str, list[Wanted]]:
        """By pool, at most some hundreds in all."""
        samples, self._samples = self._samples, {}
        most = max(1, _REPORT_MAX // max(1, len(samples)))
        return {pool: [_line(demand) for demand in _thinned(sample.take(), most)] for pool, sample in samples.items()}


def _thinned(taken: list[Demand], most: int) -> list[Demand]:
    step = math.ceil(len(taken) / most)
    kept = taken[:: max(1, step)]
    return [demand._replace(weight=demand.weight * len(taken) / len(kept)) for demand in kept]


def _line(demand: Demand) -> Wanted:
    usd = demand.usd_displaced
    return Wanted(None if usd == math.inf else usd, demand.work_s, demand.ttft_s_max, demand.weight)
