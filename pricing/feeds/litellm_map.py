"""litellm's price map as a feed: the newest one over the network, or the one that came with the installed litellm.

It is read as data: importing litellm takes seconds and 170 MB. What an entry means is in ``litellm_prices``.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pricing.feeds import FeedChanged, FeedKind, FeedOffline, Http, reading
from pricing.feeds.litellm_prices import NoPrice, token_price
from pricing.listing import Listing, TokenPrice

URL = "https://raw.githubusercontent.com/BerriAI/litellm/main/model_prices_and_context_window.json"
PRODUCT_CHARS_MAX = 200
_FILE = "model_prices_and_context_window_backup.json"
_EXAMPLE = "sample_spec"
_Entries = Annotated[dict[str, msgspec.Raw], Meta(max_length=reading.ENTRIES_MAX)]
_MALFORMED_SHARE_MAX = 0.5
_log = logging.getLogger("baseload.feeds")


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``refresh`` False: the bundled map, no network. ``models``: litellm's names of those that are wanted; all if empty."""

    url: str = URL
    refresh: bool = True
    models: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.url.startswith(("https://", "http://")):
            raise ValueError(f"`url` is no web address: {self.url!r}")


def feed(http: Http, options: Options, now_s: float) -> list[Listing] | None:
    """Every model with a token price, or None where the map has not changed. Raises FeedError.

    A single entry that is no price is left out and logged; a map of another shape is FeedChanged. Where no network may be
    used the bundled map answers. The map says nothing of its own age: its prices are observed when they are read.
    """
    body = None
    if options.refresh:
        try:
            body = http.get(options.url)
        except FeedOffline:
            _log.info("no network for litellm's price map: the one of litellm %s is used", version())
        else:
            if body is None:
                return None
    if body is None:
        entries, source = bundled_entries(), f"the map of litellm {version()}"
    else:
        entries, source = decode(body), options.url
    if not entries:
        raise FeedChanged(f"{source} is empty")
    return [Listing(name, price, now_s) for name, price in _prices(entries, options.models, source)]


def decode(body: bytes) -> dict[str, msgspec.Raw]:
    """A map by litellm's model name, its entries not decoded: they are slices of ``body``. Raises FeedChanged."""
    entries = reading.decode(body, _Entries)
    entries.pop(_EXAMPLE, None)
    return entries


def _prices(entries: dict[str, msgspec.Raw], wanted: tuple[str, ...], source: str) -> Iterable[tuple[str, TokenPrice]]:
    """The good ones of ``wanted``. Raises FeedChanged when most of the map is malformed or nothing in it has a price."""
    found: dict[str, TokenPrice] = {}
    malformed = reading.Problems()
    for name, raw in entries.items():
        price = _price(raw)
        if isinstance(price, TokenPrice) and 0 < len(name) <= PRODUCT_CHARS_MAX:
            found[name] = price
        elif not isinstance(price, NoPrice) or price.malformed:
            malformed.append(f"{name}: {getattr(price, 'reason', 'the name is too long')}")
    if malformed:
        some = "; ".join(malformed.first)
        if len(malformed) > _MALFORMED_SHARE_MAX * len(entries):
            raise FeedChanged(f"{len(malformed)} of {len(entries)} entries are no prices, such as {some}")
        _log.warning("%s: %d of %d entries left out, such as %s", source, len(malformed), len(entries), some)
    if not found:
        raise FeedChanged(f"none of {len(entries)} entries has a price per token")
    return found.items() if not wanted else [(name, found[name]) for name in dict.fromkeys(wanted) if name in found]


def _price(raw: msgspec.Raw) -> TokenPrice | NoPrice:
    try:
        entry = reading.decode_entry(raw, Any)
    except FeedChanged as error:
        return NoPrice(f"no JSON: {error}", malformed=True)
    return token_price(entry)


@cache
def bundled_entries() -> dict[str, msgspec.Raw]:
    """The installed litellm's map, entries not decoded until they are asked for (4 MB); empty without litellm."""
    spec = importlib.util.find_spec("litellm")
    for place in (spec.submodule_search_locations or []) if spec else []:
        path = Path(place) / _FILE
        if path.is_file():
            return decode(path.read_bytes())
    return {}


def bundled(upstream: str) -> TokenPrice | NoPrice:
    """The bundled map's price of litellm's model ``upstream``, or why there is none."""
    raw = bundled_entries().get(upstream)
    return NoPrice("litellm's map does not know it") if raw is None else _price(raw)


@cache
def version() -> str:
    """Version of the installed litellm, which is that of the bundled map; ``unknown`` without one."""
    try:
        return installed("litellm")
    except PackageNotFoundError:
        return "unknown"


KIND = FeedKind(feed=feed, options=Options, isolated=False, needs_network=False)
