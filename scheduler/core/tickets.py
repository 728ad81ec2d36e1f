"""From a decision to a ticket: what a request is worth at a pool, and until when it may wait there."""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import lru_cache

from scheduler.core import costs
from scheduler.core.admission import Ticket
from scheduler.core.market import Decision, Load, Quote

# A request that is sent on needs this long to be back at its gateway and on its way to the other source.
ROUND_TRIP_S = 0.05
# A provider's first token may take this much longer than it usually does; who leaves a line leaves in time for that.
_SPREAD = 1.4


@lru_cache(maxsize=4096)
def pool_of(offer_id: str) -> str:
    """The pool or provider that an offer belongs to."""
    return offer_id.partition("/")[0]


def displaced_usd(decision: Decision, quote: Quote, load: Load, tried: Collection[str] = ()) -> float:
    """USD that ``quote``'s pool displaces: the cheapest source outside it that was not tried, less the pool itself.

    Without the scarcity and the line of the pool: both are judged at the gate, on exact state. The same engines by another
    name are no way out; other pools count with their scarcity, as they are no free one. inf where no other source is left.
    """
    pool = pool_of(quote.offer.id)
    for other in decision.merit_order:  # the cheapest comes first
        if other.offer.id not in tried and pool_of(other.offer.id) != pool:
            idle_usd = costs.ttft_usd(decision.request, costs.alone_s(decision.request, quote.offer, load))
            line_usd = quote.terms.get("waiting", 0.0) - idle_usd
            return other.usd - quote.usd + quote.terms.get("scarcity", 0.0) + line_usd
    return math.inf


def elsewhere_s(decision: Decision, quote: Quote, load: Load, tried: Collection[str]) -> float:
    """Predicted seconds to the first token of the quickest provider that was not tried; inf where there is none."""
    found = math.inf
    for other in decision.merit_order:
        offer = other.offer
        if offer.kind == "api" and offer.id not in tried and offer is not quote.offer:
            found = min(found, costs.alone_s(decision.request, offer, load))
    return found


def ticket(
    ticket_id: str, decision: Decision, quote: Quote, load: Load, tried: Collection[str], now_s: float
) -> Ticket:
    """What the gate of ``quote``'s pool has to know; ``tried`` are the offers that this request has been refused by.

    With another source left it is held until its objective, else until its deadline.
    """
    request, offer = decision.request, quote.offer
    usage, objective_s = costs.usage_at(request, offer), request.service_class.ttft_s_max
    usd = displaced_usd(decision, quote, load, tried)
    ttft_by_s = request.arrived_s + objective_s
    hold_s = request.deadline_s - now_s
    if usd != math.inf:
        hold_s = min(hold_s, objective_s)
    return Ticket(
        id=ticket_id,
        work_s=costs.work_s(request, offer),
        usd_displaced=usd,
        arrived_s=now_s,
        start_by_s=now_s + max(0.0, hold_s),
        prefill_s=(usage.input_tokens - usage.cached_tokens) / offer.curve.prefill_tokens_per_s,
        kv_tokens=usage.input_tokens + usage.output_tokens,
        ttft_s_max=objective_s,
        ttft_by_s=ttft_by_s,
        leave_by_s=ttft_by_s - _SPREAD * elsewhere_s(decision, quote, load, tried) - ROUND_TRIP_S,
        usd_per_s_waiting=request.service_class.usd_per_s_waiting,
    )
