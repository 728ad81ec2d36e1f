"""A decision in full: the merit order term by term, and every rejection by name."""

from __future__ import annotations

from typing import Any

import msgspec

from scheduler.core import costs
from scheduler.core.capacity import Capacity, price_usd
from scheduler.core.dispatch import Attempt, next_attempt
from scheduler.core.market import NO_LOAD, Decision, Load, Policy, Quote
from scheduler.core.tickets import pool_of
from serving.view import View

# Seconds of wait over which the slope of the bid price is taken: less than a step of any curve.
_SLOPE_S = 1e-3


def slope_usd(capacity: Capacity, ttft_s_max: float, age_s: float, joined_s: float) -> float:
    """Bid price of one more replica-second of work at the current wait; 0 where no line has a curve."""
    usd = price_usd(capacity.levels, ttft_s_max, _SLOPE_S, age_s, joined_s)
    return usd / _SLOPE_S / max(1, capacity.replicas)


def _bid(
    decision: Decision, quote: Quote, load: Load, solved_at_s: float | None, now_s: float
) -> dict[str, Any] | None:
    """What a pool's time costs at this moment; None for a provider. ``solved_s_ago`` None: no curve was solved yet.

    ``price_usd`` is the full price, for which the gate asks; ``scarcity`` among the terms is the gateways' share of it.
    """
    request, offer, capacity = decision.request, quote.offer, quote.offer.capacity
    if capacity is None:
        return None
    ttft_s_max, age_s = request.service_class.ttft_s_max, max(0.0, now_s - capacity.as_of_s)
    joined_s = capacity.joined_s(load.offers.get(offer.id, NO_LOAD).waiting_s(now_s), age_s)
    added_s = costs.work_s(request, offer) / max(1, capacity.replicas)
    return {
        "wait_s": costs.wait_s(request, offer, load, now_s),
        "price_usd": price_usd(capacity.levels, ttft_s_max, added_s, age_s, joined_s),
        "usd_per_replica_s": slope_usd(capacity, ttft_s_max, age_s, joined_s),
        "solved_s_ago": None if solved_at_s is None else max(0.0, now_s - solved_at_s),
    }


def explanation(decision: Decision, view: View, policy: Policy, now_s: float) -> bytes:
    """JSON for ``/v1/explain``: nothing was run. USD; each quote's terms sum to its ``usd``."""
    solved_at_s = view.bids.solved_at_s
    request = decision.request
    step = next_attempt(decision, (), policy)
    return msgspec.json.encode(
        {
            "object": "decision",
            "decision": (
                {"offer": step.quote.offer.id, "source": step.quote.offer.kind, "model": step.quote.offer.model}
                if isinstance(step, Attempt)
                else {"offer": None, "reason": step.reason}
            ),
            "market_version": decision.market_version,
            "request": {
                "tenant": request.tenant,
                "service_class": request.service_class.name,
                "difficulty": round(request.difficulty, 4),
                "input_tokens": request.usage.input_tokens,
                "output_tokens": request.usage.output_tokens,
                "needs": sorted(request.needs),
                "zones": sorted(request.zones),
                "usd_max": request.usd_max,
            },
            "merit_order": [
                {
                    "offer": quote.offer.id,
                    "source": quote.offer.kind,
                    "model": quote.offer.model,
                    "zone": quote.offer.zone,
                    "usd": quote.usd,
                    "usd_avoidable": quote.usd_cash,
                    "usd_at_most": max(quote.usd_cash, quote.usd_most),
                    "terms": quote.terms if quote.offer.capacity is None else {"scarcity": 0.0} | quote.terms,
                    "bid": _bid(decision, quote, view.load, solved_at_s.get(pool_of(quote.offer.id)), now_s),
                }
                for quote in decision.merit_order
            ],
            "rejected": [{"offer": r.offer_id, "reason": r.reason} for r in decision.rejected],
        }
    )
