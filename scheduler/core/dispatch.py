"""``decide``: one merit order per request, in microseconds. ``next_attempt``: fallback as data, never decided again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Literal

from scheduler.core import constraints
from scheduler.core.constraints import CONSTRAINTS, Constraint
from scheduler.core.costs import COSTS, Cost, cash
from scheduler.core.market import Decision, Load, Market, Outcome, Policy, Quote, Rejection, Request
from scheduler.core.supply import Offer

_BY_USD = itemgetter(1)


def decide(
    request: Request,
    market: Market,
    load: Load,
    policy: Policy,
    now_s: float,
    hard: Sequence[Constraint] = CONSTRAINTS,
    soft: Sequence[tuple[str, Cost]] = COSTS,
) -> Decision:
    """Filter, price and sort every offer of ``market`` for ``request``.

    Returns the whole merit order, cheapest expected cost first, and a named rejection for every other offer. An empty
    merit order is an answer, not an error. ``hard`` and ``soft`` are where a site's own constraints and costs join.
    """
    quotes: list[Quote] = []
    longest = None
    if request.output_tokens_max > request.usage.output_tokens:
        longest = request.usage._replace(output_tokens=request.output_tokens_max)
    rejected: list[Rejection] = []
    for offer in market.offers:
        for constraint in hard:
            reason = constraint(request, offer, load, now_s)
            if reason is not None:
                rejected.append(Rejection(offer.id, reason))
                break
        else:
            usd_cash = usd_most = cash(request, offer, load, policy, now_s)
            if longest is not None:
                usd_most = offer.rate.usd(offer.expected(longest))
            reason = _unaffordable(request, offer, market, load, usd_most, now_s)
            if reason is not None:
                rejected.append(Rejection(offer.id, reason))
                continue
            terms = {"tokens" if offer.kind == "api" else "energy": usd_cash}
            usd = usd_cash
            for name, cost in soft:
                term_usd = cost(request, offer, load, policy, now_s)
                if term_usd:
                    terms[name] = term_usd
                    usd += term_usd
            quotes.append(Quote(offer, usd, usd_cash, terms, usd_most))
    quotes.sort(key=_BY_USD)
    return Decision(request, market.version, tuple(quotes), tuple(rejected))


def _unaffordable(
    request: Request, offer: Offer, market: Market, load: Load, usd_most: float, now_s: float
) -> str | None:
    """Budgets fail closed: no lease, no spending; an expired lease leaves only what is ours."""
    if usd_most > request.usd_max:
        return constraints.USD_MAX
    if not request.budgeted:
        return None
    lease = market.leases.get(request.tenant)
    if lease is None or now_s >= lease.expires_s:
        return constraints.BUDGET_UNKNOWN if offer.kind != "base" else None
    if load.usd_by_tenant.get(request.tenant, 0.0) + usd_most > lease.usd:
        return constraints.BUDGET
    return None


@dataclass(frozen=True, slots=True)
class Attempt:
    """Try ``quote`` now; it must have ended by ``until_s`` (the request's deadline, propagated)."""

    quote: Quote
    until_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Nothing (more) may be tried. ``retry_after_s`` is when it may be worth asking again, 0 if never."""

    kind: Literal["forbidden", "unserved", "exhausted", "ended", "deadline"]
    reason: str
    retry_after_s: float = 0.0


# After these the answer, or its remains, is already the client's: nobody else is asked.
_FINAL = frozenset({"complete", "refused", "interrupted", "cancelled"})


def next_attempt(
    decision: Decision, outcomes: Sequence[Outcome], policy: Policy, retries_left: float = 1.0
) -> Attempt | GiveUp:
    """The next source to try after ``outcomes``, or why there is none.

    Walks the merit order that was decided once, so a fallback never widens what was eligible. One deadline and one
    cost limit span the chain. ``retries_left`` is the gateway's retry allowance; a bounce costs none of it, since
    nothing was begun.
    """
    request = decision.request
    if not decision.merit_order:
        return _nothing_eligible(decision)
    if outcomes and (outcomes[-1].first_byte_sent or outcomes[-1].status in _FINAL):
        return GiveUp("ended", outcomes[-1].error or outcomes[-1].status)
    now_s = outcomes[-1].ended_s if outcomes else request.arrived_s
    if request.deadline_s - now_s < policy.attempt_s_min:
        return GiveUp("deadline", _last(outcomes, "the deadline has passed"), 1.0)
    failed = sum(1 for outcome in outcomes if outcome.status != "bounced")
    if failed >= policy.attempts_max or (failed and retries_left < 1.0):
        return GiveUp("exhausted", _last(outcomes, "too many attempts"), _retry_after_s(outcomes))
    tried = {outcome.offer_id for outcome in outcomes}
    usd_spent = sum(outcome.usd for outcome in outcomes)
    for quote in decision.merit_order:
        if quote.offer.id not in tried and usd_spent + max(quote.usd_cash, quote.usd_most) <= request.usd_max:
            return Attempt(quote, request.deadline_s)
    return GiveUp("exhausted", _last(outcomes, "no source is left"), _retry_after_s(outcomes))


def _nothing_eligible(decision: Decision) -> GiveUp:
    reasons = {rejection.reason for rejection in decision.rejected}
    passing = reasons - {constraints.ZONE, constraints.MODEL}
    if constraints.ZONE in reasons and not passing:
        zones = ", ".join(sorted(decision.request.zones)) or "none"
        return GiveUp("forbidden", f"every source that could serve this lies outside the allowed zones ({zones})")
    if not decision.rejected:
        return GiveUp("unserved", "no source can take this request: the market has no offers", 1.0)
    asked = [r for r in decision.rejected if r.reason not in (constraints.ZONE, constraints.MODEL)]
    text = "; ".join(sorted({f"{r.offer_id}: {r.reason}" for r in asked})) or "none serves this model"
    if constraints.ZONE in reasons:
        text += "; every other source lies outside the allowed zones"
    return GiveUp("unserved", f"no source can take this request ({text})", 1.0)


def _last(outcomes: Sequence[Outcome], otherwise: str) -> str:
    if not outcomes:
        return otherwise
    last = outcomes[-1]
    return f"{last.offer_id}: {last.error or last.status}"


def _retry_after_s(outcomes: Sequence[Outcome]) -> float:
    waits = [outcome.retry_after_s for outcome in outcomes if outcome.retry_after_s > 0]
    return min(waits) if waits else 1.0
