"""``settle``: what a request cost, what its hardware share is, and what the cheapest alternative would have cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scheduler.core.market import Decision, LedgerEntry, Outcome
from scheduler.core.supply import FixedCost, Usage


def settle(decision: Decision, outcomes: Sequence[Outcome], fixed: Mapping[str, FixedCost]) -> LedgerEntry:
    """Close the books on one request.

    ``usd_avoidable`` sums every attempt, failed ones too, since they are money spent. ``usd_fixed_share`` is amortized
    and stands apart. The counterfactual is the cheapest *other* offer of the merit order at the usage that really was;
    without an alternative it equals what was paid, so that no saving is claimed.
    """
    request = decision.request
    usd_avoidable = sum(outcome.usd for outcome in outcomes)
    last = outcomes[-1] if outcomes else None
    served = next((quote.offer for quote in decision.merit_order if last and quote.offer.id == last.offer_id), None)
    usage = last.usage if last is not None else Usage(0, 0, 0)
    usd_fixed = 0.0
    for outcome in outcomes:
        offer = next((quote.offer for quote in decision.merit_order if quote.offer.id == outcome.offer_id), None)
        if offer is not None and offer.id in fixed and outcome.status != "bounced":
            usd_fixed += fixed[offer.id].usd(offer.curve.work_s(outcome.usage))
    others = [quote.offer.rate.usd(usage) for quote in decision.merit_order if quote.offer is not served]
    ended_s = last.ended_s if last is not None else request.arrived_s
    ttft_s = last.started_s + last.ttft_s - request.arrived_s if last is not None and last.ttft_s is not None else None
    return LedgerEntry(
        request_id=request.id,
        offer_id=served.id if served else "",
        kind=served.kind if served else "",
        model=served.model if served else "",
        status=last.status if last is not None else "unserved",
        usage=usage,
        usd_avoidable=usd_avoidable,
        usd_fixed_share=usd_fixed,
        usd_counterfactual=min(others) if others and last is not None else usd_avoidable,
        ttft_s=ttft_s,
        duration_s=ended_s - request.arrived_s,
        at_s=ended_s,
    )
