"""The price desk: every feed's state and every product's entry, moved by the results of polls. No clock, no I/O.

What it knows goes to the controller as a ``Sheet``; what has changed goes to the history.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec

from pricing import book, bought, guard
from pricing.book import Change, Entry, Rules
from pricing.listing import Listing, Price, TokenPrice
from pricing.report import FeedState
from scheduler.config import ClusterConfig
from scheduler.config.prices import Feed

log = logging.getLogger("baseload.prices")

PRODUCTS_MAX = 500
_SEEN_S_MIN = 600.0

Key = tuple[str, str]


class Sheet(msgspec.Struct, frozen=True):
    """What the desk tells the controller: every product's entry with its doubts, and how the feeds are doing."""

    at_s: float
    entries: list[Entry] = []
    feeds: list[FeedState] = []
    history_problem: str = ""


EMPTY = Sheet(0.0)


class _Peers(NamedTuple):
    wanted: frozenset[Key]
    peers: Mapping[Key, frozenset[Key]]


def _peers(config: ClusterConfig) -> _Peers:
    """Products that cluster.yaml refers to, and for each the other sources of the same thing."""
    groups: list[list[Key]] = []
    for provider in config.providers:
        groups += [bought.keys(config, served) for served in provider.models]
    for pool in config.pools:
        if pool.rental is not None and pool.rental.listed:
            groups.append([(listed.feed, listed.product) for listed in pool.rental.listed])
    peers: dict[Key, frozenset[Key]] = {}
    for group in groups:
        for key in group:
            peers[key] = peers.get(key, frozenset()) | {peer for peer in group if peer[0] != key[0]}
    wanted = {key for group in groups for key in group}
    wanted |= {(listed.feed, listed.product) for _, listed in config.listed()}
    return _Peers(frozenset(wanted), peers)


class PriceDesk:
    """State of all feeds of one configuration."""

    def __init__(self, config: ClusterConfig) -> None:
        self._feeds: dict[str, Feed] = {feed.name: feed for feed in config.feeds}
        self._ratio_max = config.prices.disagreement_ratio_max
        self._wanted, self._peers = _peers(config)
        self.entries: dict[Key, Entry] = {}
        self._seen_s: dict[str, float] = {}
        self.states: dict[str, FeedState] = {
            feed.name: FeedState(feed.name, feed.kind, None, 0.0, 0, 0, 0, 0) for feed in config.feeds
        }

    def restore(self, changes: Iterable[Change]) -> int:
        """Rebuild the entries from the history; returns how many lines counted."""
        lines = 0
        for change in changes:
            if change.feed not in self._feeds:
                continue
            lines += 1
            if change.what == "seen":
                for key in [key for key in self.entries if key[0] == change.feed]:
                    self.entries[key] = book.apply(self.entries[key], change)
            elif (key := (change.feed, change.product)) in self.entries or self._room(change.feed, key):
                self.entries[key] = book.apply(self.entries.get(key), change)
        return lines

    def polled(self, feed: str, listings: Iterable[Listing], now_s: float) -> list[Change]:
        """A poll brought ``listings``: judge each, unlist what is gone. Of a product listed twice the first counts.

        Where a listing is no listing at all and this raises, nothing of the poll counts: what is in use is also recorded.
        """
        self._mind_the_clock(now_s)
        before = dict(self.entries)
        try:
            count, changes = self._judged(feed, listings, now_s)
        except Exception:
            self.entries = before
            raise
        self._good(feed, now_s, listings=count)
        return _told(changes + self._still_seen(feed, now_s))

    def _judged(self, feed: str, listings: Iterable[Listing], now_s: float) -> tuple[int, list[Change]]:
        changes: list[Change] = []
        found: set[str] = set()
        count = 0
        for listing in listings:
            key = (feed, listing.product)
            count += 1
            if listing.product in found or not guard.is_name(listing.product):
                continue
            if key in self.entries or self._interesting(key, listing.price):
                found.add(listing.product)
                entry, new = book.take(
                    self.entries.get(key), feed, listing, self._rules(feed), now_s, self._agrees(key, now_s)
                )
                self.entries[key] = entry
                changes += new
        for key in [key for key in self.entries if key[0] == feed and key[1] not in found]:
            self.entries[key], new = book.unlist(self.entries[key], now_s)
            changes += new
        return count, changes

    def unchanged(self, feed: str, now_s: float) -> list[Change]:
        """The source said that nothing has changed since the last good poll."""
        self._mind_the_clock(now_s)
        changes: list[Change] = []
        for key in [key for key in self.entries if key[0] == feed]:
            entry, new = book.unchanged(self.entries[key], self._rules(feed), now_s, self._agrees(key, now_s))
            self.entries[key] = entry
            changes += new
        self._good(feed, now_s, unchanged=1)
        return _told(changes + self._still_seen(feed, now_s))

    def failed(self, feed: str, error: str) -> None:
        """A poll brought nothing: prices age."""
        state = self.states[feed]
        self.states[feed] = msgspec.structs.replace(
            state, polls=state.polls + 1, errors=state.errors + 1, error=error[:300]
        )

    def scheduled(self, feed: str, next_poll_s: float) -> None:
        """When the feed will be asked next."""
        self.states[feed] = msgspec.structs.replace(self.states[feed], next_poll_s=next_poll_s)

    def sheet(self, now_s: float, history_problem: str = "") -> Sheet:
        """Everything the controller needs."""
        self._mind_the_clock(now_s)
        return Sheet(now_s, list(self.entries.values()), list(self.states.values()), history_problem)

    def _mind_the_clock(self, now_s: float) -> None:
        """Where the clock was set back, nobody knows how old a price is: it ages from now on, and is never of later."""
        for key, entry in self.entries.items():
            if entry.observed_s > now_s:
                self.entries[key] = msgspec.structs.replace(entry, observed_s=now_s)

    def _rules(self, feed: str) -> Rules:
        spec = self._feeds[feed]
        return Rules(spec.jump_ratio_max, spec.jump_ratio_never, spec.confirmations)

    def _interesting(self, key: Key, price: Price) -> bool:
        """Of tokens only what cluster.yaml names: maps list thousands of models. Of the rest as much as has room."""
        return key in self._wanted or (not isinstance(price, TokenPrice) and self._room(key[0], key))

    def _room(self, feed: str, key: Key) -> bool:
        """Whether another product may be kept; of those that nobody refers to, one that is gone makes room."""
        if key in self._wanted:
            return True
        others = [known for known in self.entries if known[0] == feed and known not in self._wanted]
        if len(others) < PRODUCTS_MAX:
            return True
        gone = [known for known in others if not self.entries[known].listed]
        if gone:
            del self.entries[min(gone, key=lambda known: self.entries[known].doubted_s)]
        return bool(gone)

    def _agrees(self, key: Key, now_s: float) -> Callable[[Price], bool | None]:
        def agrees(price: Price) -> bool | None:
            peers = [(self.entries.get(peer), self._feeds[peer[0]].ttl_s) for peer in self._peers.get(key, ())]
            words = [word for entry, ttl_s in peers if entry is not None for word in _words(entry, now_s - ttl_s)]
            return any(guard.agree(word, price, self._ratio_max) for word in words) if words else None

        return agrees

    def _good(self, feed: str, now_s: float, listings: int | None = None, unchanged: int = 0) -> None:
        state = self.states[feed]
        self.states[feed] = msgspec.structs.replace(
            state,
            last_ok_s=now_s,
            polls=state.polls + 1,
            unchanged=state.unchanged + unchanged,
            listings=state.listings if listings is None else listings,
            error="",
        )

    def _still_seen(self, feed: str, now_s: float) -> list[Change]:
        """Now and then a line that says until when the prices held, so that a restart knows their age."""
        every_s = max(_SEEN_S_MIN, self._feeds[feed].ttl_s / 20.0)
        last_s = self._seen_s.get(feed)
        held_s = [entry.observed_s for key, entry in self.entries.items() if key[0] == feed and book.holds(entry)]
        if not held_s or (last_s is not None and 0 <= now_s - last_s < every_s):
            return []
        self._seen_s[feed] = now_s
        oldest_s = min(held_s)
        return [Change(now_s, feed, "", "seen", observed_s=oldest_s if oldest_s < now_s else None)]


def _told(changes: list[Change]) -> list[Change]:
    """The changes, once the log has those that a person should see."""
    for change in changes:
        if change.what in ("quarantined", "refused", "unlisted"):
            log.warning(
                "a price needs attention",
                extra={"feed": change.feed, "product": change.product, "what": change.what, "text": change.text},
            )
    return changes


def _words(entry: Entry, since_s: float) -> list[Price]:
    """What a source has said since then: its good price, and the one that waits in quarantine."""
    held = [entry.held.price] if entry.held is not None and entry.held.last_s >= since_s else []
    return held if entry.price is None or entry.observed_s < since_s else [entry.price, *held]
