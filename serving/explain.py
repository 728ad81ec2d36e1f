"""A decision in full: the merit order term by term, and every rejection by name."""

from __future__ import annotations

import msgspec

from scheduler.core.dispatch import Attempt, next_attempt
from scheduler.core.market import Decision, Policy


def explanation(decision: Decision, policy: Policy) -> bytes:
    """JSON for ``/v1/explain``: nothing was run. USD; each quote's terms sum to its ``usd``."""
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
                    "terms": quote.terms,
                }
                for quote in decision.merit_order
            ],
            "rejected": [{"offer": r.offer_id, "reason": r.reason} for r in decision.rejected],
        }
    )
