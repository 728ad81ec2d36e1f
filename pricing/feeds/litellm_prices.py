"""From one entry of litellm's price map to a price: what its fields mean, and nothing else.

What an entry leaves out is read as litellm's own cost calculator reads it; docs/litellm-differences.md has the exceptions. A
service tier without a price of its own for cached input, or above a context length, is billed there at the standard price.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pricing.feeds.litellm_fields import (
    SERVICE_TIERS,
    USD_PER_CALL_MAX,
    Malformed,
    Parts,
    bracketed,
    brackets,
    number,
    other_unit,
    plain,
    table,
)
from pricing.feeds.litellm_hours import windows
from pricing.listing import ServiceTier, TokenPrice, Window
from scheduler.core.supply import Rate, Tier

_NO_OUTPUT = ("embedding", "rerank")
# Fireworks bills cached input at half the price wherever its list has no other; litellm knows this in code, not in its map.
_CACHED_SHARE = {"fireworks_ai": 0.5}
# xAI bills the dearer prices from the context length on, everyone else beyond it.
_AT_THE_LENGTH = ("xai",)


class NoPrice(NamedTuple):
    """Why an entry makes no token price. ``malformed``: it should have made one, but what it says is no price."""

    reason: str
    malformed: bool = False


def token_price(entry: Any) -> TokenPrice | NoPrice:
    """The price that ``entry`` (a decoded value of the map) states, or why there is none. Pure; never a default.

    An explicit zero is a price. Entries of embeddings and rerankers may leave the output out; it is free then.
    """
    if not isinstance(entry, dict):
        return NoPrice(f"the entry is a {type(entry).__name__}, no object", malformed=True)
    try:
        rates = _rates(entry, Parts())
        if "standard" not in rates:
            return NoPrice(_reason(entry))
        if (unit := other_unit(entry)) and all(_free(rate) for rate in rates.values()):
            return NoPrice(f"priced by {unit}; its tokens are only counted")
        return TokenPrice(rates, _off_peak(entry), _deprecated_s(entry.get("deprecation_date")))
    except Malformed as error:
        return NoPrice(str(error), malformed=True)


def _off_peak(entry: Mapping[str, Any]) -> tuple[Window, ...]:
    """Standard prices in off-peak hours: what the block names replaces the price at every context length."""
    block = entry.get("off_peak_pricing")
    if block is None:
        return ()
    if not isinstance(block, dict):
        raise Malformed("off_peak_pricing is no object")
    standard = _rates(entry, plain(block))["standard"]
    try:
        return tuple(Window(start_s, end_s, {"standard": standard}, days) for start_s, end_s, days in windows(block))
    except ValueError as error:
        raise Malformed(f"off_peak_pricing: {error}") from None


def _rates(entry: Mapping[str, Any], instead: Parts) -> dict[ServiceTier, Rate]:
    """A rate for every service tier that has a price for input and output; ``instead`` replaces prices."""
    per_request, per_search = _fees(entry)
    rates: dict[ServiceTier, Rate] = {}
    for service_tier, steps in _by_service_tier(entry):
        tiers = [Tier(above, *_prices(instead.over(parts))) for above, parts in steps]
        if tiers:
            base = tiers[0]
            rates[service_tier] = Rate(
                base.usd_per_input,
                base.usd_per_cached,
                base.usd_per_output,
                per_request,
                tuple(tiers[1:]),
                base.usd_per_cache_write,
                base.usd_per_cache_write_long,
                base.usd_per_reasoning,
                per_search,
            )
    return rates


def _fees(entry: Mapping[str, Any]) -> tuple[float, float]:
    """USD per request and per search. The map's size of a search is medium, as where nobody asks for another.

    Perplexity's default is low, and each of its requests searches: the fee is the request's, but for deep research (known
    by its price of citations), where searches are counted.
    """
    perplexity = entry.get("litellm_provider") == "perplexity"
    search, request = entry.get("search_context_cost_per_query"), entry.get("input_cost_per_request")
    if isinstance(search, dict):
        search = search.get(f"search_context_size_{'low' if perplexity else 'medium'}")
    per_search = 0.0 if search is None else number("search_context_cost_per_query", search, USD_PER_CALL_MAX)
    per_request = 0.0 if request is None else number("input_cost_per_request", request, USD_PER_CALL_MAX)
    if perplexity and "citation_cost_per_token" not in entry:
        return per_request + per_search, 0.0
    return per_request, per_search


def _by_service_tier(entry: Mapping[str, Any]) -> Iterator[tuple[ServiceTier, list[tuple[int, Parts]]]]:
    """Prices of each service tier, by the context length above which they hold; none unless input and output have one."""
    if bracketed(entry):
        steps = list(brackets(entry))
        yield "standard", steps if all(parts.output is not None for _, parts in steps) else []
        return
    found = table(entry)
    standard = found.get(("standard", 0), Parts())
    if standard.output is None and entry.get("mode") in _NO_OUTPUT:
        standard = standard._replace(output=0.0)
    share = _CACHED_SHARE.get(str(entry.get("litellm_provider")))
    if share is not None and standard.cached is None and standard.input is not None:
        standard = standard._replace(cached=share * standard.input)
    for service_tier in SERVICE_TIERS.values():
        steps = _steps({**found, ("standard", 0): standard}, service_tier)
        if entry.get("litellm_provider") in _AT_THE_LENGTH:
            steps = [(above - 1 if above else 0, parts) for above, parts in steps]
        yield service_tier, steps


def _steps(found: Mapping[tuple[ServiceTier, int], Parts], service_tier: ServiceTier) -> list[tuple[int, Parts]]:
    """Prices of one service tier, each complete with what it takes over: from standard, and from the shorter context."""
    usual = found["standard", 0]
    base = found.get((service_tier, 0), Parts())
    if base.input is None or base.output is None:
        return []
    if service_tier in ("flex", "priority"):
        base = base.over(usual._replace(reasoning=None))
    steps = [(0, base)]
    for above in sorted({above for tier, above in found if above and tier in ("standard", service_tier)}):
        listed, own = found.get(("standard", above), Parts()), found.get((service_tier, above), Parts())
        usual = listed.over(usual)
        if service_tier != "batch":
            steps.append((above, own.over(listed).over(steps[-1][1])))
        else:  # what has no batch price is batch input, but a longer context without one is the standard's
            steps.append((above, usual if own.input is None else own.over(base)))
    return steps


def _prices(parts: Parts) -> tuple[float, float, float, float | None, float | None, float | None]:
    """In the order of ``Tier``: input, cached, output, write, long write, reasoning."""
    assert parts.input is not None  # noqa: S101  # held by _by_service_tier
    assert parts.output is not None  # noqa: S101
    cached = parts.input if parts.cached is None else parts.cached
    return parts.input, cached, parts.output, parts.write, parts.write_long, parts.reasoning


def _free(rate: Rate) -> bool:
    return not (rate.usd_per_input or rate.usd_per_cached or rate.usd_per_output or rate.usd_per_request or rate.tiers)


def _reason(entry: Mapping[str, Any]) -> str:
    if unit := other_unit(entry):
        return f"priced by {unit}, not by token"
    missing = [kind for kind in ("input", "output") if entry.get(f"{kind}_cost_per_token") is None]
    return f"the map has no price per token of {' and '.join(missing) or 'its standard service tier'}"


def _deprecated_s(date: Any) -> float | None:
    """UTC midnight of an ISO date. A date that cannot be read is none: it takes no price away."""
    try:
        return datetime.strptime(date, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
