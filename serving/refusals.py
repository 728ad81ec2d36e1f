"""From "nothing (more) can be tried" to the error that helps the client most, with a computed Retry-After."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.core import constraints
from scheduler.core.dispatch import GiveUp
from scheduler.core.market import NO_LOAD, Decision, Outcome
from serving.dispatcher import Services
from serving.protocol import ProtocolError


def refusal(decision: Decision, give_up: GiveUp, outcomes: Sequence[Outcome], services: Services) -> ProtocolError:
    """503 where asking again may help, 429 for money, 400 where the request itself cannot be served, 504 for time."""
    if give_up.kind == "forbidden":
        return ProtocolError(503, give_up.reason, "no_allowed_source")
    if give_up.kind == "deadline":
        return ProtocolError(504, f"not answered in time ({give_up.reason})", "deadline", retry_after_s=1.0)
    if give_up.kind == "unserved":
        return _unserved(decision, give_up, services)
    return ProtocolError(
        503, f"no source could answer ({give_up.reason})", "sources_failed", retry_after_s=give_up.retry_after_s
    )


def _unserved(decision: Decision, give_up: GiveUp, services: Services) -> ProtocolError:
    reasons = {r.reason for r in decision.rejected} - {constraints.ZONE, constraints.MODEL}
    lacks = {reason for reason in reasons if reason.startswith("lacks ")}
    if reasons and reasons <= {constraints.CONTEXT} | lacks:
        if lacks:
            return ProtocolError(400, f"no source that may serve this offers it: {give_up.reason}", "unsupported")
        return ProtocolError(
            400,
            f"the request is longer than every allowed model's context: {give_up.reason}",
            "context_length_exceeded",
        )
    if reasons and reasons <= {constraints.USD_MAX}:
        return ProtocolError(400, "every allowed source costs more than the request's limit", "cost_limit")
    if constraints.BUDGET in reasons and reasons <= {constraints.BUDGET, constraints.CONTEXT, *lacks}:
        return ProtocolError(429, "the tenant's budget is spent", "insufficient_quota", retry_after_s=60.0)
    now_s = services.clock()
    waits = [
        load.cooldown_until_s - now_s
        for rejection in decision.rejected
        if (load := services.view.load.offers.get(rejection.offer_id, NO_LOAD)).cooldown_until_s > now_s
    ]
    return ProtocolError(503, give_up.reason, "no_source", retry_after_s=max(1.0, min(waits, default=1.0)))
