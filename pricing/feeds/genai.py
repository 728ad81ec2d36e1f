"""Prices of genai-prices (pydantic/genai-prices on GitHub): providers' own price lists, kept by hand, with their history.

Fetched as data from its repository (the address that ``genai_prices.UpdatePrices`` asks), or read from the installed
package's bundled snapshot, which is why the feed runs in a process of its own: importing the package costs 36 MB.

Prices are USD per million tokens (``_mtok``) or per thousand calls (``_kcount``). A tier applies to the whole request once
its input is longer than the tier's start. Of conditional prices the last that is in force wins: start dates are read at
``now_s``, hours of the day become windows. Units that ``Usage`` does not count (audio, images, characters) are not read.
A model that is deprecated without a date has no ``deprecated_s``: it can still be bought.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time
from typing import Any

import msgspec

from pricing.feeds import FeedChanged, FeedKind, FeedOffline, Http
from pricing.feeds.genai_rates import Unreadable, rate_of, returns_no_tokens
from pricing.feeds.hours import Rates, Span, TooMany, windows
from pricing.feeds.reading import ENTRIES_MAX, Entries, Problems, decode, decode_entry, readable
from pricing.listing import Listing, ServiceTier, TokenPrice

PRODUCT_CHARACTERS_MAX = 200
CONDITIONS_MAX = 50
# Request contexts that are service tiers of ours; others (speed, route) buy something else.
_TIERS: dict[tuple[str, str], ServiceTier] = {
    ("processing", "batch"): "batch",
    ("service_tier", "flex"): "flex",
    ("service_tier", "priority"): "priority",
}


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``refresh``: ask the repository where the network may be used; else, and air-gapped, the bundled snapshot.

    ``models``: products (``provider/model``) to list, all if empty.
    """

    refresh: bool = True
    url: str = "https://raw.githubusercontent.com/pydantic/genai-prices/refs/heads/main/prices/new_data/v2/data.json"
    models: tuple[str, ...] = ()


class _Provider(msgspec.Struct):
    id: str
    models: Entries


class _Constraint(msgspec.Struct, forbid_unknown_fields=True):
    start_date: date | None = None
    start_time: time | None = None
    end_time: time | None = None


class _Conditional(msgspec.Struct):
    prices: dict[str, Any]
    constraint: _Constraint | None = None


class _Variant(msgspec.Struct):
    when: dict[str, str]
    prices: dict[str, Any]
    constraint: _Constraint | None = None


class _Model(msgspec.Struct):
    id: str
    prices: dict[str, Any] | list[_Conditional]
    price_variants: list[_Variant] | None = None


def feed(http: Http, options: Options, now_s: float) -> Iterable[Listing] | None:
    """One listing per model that is priced by the token, named ``provider/model``."""
    body = _body(http, options)
    if body is None:
        return None
    listings: list[Listing] = []
    models, problems = _models(body)
    broken = len(problems)
    for product, model in models:
        if options.models and product not in options.models:
            continue
        try:
            price = token_price(model, now_s)
        except Unreadable as error:
            problems.append(f"{product}{error}")
            continue
        if price is not None:
            listings.append(Listing(product, price, now_s))
    readable(models[len(problems) - broken :], problems)
    if options.models and problems and not listings:
        raise FeedChanged(problems.last)
    return listings


def _models(body: bytes) -> tuple[list[tuple[str, _Model]], Problems]:
    """Models by product, and what is wrong with the entries that are none. Raises FeedChanged for a list without any."""
    models: list[tuple[str, _Model]] = []
    problems = Problems()
    for i, one in enumerate(decode(body, Entries)):
        try:
            provider = decode(bytes(one), _Provider)
        except FeedChanged as error:
            problems.append(f"$[{i}]: {error}")
            continue
        for j, raw in enumerate(provider.models):
            try:
                model = decode_entry(raw, _Model)
            except FeedChanged as error:
                problems.append(f"$[{i}].models[{j}]: {error}")
                continue
            product = f"{provider.id}/{model.id}"
            if provider.id and model.id and len(product) <= PRODUCT_CHARACTERS_MAX:
                models.append((product, model))
            else:
                problems.append(f"$[{i}].models[{j}].id: {len(product)} characters")
        if len(models) > ENTRIES_MAX:
            raise FeedChanged(f"$: more than {ENTRIES_MAX} models")
    if not models and not problems:
        raise FeedChanged("$: no models")
    return models, problems


def _body(http: Http, options: Options) -> bytes | None:
    if options.refresh:
        try:
            return http.get(options.url, conditional=False)  # the list may hold a price from tomorrow on
        except FeedOffline:
            pass
    from pricing.feeds.genai_bundled import bundled

    return bundled()


def token_price(model: _Model, now_s: float) -> TokenPrice | None:
    """The price in force at ``now_s`` with its windows; None for a model that is not sold by the token."""
    conditional = model.prices if isinstance(model.prices, list) else [_Conditional(model.prices)]
    variants = model.price_variants or []
    if len(conditional) + len(variants) > CONDITIONS_MAX:
        raise Unreadable(f".prices: more than {CONDITIONS_MAX} conditions")
    today = datetime.fromtimestamp(now_s, UTC).date()
    conditions: list[_Constraint | None] = [item.constraint for item in conditional]
    conditions += [item.constraint for item in variants]
    spans = [span for condition in conditions if (span := _span(condition)) is not None]
    no_output = returns_no_tokens(model.id)

    def rates_when(active: frozenset[int]) -> Rates:
        held = {spans[i] for i in active}
        in_force = [_in_force(condition, today, held) for condition in conditions]
        return _rates(conditional, variants, in_force, no_output)

    rates = rates_when(frozenset())
    if "standard" not in rates:
        return None
    try:
        return TokenPrice(rates, windows(spans, rates_when))
    except TooMany as error:
        raise Unreadable(f".prices: {error}") from None


def _in_force(condition: _Constraint | None, today: date, held: set[Span]) -> bool:
    if condition is None:
        return True
    if condition.start_date is not None:
        return today >= condition.start_date
    return _span(condition) in held


def _span(condition: _Constraint | None) -> Span | None:
    """Hours of the UTC day; a time without a zone is UTC."""
    if condition is None or condition.start_date is not None:
        return None
    if condition.start_time is None or condition.end_time is None:
        raise Unreadable(".constraint: neither a start date nor hours")
    return Span(_second(condition.start_time), _second(condition.end_time))


def _second(clock: time) -> int:
    offset = clock.utcoffset()
    second = clock.hour * 3600 + clock.minute * 60 + clock.second
    return (second - (int(offset.total_seconds()) if offset else 0)) % 86_400


def _rates(
    conditional: Sequence[_Conditional], variants: Sequence[_Variant], in_force: Sequence[bool], no_output: bool
) -> Rates:
    """Rates by service tier. Of variants the first in force wins, price by price, over the standard price."""
    applied = [item for item, now in zip(conditional, in_force, strict=False) if now] or list(conditional[:1])
    standard = applied[-1].prices if applied else {}
    rate = rate_of(standard, no_output)
    if rate is None:
        return {}
    rates: Rates = {"standard": rate}
    replaced: dict[ServiceTier, dict[str, Any]] = {}
    for variant, now in zip(variants, in_force[len(conditional) :], strict=True):
        tier = _TIERS.get(next(iter(variant.when.items()), ("", ""))) if len(variant.when) == 1 else None
        if tier is not None and now:
            known = replaced.setdefault(tier, {})
            known |= {key: value for key, value in variant.prices.items() if value is not None and key not in known}
    for tier, prices in replaced.items():
        tiered = rate_of({**standard, **prices}, no_output)
        if prices and tiered is not None:
            rates[tier] = tiered
    return rates


KIND = FeedKind(feed, Options, isolated=True, needs_network=False)
