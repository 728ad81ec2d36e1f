"""From one price table of genai-prices to a rate."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pricing.feeds.reading import TIERS_MAX, number, plain
from scheduler.core.supply import Rate, Tier

_MTOK = 1e6
_KCOUNT = 1e3
# Keys of a price, the special one for text before the one for all tokens.
_INPUT = ("input_text_mtok", "input_mtok")
_OUTPUT = ("output_text_mtok", "output_mtok")
_CACHED = ("cache_text_read_mtok", "cache_read_mtok")
_WRITE = ("cache_text_write_mtok", "cache_write_mtok")
_WRITE_SHORT = ("cache_text_write_5m_mtok", "cache_write_5m_mtok")
_WRITE_LONG = ("cache_text_write_1h_mtok", "cache_write_1h_mtok")
_REASONING = ("output_text_reasoning_mtok", "output_reasoning_mtok")
_PER_TOKEN = (*_INPUT, *_OUTPUT, *_CACHED, *_WRITE, *_WRITE_SHORT, *_WRITE_LONG, *_REASONING)
# Models that return no tokens, where a missing output price means none. Elsewhere it means that the price is not known.
_NO_OUTPUT = re.compile(r"embed|rerank|(^|[/-])(bge|gte|voyage)-")


class Unreadable(ValueError):
    """A price that is not what the schema says; the text names its key."""


def returns_no_tokens(model: str) -> bool:
    """Is this, by its name, a model that embeds or ranks?"""
    return _NO_OUTPUT.search(model.lower()) is not None


def rate_of(prices: Mapping[str, Any], no_output: bool) -> Rate | None:
    """None where input or output has no price by the token."""
    starts = sorted({start for key in _PER_TOKEN for start, _ in _levels(key, prices.get(key))})
    if len(starts) > TIERS_MAX + 1:
        raise Unreadable(f".prices: more than {TIERS_MAX} tiers")
    base = _level(prices, -1, no_output)
    if base is None:
        return None
    tiers = [_level(prices, start, no_output) for start in starts if start >= 0]
    return Rate(
        *base[1:4],
        usd_per_request=_count(prices, "requests_kcount"),
        tiers=tuple(tier for tier in tiers if tier is not None),
        usd_per_cache_write=base.usd_per_cache_write,
        usd_per_cache_write_long=base.usd_per_cache_write_long,
        usd_per_reasoning=base.usd_per_reasoning,
        usd_per_search=_count(prices, "web_searches_kcount"),
    )


def _level(prices: Mapping[str, Any], above: int, no_output: bool) -> Tier | None:
    """Prices of a request whose input is longer than ``above`` tokens."""

    def usd(*keys: str) -> float | None:
        """The first of these prices that there is."""
        for key in keys:
            if prices.get(key) is not None:
                return [price for start, price in _levels(key, prices[key]) if start <= above][-1] / _MTOK
        return None

    input_, output = usd(*_INPUT), usd(*_OUTPUT)
    if output is None and no_output:
        output = 0.0
    if input_ is None or output is None:
        return None
    cached = usd(*_CACHED)
    write = usd(*_WRITE)
    short = usd(*_WRITE_SHORT)
    return Tier(
        above,
        input_,
        input_ if cached is None else cached,
        output,
        write if short is None else short,
        _long(usd(*_WRITE_LONG), write, short, input_),
        usd(*_REASONING),
    )


def _long(long: float | None, write: float | None, short: float | None, input_: float) -> float | None:
    """What is kept for an hour costs what any write costs where it has no price; None says the same as the short."""
    if long is not None or short is None:
        return long
    return input_ if write is None else write


def _levels(key: str, value: Any) -> list[tuple[int, float]]:
    """(input tokens above, price), ascending, the base price at -1. Raises Unreadable."""
    if value is None:
        return []
    if not isinstance(value, dict):
        return [(-1, _number(key, value))]
    tiers = value.get("tiers")
    if not isinstance(tiers, list) or not all(isinstance(tier, dict) for tier in tiers):
        raise Unreadable(f".prices.{plain(key)}.tiers: no list of tiers")
    if len(tiers) > TIERS_MAX:
        raise Unreadable(f".prices.{plain(key)}.tiers: more than {TIERS_MAX}")
    found = [(-1, _number(f"{key}.base", value.get("base")))]
    for tier in tiers:
        start = tier.get("start")
        if not isinstance(start, int) or isinstance(start, bool) or start < 1:
            raise Unreadable(f".prices.{plain(key)}.tiers.start: no number of tokens")
        found.append((start, _number(f"{key}.tiers.price", tier.get("price"))))
    return sorted(found, key=lambda level: level[0])


def _count(prices: Mapping[str, Any], key: str) -> float:
    value = prices.get(key)
    return 0.0 if value is None else _number(key, value) / _KCOUNT


def _number(key: str, value: Any) -> float:
    found = number(value)
    if found is None:
        raise Unreadable(f".prices.{plain(key)}: {plain(str(value), 40)!r} is no price")
    return found
