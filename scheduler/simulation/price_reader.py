"""Reads a price history for one trace: one pass keeps what held when it begins and what changes in its span, no more."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from pricing import bought, guard, history, timeline
from pricing.board import Board
from pricing.book import Change, Entry
from pricing.listing import CarbonIntensity, PowerPrice, Price, Step, TokenPrice
from scheduler.config import ClusterConfig
from scheduler.simulation.price_history import ELECTRICITY, Key, PriceHistory, applied, configured, direct

# Changes, and steps in them, that are kept for one trace: at most about a hundred megabytes.
KEPT_MAX = 200_000
# A clock that was set back by more leaves a line of its own in the history.
_BACK_S_MAX = 60.0
# After a failed write, lines are written again: as many are remembered as the writer hands over at once.
_REPEATED_MAX = 16_384


class HistoryError(ValueError):
    """The history cannot be played; says which, and why."""


def load(
    path: str | Path, config: ClusterConfig, begin_s: float, span_s: float, from_s: float | None = None
) -> PriceHistory:
    """The history at ``path`` (the recorder's folder, or one file) for a trace of ``span_s`` that begins at ``begin_s``.

    The instant ``from_s`` of the history is laid there (both Unix seconds). None: its first instant with a price for every
    source, which is its first price of all where cluster.yaml has prices of its own. Raises HistoryError, and OSError where
    a file cannot be read.
    """
    known, held = _known(config), configured(config, begin_s)
    last_s, priced = _check(path, config, known)
    if not priced:
        raise HistoryError(f"{path}: has no price of anything that the site file has")
    if from_s is not None and from_s > last_s:
        raise HistoryError(f"{path}: ends at {_iso(last_s)}, before {_iso(from_s)}")
    changes: list[Change] = []
    seen: set[Key] = set()
    kept, start_s = 0, from_s
    for change in _prices(path, known):
        key = (change.feed, change.product)
        new, before = key not in seen, start_s is None or change.at_s <= start_s
        seen.add(key)
        if before:
            held[key] = applied(held.get(key), change)
            # Whether all prices are known can only change where there is one more of them.
            if start_s is None and new and _complete(config, _at(config, held, change.at_s, begin_s), priced):
                start_s = change.at_s
        elif start_s is not None and change.at_s >= start_s + span_s:
            break
        else:
            changes.append(change)
            kept += 1 + _steps(change)
            if kept > KEPT_MAX:
                raise HistoryError(f"{path}: more than {KEPT_MAX:,} changes of price in the span of the trace")
    if start_s is None:
        _refuse(path, _at(config, held, last_s, begin_s), "not every source has had a price at its end")
        start_s = last_s
    by_s = begin_s - start_s
    played = PriceHistory(config, _moved(held, by_s), _effective(held, changes, by_s))
    _check_prices(path, played, begin_s, span_s)
    return played


def _steps(change: Change) -> int:
    return len(timeline.steps_of(change.price) or ()) if change.price is not None else 0


def _at(config: ClusterConfig, held: Mapping[Key, Entry], at_s: float, begin_s: float) -> Board:
    """The board, if the trace began at ``at_s`` of the history."""
    return PriceHistory(config, _moved(held, begin_s - at_s), ()).board_until(begin_s)[0]


def _complete(config: ClusterConfig, priced: Board, recorded: set[Key]) -> bool:
    """Every offer has its price, and every rent that the history knows at some time."""
    for pool in config.pools:
        listed = pool.rental.listed if pool.rental is not None else ()
        missing = pool.name in priced.pools and isinstance(priced.pools[pool.name].rent, str)
        if missing and any((one.feed, one.product) in recorded for one in listed):
            return False
    return not priced.unpriced


def _check_prices(path: str | Path, played: PriceHistory, begin_s: float, span_s: float) -> None:
    """An unknown price is never a default: every source needs one all the time."""
    now_s = begin_s
    while now_s < begin_s + span_s:
        priced, until_s = played.board_until(now_s)
        _refuse(path, priced, f"not every source has a price {now_s - begin_s:,.0f} s into the trace")
        now_s = until_s


def _refuse(path: str | Path, priced: Board, when: str) -> None:
    if priced.unpriced:
        reasons = "; ".join(f"{offer_id}: {reason}" for offer_id, reason in sorted(priced.unpriced.items()))
        raise HistoryError(f"{path}: {when} ({reasons})")


def _known(config: ClusterConfig) -> dict[Key, type[Price] | None]:
    """What a history may price, and the kind of price that it has to be (None: the kind that its feed has)."""
    found: dict[Key, type[Price] | None] = {(listed.feed, listed.product): None for _, listed in config.listed()}
    for provider in config.providers:
        found |= dict.fromkeys(key for served in provider.models for key in bought.keys(config, served))
    found |= {(provider.name, served.model): TokenPrice for provider, served in direct(config)}
    feeds = {feed.name for feed in config.feeds}
    return found | {(site.name, ELECTRICITY): PowerPrice for site in config.sites if site.name not in feeds}


def _prices(path: str | Path, known: Mapping[Key, type[Price] | None]) -> Iterator[Change]:
    """Every price of the history that counts. Raises HistoryError for one that cannot be."""
    for change in history.replay(path):
        kind = known.get((change.feed, change.product), CarbonIntensity)
        if change.what != "price" or change.price is None or kind is CarbonIntensity:
            continue
        problem = guard.implausible(change.price)
        if kind is not None and not isinstance(change.price, kind):
            problem = f"must be a {kind.__name__}, not a {type(change.price).__name__}"
        if problem is not None:
            raise HistoryError(f"{path}: {change.feed}: {change.product} at {_iso(change.at_s)}: {problem}")
        yield change


def _effective(held: Mapping[Key, Entry], changes: Sequence[Change], by_s: float) -> list[Change]:
    """The changes on the clock of the trace, without those after which everything costs what it did before."""
    entries, found = _moved(held, by_s), []
    for change in changes:
        key, before = (change.feed, change.product), entries.get((change.feed, change.product))
        moved = Change(change.at_s + by_s, *key, "price", _on_clock(change.price, by_s))
        entries[key] = applied(before, moved)
        if before is None or before.price != entries[key].price:
            found.append(moved)
    return found


def _moved(held: Mapping[Key, Entry], by_s: float) -> dict[Key, Entry]:
    return {
        key: msgspec.structs.replace(entry, price=_on_clock(entry.price, by_s), since_s=0.0, observed_s=0.0)
        for key, entry in held.items()
    }


def _on_clock(price: Price | None, by_s: float) -> Price | None:
    """The price with instants ``by_s`` later; no model ends."""
    if isinstance(price, TokenPrice):
        return msgspec.structs.replace(price, deprecated_s=None)
    if isinstance(price, PowerPrice | CarbonIntensity):
        steps = tuple(Step(step.start_s + by_s, step.end_s + by_s, step.value) for step in price.steps)
        return msgspec.structs.replace(price, steps=steps)
    return price


# --- what a file must be ------------------------------------------------------------------------------------------


def _check(path: str | Path, config: ClusterConfig, known: Mapping[Key, type[Price] | None]) -> tuple[float, set[Key]]:
    """The last instant of a history that is in order and whose every name is one of the site file, and what it prices."""
    sites = {site.name for site in config.sites}
    feeds = {feed.name for feed in config.feeds}
    models = {provider.name: {served.model for served in provider.models} for provider in config.providers}
    names = feeds | sites | set(models)
    last_s, priced = -math.inf, set[Key]()
    for line in _in_order(path):
        change = line.change
        if change is None:
            continue
        last_s, where = change.at_s, f"{path}: line with seq {line.seq}"
        if change.feed not in names:
            raise HistoryError(f"{where}: no feed, provider or site is {change.feed!r} (known: {_list(names)})")
        products = models.get(change.feed, set()) | ({ELECTRICITY} if change.feed in sites else set())
        if change.feed not in feeds and change.product not in products:
            raise HistoryError(f"{where}: {change.feed} has no {change.product!r} (known: {_list(products)})")
        if change.what == "price" and (change.feed, change.product) in known:
            priced.add((change.feed, change.product))
    if last_s == -math.inf:
        raise HistoryError(f"{path}: has no line of a price history")
    return last_s, priced


def _in_order(path: str | Path) -> Iterator[history.Line]:
    """Lines as they stand. What a failed write has left there twice is passed over; other ways back are errors."""
    if not Path(path).exists():
        raise HistoryError(f"{path}: there is no such file or folder")
    recent: dict[int, float] = {}
    newest, last_s = 0, -math.inf
    for line in history.lines(path):
        at_s = line.at_s if line.change is None else line.change.at_s
        if line.seq <= newest:
            if recent.get(line.seq) != at_s:
                raise HistoryError(f"{path}: not sorted: the line with seq {line.seq} comes after that with {newest}")
            continue
        if line.change is not None and at_s < last_s - _BACK_S_MAX:
            raise HistoryError(f"{path}: not sorted: at seq {line.seq}, {_iso(at_s)} comes after {_iso(last_s)}")
        last_s = at_s if line.change is None else max(last_s, at_s)
        newest, recent[line.seq] = line.seq, at_s
        if len(recent) > _REPEATED_MAX:
            del recent[next(iter(recent))]
        yield line


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _iso(at_s: float) -> str:
    try:
        return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (OverflowError, ValueError, OSError):
        return f"{at_s:g}"
