"""What a provider's model costs now: its own price, litellm's map, or the first good one of the feeds it names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from pricing.book import Entry
from pricing.feeds import litellm_map
from pricing.feeds.litellm_prices import NoPrice
from pricing.guard import agree, jump
from pricing.listing import TokenPrice, Window
from pricing.report import BLEND_INPUT_SHARE, OtherSource
from scheduler.config import ClusterConfig
from scheduler.config.supply import OffPeak, Price, PriceTier, ProviderModel
from scheduler.core.supply import Rate, Tier

_DAY_S = 86_400
# A gateway hears of a change of hours a moment late: the old price may hold that much longer, and no more.
GRACE_S = 10.0

Entries = Mapping[tuple[str, str], Entry]


class Found(NamedTuple):
    """A price that may be used until ``expires_s``, and what other sources say of it."""

    price: TokenPrice
    source: str
    observed_s: float
    expires_s: float
    others: tuple[OtherSource, ...] = ()


def find(config: ClusterConfig, served: ProviderModel, entries: Entries, now_s: float) -> Found | str:
    """The price of ``served``, or the reason why there is none (never a default)."""
    ttl_s = config.policy.price_ttl_s
    if isinstance(served.price, Price):
        return Found(own_price(served.price), "cluster.yaml", now_s, now_s + ttl_s)
    named = keys(config, served)
    if not named:
        return _bundled(served.upstream, now_s, ttl_s)
    return _first_good(config, named, served.service_tier, entries, now_s)


def keys(config: ClusterConfig, served: ProviderModel) -> list[tuple[str, str]]:
    """Feeds and products that ``served`` takes its price from, the preferred first; none for a price of its own."""
    if isinstance(served.price, Price):
        return []
    if served.price == "litellm":
        return [(feed.name, served.upstream) for feed in config.feeds if feed.kind == "litellm-map"]
    return [(listed.feed, listed.product) for listed in served.price]


def _bundled(upstream: str, now_s: float, ttl_s: float) -> Found | str:
    price = litellm_map.bundled(upstream)
    if isinstance(price, NoPrice):
        return f"litellm's price map has no price for {upstream!r}: {price.reason}"
    return Found(price, f"litellm {litellm_map.version()} (bundled)", now_s, now_s + ttl_s)


def _first_good(
    config: ClusterConfig, named: list[tuple[str, str]], service_tier: str, entries: Entries, now_s: float
) -> Found | str:
    """The first source with a good price that can be bought now; what the others say of it."""
    ttl_s = {feed.name: feed.ttl_s for feed in config.feeds}
    found: Found | None = None
    others: list[OtherSource] = []
    for key in named:
        entry, name = entries.get(key), f"{key[0]}: {key[1]}"
        reason = unusable(entry, ttl_s[key[0]], now_s)
        if reason is not None or entry is None or not isinstance(entry.price, TokenPrice):
            others.append(OtherSource(name, None, None, False, reason or "no price of tokens"))
        elif found is None:
            observed_s = min(entry.observed_s, now_s)
            here = Found(entry.price, name, observed_s, observed_s + ttl_s[key[0]])
            rated = rate_now(here, service_tier, now_s)
            if isinstance(rated, str):
                others.append(OtherSource(name, None, None, False, rated))
            else:
                found = here
        else:
            others.append(_compared(name, found.price, entry.price, config.prices.disagreement_ratio_max))
    if found is None:
        return "; ".join(f"{other.source}: {other.note}" for other in others)
    return found._replace(others=tuple(others))


def unusable(entry: Entry | None, ttl_s: float, now_s: float) -> str | None:
    """Why an entry gives no price now: not heard of, in quarantine without a good price before, or too old."""
    if entry is None:
        return "not heard of yet"
    if entry.price is None:
        return entry.refused or (f"in quarantine ({entry.held.reason})" if entry.held else "no price")
    age_s = now_s - entry.observed_s
    if age_s >= ttl_s:
        return f"last seen {age_s / 3600.0:.1f} h ago, believed for {ttl_s / 3600.0:.1f} h"
    return None


def _compared(name: str, price: TokenPrice, other: TokenPrice, ratio_max: float) -> OtherSource:
    here, there = blended(price.rates["standard"]), blended(other.rates["standard"])
    ratio = there / here if here > 0 else None
    agrees, worst = agree(price, other, ratio_max), jump(price, other)
    note = "" if agrees else f"a part differs {worst:.3g}-fold" if worst < 1e12 else "a part is free there"
    return OtherSource(name, there * 1e6, ratio, agrees, note)


def blended(rate: Rate, input_share: float = BLEND_INPUT_SHARE) -> float:
    """USD per token at a mix of input and output."""
    return input_share * rate.usd_per_input + (1.0 - input_share) * rate.usd_per_output


def window_at(price: TokenPrice, now_s: float) -> tuple[Window | None, float]:
    """The off-peak window that holds now, and when the next one begins or this one ends (infinity: never)."""
    inside: Window | None = None
    changes: list[float] = []
    day = int(now_s // _DAY_S)
    for window in price.off_peak:
        for start_day in range(day - 1, day + 8):
            if window.days and _weekday(start_day) not in window.days:
                continue
            start_s = start_day * _DAY_S + window.start_s
            end_s = start_day * _DAY_S + window.end_s + (_DAY_S if window.end_s <= window.start_s else 0)
            changes += [at_s for at_s in (start_s, end_s) if at_s > now_s]
            if inside is None and start_s <= now_s < end_s:
                inside = window
    return inside, min(changes, default=float("inf"))


def _weekday(day: int) -> int:
    return (day + 3) % 7 + 1  # 1970-01-01 was a Thursday, ISO weekday 4


class RateNow(NamedTuple):
    """The rate of this moment, until when it holds, and whether it is an off-peak one."""

    rate: Rate
    expires_s: float
    off_peak: bool


def rate_now(found: Found, service_tier: str, now_s: float) -> RateNow | str:
    """The rate, or why it cannot be bought now."""
    price = found.price
    if price.deprecated_s is not None and now_s >= price.deprecated_s:
        day = datetime.fromtimestamp(price.deprecated_s, UTC).date()
        return f"the provider has ended this model on {day} ({found.source})"
    window, until_s = window_at(price, now_s)
    # A window need not say what it leaves as it is.
    rates = {**price.rates, **window.rates} if window is not None else price.rates
    rate = next((rate for tier, rate in rates.items() if tier == service_tier), None)
    if rate is None:
        return f"no price for the service tier {service_tier!r} ({found.source})"
    ends_s = min(until_s, price.deprecated_s or float("inf"))
    return RateNow(rate, min(found.expires_s, ends_s + GRACE_S), window is not None)


def own_price(price: Price) -> TokenPrice:
    """A price of cluster.yaml, USD per million tokens there, per token here."""
    rate = _own_rate(price, 1.0)
    windows = [_own_window(price, off_peak) for off_peak in price.off_peak_pricing]
    return TokenPrice({"standard": rate, "flex": rate, "priority": rate}, tuple(windows))


def _own_window(price: Price, off_peak: OffPeak) -> Window:
    start, _, end = off_peak.hours_utc.partition("-")
    rate = _own_rate(price, off_peak.factor)
    return Window(_of_day_s(start), _of_day_s(end), {"standard": rate, "flex": rate, "priority": rate})


def _of_day_s(text: str) -> int:
    hours, _, minutes = text.partition(":")
    return int(hours) * 3600 + int(minutes) * 60


def _own_rate(price: Price, factor: float) -> Rate:
    def per_token(usd_per_mtok: float | None) -> float | None:
        return None if usd_per_mtok is None else usd_per_mtok * factor / 1e6

    def parts(place: Price | PriceTier) -> tuple[float, float, float]:
        cached = place.input if place.cached is None else place.cached
        return place.input * factor / 1e6, cached * factor / 1e6, place.output * factor / 1e6

    def extras(place: Price | PriceTier) -> Iterable[float | None]:
        return per_token(place.cache_write), per_token(place.cache_write_long), per_token(place.reasoning)

    tiers = [Tier(t.input_tokens_above, *parts(t), *extras(t)) for t in price.tiers]
    write, write_long, reasoning = extras(price)
    return Rate(
        *parts(price),
        usd_per_request=price.usd_per_request * factor,
        tiers=tuple(sorted(tiers, key=lambda tier: tier.input_tokens_above)),
        usd_per_cache_write=write,
        usd_per_cache_write_long=write_long,
        usd_per_reasoning=reasoning,
        usd_per_search=price.usd_per_search * factor,
    )
