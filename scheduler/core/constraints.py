"""Hard filters: ``(request, offer, load, now_s) -> reason | None``. The first reason wins; sovereignty is asked first.

Each is a named rejection that a person can read in ``explain`` and in the ledger. They look at no price: what a
request may not use is decided before any cost is computed.
"""

from __future__ import annotations

from collections.abc import Callable

from scheduler.core.market import NO_LOAD, Load, Request
from scheduler.core.supply import Offer

Constraint = Callable[[Request, Offer, Load, float], str | None]

ZONE = "zone not allowed"
CONTEXT = "context too long"
MODEL = "model not asked for"
BUDGET = "budget spent"
BUDGET_UNKNOWN = "budget lease expired"
USD_MAX = "above the request's cost limit"


def zone(request: Request, offer: Offer, load: Load, now_s: float) -> str | None:
    """Sovereignty: the offer's zone is one of those the request may reach. An empty set allows nothing."""
    return None if offer.zone in request.zones else ZONE


def model(request: Request, offer: Offer, load: Load, now_s: float) -> str | None:
    """The alias that was asked for covers the offer's model."""
    return None if request.models is None or offer.model in request.models else MODEL


def abilities(request: Request, offer: Offer, load: Load, now_s: float) -> str | None:
    """Every ability that the request needs (tools, images, embeddings, ...) is there."""
    if request.needs <= offer.abilities:
        return None
    return "lacks " + ", ".join(sorted(request.needs - offer.abilities))


def context(request: Request, offer: Offer, load: Load, now_s: float) -> str | None:
    """Prompt and answer fit the context window."""
    fits = request.usage.input_tokens + request.output_tokens_asked <= offer.context_tokens
    return None if fits else CONTEXT


def price_fresh(request: Request, offer: Offer, load: Load, now_s: float) -> str | None:
    """A price holds only inside its time to live."""
    return None if now_s < offer.expires_s else "price expired"


def health(request: Request, offer: Offer, load: Load, now_s: float) -> str | None:
    """The offer is up in the market's view and not cooling down after failures seen here."""
    if not offer.healthy:
        return "down"
    return None if load.offers.get(offer.id, NO_LOAD).cooldown_until_s <= now_s else "cooling down"


def rate_limit(request: Request, offer: Offer, load: Load, now_s: float) -> str | None:
    """The provider's own limits leave room."""
    if not offer.inflight_max and not offer.requests_per_min_max:
        return None
    here = load.offers.get(offer.id, NO_LOAD)
    if offer.inflight_max and here.inflight >= offer.inflight_max:
        return "concurrency limit"
    if offer.requests_per_min_max and here.requests_last_min >= offer.requests_per_min_max:
        return "rate limit"
    return None


CONSTRAINTS: tuple[Constraint, ...] = (zone, model, abilities, context, price_fresh, health, rate_limit)
