"""``settle``: what a request cost, what its hardware share is, and what the cheapest alternative would have cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from scheduler.core.market import Decision, LedgerEntry, Outcome
from scheduler.core.supply import FixedCost, Offer, Usage


def settle(decision: Decision, outcomes: Sequence[Outcome], fixed: Mapping[str, FixedCost]) -> LedgerEntry:
    """Close the books on one request.

    ``usd_avoidable`` sums every attempt, failed ones too, since they are money spent. ``usd_fixed_share`` is amortized
    and stands apart. The counterfactual is the cheapest *other* offer of the merit order for the same answer: the usage
    that was is brought back to the gateway's tokens, without its reasoning and cache, and counted as the other offer
    expects it (the same model, described alike, is taken to write and think the same). Without an alternative it equals
    what was paid, so that no saving is claimed.
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
    others = [quote.offer for quote in decision.merit_order if quote.offer is not served]
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
        usd_counterfactual=_cheapest_usd(others, served, usage) if others and last is not None else usd_avoidable,
        ttft_s=ttft_s,
        duration_s=ended_s - request.arrived_s,
        at_s=ended_s,
    )


def _cheapest_usd(others: Sequence[Offer], served: Offer | None, usage: Usage) -> float:
    # No other source has this one's cache: the prompt would be read anew, and nothing is known of what it would write.
    uncached = Usage(usage.input_tokens, 0, usage.output_tokens, 0, 0, usage.reasoning_tokens, usage.searches)
    counted = uncached if served is None else _as_counted(uncached, served)
    return min(
        other.rate.usd(uncached if served is not None and _alike(other, served) else other.expected(counted))
        for other in others
    )


def _alike(other: Offer, served: Offer) -> bool:
    """The same model, described alike, writes and thinks as many tokens there as it did here."""
    return (other.model, other.tokens_ratio, other.reasoning_tokens) == (
        served.model,
        served.tokens_ratio,
        served.reasoning_tokens,
    )


def _as_counted(usage: Usage, served: Offer) -> Usage:
    """Usage measured at ``served`` in the gateway's tokens and without its reasoning: what ``expected`` started from."""
    ratio = served.tokens_ratio
    read, written = usage.input_tokens, usage.output_tokens - usage.reasoning_tokens
    return Usage(_counted(read, ratio), 0, _counted(written, ratio), searches=usage.searches)


def _counted(tokens: int, ratio: float) -> int:
    """The inverse of ``ceil(counted * ratio)``: the most that makes no more than ``tokens``."""
    if ratio == 1.0:
        return tokens
    counted = math.floor(tokens / ratio) + 1  # the quotient is rounded, so what it says is tried
    while math.ceil(counted * ratio) > tokens:
        counted -= 1
    return counted
