"""Prices over the span of a trace, as a history has them: what the simulator's site is priced from instead of cluster.yaml.

A history prices what cluster.yaml takes from a feed, and directly a model of a provider (feed: the provider's name, product:
the model) or a site's tariff (feed: the site's name, product: ``electricity``). Before its first record of them, and outside
the steps of a recorded tariff, what cluster.yaml says holds; after it, a price holds until the history has another one. How
long a feed was silent, what waited in quarantine and which model ended are not played. ``price_reader`` reads it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from pricing import board, bought, timeline
from pricing.board import Board
from pricing.book import Change, Entry
from pricing.desk import Sheet
from pricing.listing import CarbonIntensity, PowerPrice
from pricing.tariff import tariff_at
from scheduler.config import ClusterConfig
from scheduler.config.prices import DayAhead, Feed, Listed
from scheduler.config.supply import Provider, ProviderModel, Site

ELECTRICITY = "electricity"

Key = tuple[str, str]


class PriceHistory:
    """Prices of ``config`` over the span of one trace: ``entries`` when it begins, then ``changes``, ascending on its clock.

    Instants may be asked for in any order; to go on is cheaper than to go back.
    """

    def __init__(self, config: ClusterConfig, entries: Mapping[Key, Entry], changes: Sequence[Change]) -> None:
        self._config, self._tariffs = _by_listing(config), _recorded_tariffs(config)
        self._begin, self._changes = dict(entries), changes
        self._entries, self._next = dict(entries), 0

    def board_until(self, now_s: float) -> tuple[Board, float]:
        """Everything priced as of ``now_s``, and the next instant at which a price may be another one (Unix seconds)."""
        self._seek(now_s)
        sites = tuple(self._site(site, now_s) for site in self._config.sites)
        config = self._config.model_copy(update={"sites": sites})
        priced = board.price(config, now_s, Sheet(now_s, list(self._entries.values())))
        change_s = self._changes[self._next].at_s if self._next < len(self._changes) else math.inf
        return priced, min(holds_until_s(priced, now_s), change_s, self._step_s(now_s))

    def _seek(self, now_s: float) -> None:
        if self._next and self._changes[self._next - 1].at_s > now_s:
            self._entries, self._next = dict(self._begin), 0
        while self._next < len(self._changes) and self._changes[self._next].at_s <= now_s:
            change = self._changes[self._next]
            key = (change.feed, change.product)
            self._entries[key] = applied(self._entries.get(key), change)
            self._next += 1

    def _power(self, site: str) -> PowerPrice | None:
        entry = self._entries.get((site, ELECTRICITY))
        return entry.price if entry is not None and isinstance(entry.price, PowerPrice) else None

    def _site(self, site: Site, now_s: float) -> Site:
        """The site with its recorded tariff, where there is one for this instant."""
        recorded, power = self._tariffs.get(site.name), self._power(site.name)
        if recorded is None or power is None or tariff_at(recorded.electricity, power, now_s) is None:
            return site
        return recorded

    def _step_s(self, now_s: float) -> float:
        """When a step of a site's recorded tariff begins or ends next."""
        series = [power.steps for name in self._tariffs if (power := self._power(name)) is not None]
        edges = (at_s for steps in series for step in steps for at_s in (step.start_s, step.end_s))
        return min((at_s for at_s in edges if at_s > now_s), default=math.inf)


def applied(entry: Entry | None, change: Change) -> Entry:
    """The entry after a line with a price. Of a series all steps are kept that have not ended, however far ahead."""
    price, known = change.price, entry.price if entry is not None else None
    if isinstance(price, PowerPrice | CarbonIntensity):
        old = known.steps if isinstance(known, type(price)) else ()
        steps = tuple(step for step in timeline.merged(old, price.steps) if step.end_s > change.at_s)
        price = msgspec.structs.replace(price, steps=steps)
    return Entry(change.feed, change.product, price, since_s=change.at_s, observed_s=change.at_s)


def holds_until_s(priced: Board, now_s: float) -> float:
    """The next instant after ``now_s`` at which a tariff or off-peak hours that ``priced`` rests on may change."""
    edges = [pool.tariff.until_s for pool in priced.pools.values()]
    for found in priced.found.values():
        edges += [bought.window_at(found.price, now_s)[1], found.price.deprecated_s or math.inf]
    return min((at_s for at_s in edges if at_s > now_s), default=math.inf)


def configured(config: ClusterConfig, now_s: float) -> dict[Key, Entry]:
    """The prices that cluster.yaml itself has for models of providers, as entries under their direct names."""
    found = board.price(config, now_s).found
    return {
        (provider.name, served.model): Entry(
            provider.name, served.model, found[offer_id].price, since_s=now_s, observed_s=now_s
        )
        for provider, served in direct(config)
        if (offer_id := f"{provider.name}/{served.model}") in found
    }


def direct(config: ClusterConfig) -> Iterator[tuple[Provider, ProviderModel]]:
    """Models that no feed prices: a history calls them by provider and model. A feed's name means the feed."""
    feeds = {feed.name for feed in config.feeds}
    for provider in config.providers:
        for served in provider.models:
            if provider.name not in feeds and not bought.keys(config, served):
                yield provider, served


def _by_listing(config: ClusterConfig) -> ClusterConfig:
    """The same site, where what a history may name takes its price from there, and no price is too old."""
    found = {(provider.name, served.model) for provider, served in direct(config)}
    providers = [
        provider.model_copy(
            update={
                "models": tuple(
                    served.model_copy(update={"price": (Listed(feed=provider.name, product=served.model),)})
                    if (provider.name, served.model) in found
                    else served
                    for served in provider.models
                )
            }
        )
        for provider in config.providers
    ]
    known = {feed.name: feed for feed in config.feeds}
    for name in (*(provider.name for provider in config.providers), *(site.name for site in config.sites)):
        known.setdefault(name, Feed(name=name, kind="history"))
    feeds = tuple(feed.model_copy(update={"ttl_s": math.inf}) for feed in known.values())
    return config.model_copy(update={"providers": tuple(providers), "feeds": feeds})


def _recorded_tariffs(config: ClusterConfig) -> dict[str, Site]:
    """Sites by name, each with the tariff that a history may give it."""
    feeds = {feed.name for feed in config.feeds}
    return {
        site.name: site.model_copy(
            update={
                "electricity": site.electricity.model_copy(
                    update={
                        "usd_per_kwh": None,
                        "time_of_use": None,
                        "day_ahead": DayAhead(feed=site.name, product=ELECTRICITY),
                    }
                )
            }
        )
        for site in config.sites
        if site.name not in feeds
    }
