"""OpenRouter's list of models: what a request costs there, by model id.

Source: GET /api/v1/models (openrouter.ai/docs, "List models"): prices are decimal texts in USD per token, request or search;
-1 says that they vary with where a router sends the request. ``overrides`` replace single prices above a prompt length
or in hours of the UTC day. The prices are those after a promotion's discount, so ``discount`` is not applied again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urljoin

import msgspec

from pricing.addresses import origin
from pricing.feeds import FeedChanged, FeedKind, Http, reading
from pricing.feeds.hours import ALL_DAYS, DAY_S, Span, windows
from pricing.feeds.reading import decode, decode_entry, instant, number, plain, readable
from pricing.listing import Listing, TokenPrice
from scheduler.core.supply import Rate, Tier

PAGES_MAX = 20
OVERRIDES_MAX = reading.TIERS_MAX  # each may begin a tier
ID_CHARACTERS_MAX = 200
_BATCH = ":batch"
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_CONDITIONS = ("min_prompt_tokens", "utc_start", "utc_end", "utc_days")


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``api_key_env``: environment variable with a key, only needed for private models. ``models``: ids, all if empty."""

    url: str = "https://openrouter.ai/api/v1/models"
    api_key_env: str = ""
    models: tuple[str, ...] = ()


class _Links(msgspec.Struct):
    next: str | None = None


class _Page(msgspec.Struct):
    data: reading.Entries
    links: _Links | None = None


class _Model(msgspec.Struct):
    id: str
    pricing: dict[str, Any]
    expiration_date: Any = None


class _Unreadable(ValueError):
    """Something in an entry that is not what the documentation says; the text is its path and the reason."""


def feed(http: Http, options: Options, now_s: float) -> Iterable[Listing] | None:
    """One listing per model with a price. A batch variant of a model becomes its price in the tier ``batch``."""
    entries = _entries(http, options)
    if entries is None:
        return None
    prices: dict[str, TokenPrice] = {}
    models, problems = _models(entries)
    readable(models, problems)
    for model in models:
        if options.models and not {model.id, model.id.removesuffix(_BATCH)} & set(options.models):
            continue
        try:
            price = _price(model)
        except ValueError as error:
            problems.append(f"{model.id}: {error}")
            continue
        if price is not None:
            prices[model.id] = price
    batches = {name for name in prices if name.endswith(_BATCH) and name.removesuffix(_BATCH) in prices}
    listings = [
        Listing(name, _with_batch(price, prices.get(name + _BATCH)), now_s)
        for name, price in prices.items()
        if name not in batches
    ]
    return readable(listings, reading.Problems() if options.models and listings else problems)


def _models(entries: list[msgspec.Raw]) -> tuple[list[_Model], reading.Problems]:
    """The entries that are models, and what is wrong with the others."""
    models: list[_Model] = []
    problems = reading.Problems()
    for i, raw in enumerate(entries):
        try:
            model = decode_entry(raw, _Model)
        except FeedChanged as error:
            problems.append(f"$.data[{i}]: {error}")
            continue
        if 0 < len(model.id) <= ID_CHARACTERS_MAX:
            models.append(model)
        else:
            problems.append(f"$.data[{i}].id: {len(model.id)} characters")
    return models, problems


def _entries(http: Http, options: Options) -> list[msgspec.Raw] | None:
    """All pages' entries; None where nothing has changed. Raises FeedChanged for a list without models or end."""
    headers = (
        {"Authorization": f"Bearer {reading.from_environment(options.api_key_env)}"} if options.api_key_env else {}
    )
    entries: list[msgspec.Raw] = []
    address = options.url
    for _ in range(PAGES_MAX):
        body = http.get(address, headers=headers)
        if body is None:
            return None
        page = decode(body, _Page)
        entries += page.data
        if len(entries) > reading.ENTRIES_MAX:
            raise FeedChanged(f"$.data: more than {reading.ENTRIES_MAX} models")
        following = page.links.next if page.links else None
        if not following:
            if not entries:
                raise FeedChanged("$.data: no models")
            return entries
        address = _page_address(options.url, following)
    raise FeedChanged(f"$.links.next: more than {PAGES_MAX} pages")


def _page_address(url: str, following: str) -> str:
    try:
        address = urljoin(url, following)
        if origin(address) == origin(url):
            return address
    except ValueError:
        pass
    raise FeedChanged(f"$.links.next: {plain(following)} leads elsewhere")


def _price(model: _Model) -> TokenPrice | None:
    """None where the price varies. Raises _Unreadable."""
    pricing = model.pricing
    if any(number(pricing.get(key)) == -1 for key in ("prompt", "completion")):
        return None
    overrides = pricing.get("overrides") or []
    if not isinstance(overrides, list) or len(overrides) > OVERRIDES_MAX:
        raise _Unreadable(f"$.pricing.overrides: no list of at most {OVERRIDES_MAX}")
    checked = [_override(item, f"$.pricing.overrides[{i}]") for i, item in enumerate(overrides)]
    timed = [i for i, (_, _, span) in enumerate(checked) if span is not None]

    def rate_when(active: frozenset[int]) -> dict[Any, Rate]:
        held = {timed[i] for i in active}
        applied = [(above, keys) for i, (above, keys, span) in enumerate(checked) if span is None or i in held]
        return {"standard": _rate(pricing, applied)}

    spans = [span for _, _, span in checked if span is not None]
    return TokenPrice(rate_when(frozenset()), windows(spans, rate_when), instant(model.expiration_date))


def _override(item: Any, path: str) -> tuple[int, dict[str, Any], Span | None]:
    """Prompt tokens above which it holds (-1: always), the prices that it replaces, and its hours."""
    if not isinstance(item, dict):
        raise _Unreadable(f"{path}: no object")
    keys = {key: value for key, value in item.items() if key not in _CONDITIONS and value is not None}
    for key, value in keys.items():
        if not isinstance(value, str):  # prices are texts; anything else may be a condition that we do not know
            raise _Unreadable(f"{path}.{plain(key)}: no price")
    above = item.get("min_prompt_tokens")
    if above is not None and (not isinstance(above, int | float) or not 0 <= above < 1e12):
        raise _Unreadable(f"{path}.min_prompt_tokens: no number of tokens")
    return -1 if above is None or above < 1 else int(above), keys, _span(item, path)


def _span(item: Mapping[str, Any], path: str) -> Span | None:
    """Hours as HHMM clock numbers and names of weekdays, both optional."""
    names, clocks = item.get("utc_days"), [item.get(key) for key in ("utc_start", "utc_end")]
    if names is None and clocks == [None, None]:
        return None
    if names is not None and (not isinstance(names, list) or not names or not set(map(str, names)) <= set(_WEEKDAYS)):
        raise _Unreadable(f"{path}.utc_days: no list of weekdays")
    days = ALL_DAYS if names is None else frozenset(_WEEKDAYS.index(str(name)) + 1 for name in names)
    if clocks == [None, None]:
        return Span(0, DAY_S, days)
    seconds = []
    for clock in clocks:
        value = number(clock)
        if value is None or value != int(value) or not 0 <= value <= 2400 or value % 100 >= 60:
            raise _Unreadable(f"{path}.utc_start, utc_end: no HHMM")
        seconds.append(int(value) // 100 * 3600 + int(value) % 100 * 60)
    return Span(seconds[0] % DAY_S, seconds[1], days)


def _rate(pricing: Mapping[str, Any], applied: list[tuple[int, dict[str, Any]]]) -> Rate:
    """Prices with the overrides ``applied`` in their order, where later ones win price by price."""

    def level(tokens: int) -> Tier:
        held = dict(pricing)
        for above, keys in applied:
            if above <= tokens:
                held |= keys
        return _level(held, tokens)

    base = level(-1)
    return Rate(
        *base[1:4],
        usd_per_request=_usd(pricing, "request") or 0.0,
        tiers=tuple(level(tokens) for tokens in sorted({above for above, _ in applied if above >= 0})),
        usd_per_cache_write=base.usd_per_cache_write,
        usd_per_cache_write_long=base.usd_per_cache_write_long,
        usd_per_reasoning=base.usd_per_reasoning,
        usd_per_search=_usd(pricing, "web_search") or 0.0,
    )


def _level(prices: Mapping[str, Any], above: int) -> Tier:
    prompt, completion = _usd(prices, "prompt"), _usd(prices, "completion")
    if prompt is None or completion is None:
        raise _Unreadable("$.pricing: no prompt or no completion")
    cached, reasoning = _usd(prices, "input_cache_read"), _usd(prices, "internal_reasoning")
    return Tier(
        above,
        prompt,
        prompt if cached is None else cached,
        completion,
        _write(_usd(prices, "input_cache_write"), prompt),
        _write(_usd(prices, "input_cache_write_1h"), prompt),
        # Most models state 0 and bill reasoning as output: nobody gives thinking away and charges for the answer.
        reasoning or None,
    )


def _write(usd: float | None, prompt: float) -> float | None:
    """A cache write below the price of input is a surcharge for storage, on top of the input (Google's models)."""
    return usd if usd is None or usd >= prompt else usd + prompt


def _usd(prices: Mapping[str, Any], key: str) -> float | None:
    """The price, None where there is none. Raises _Unreadable for anything that is not a number."""
    value = prices.get(key)
    if value is None:
        return None
    usd = number(value)
    if usd is None:
        raise _Unreadable(f"$.pricing.{key}: {plain(str(value), 40)!r} is no price")
    return usd


def _with_batch(price: TokenPrice, batch: TokenPrice | None) -> TokenPrice:
    if batch is None:
        return price
    return msgspec.structs.replace(price, rates={**price.rates, "batch": batch.rates["standard"]})


KIND = FeedKind(feed, Options)
