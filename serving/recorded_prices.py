"""The recorded price history as lines: what each offer, site and rent cost over time, gaps where no good price was known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pricing import book, bought
from pricing.book import Change, Entry
from pricing.listing import CarbonIntensity, GpuPrice, PowerPrice, TokenPrice
from scheduler.config import ClusterConfig
from serving.price_report.history import Mark, Point, PriceHistoryView, Series

_MARKS_MAX = 200
_MARKED = ("quarantined", "refused", "confirmed", "unlisted")

Key = tuple[str, str]


@dataclass(slots=True)
class _Line:
    """One offer: its sources in order, and the points so far."""

    keys: list[Key]
    points: list[Point] = field(default_factory=list)
    expires_s: float = float("inf")

    def put(self, at_s: float, value: float | None) -> None:
        if value is None and not self.points:
            return
        if not self.points or self.points[-1][1] != value:
            self.points.append((at_s, value))


def view(config: ClusterConfig, changes: Iterable[Change], now_s: float) -> PriceHistoryView:
    """Lines of everything that ``config`` names, and of every rent that its feeds have listed, up to ``now_s``."""
    ttl_s = {feed.name: feed.ttl_s for feed in config.feeds}
    lines = {offer_id: _Line(keys) for offer_id, keys in _offers(config)}
    entries: dict[Key, Entry] = {}
    rents: dict[Key, _Line] = {}
    marks: list[Mark] = []
    for change in changes:
        if change.feed not in ttl_s:
            continue
        key = (change.feed, change.product)
        if change.what == "seen":
            for known in [known for known in entries if known[0] == change.feed]:
                entries[known] = book.apply(entries[known], change)
        else:
            entries[key] = book.apply(entries.get(key), change)
        if change.what in _MARKED:
            marks.append(Mark(change.at_s, f"{change.feed}: {change.product} {change.what} {change.text}".strip()))
        if isinstance(change.price, GpuPrice) and change.what == "price":
            per_gpu = change.price.usd_per_hour / change.price.gpu_count
            rents.setdefault(key, _Line([key])).put(change.at_s, per_gpu)
        for line in lines.values():
            if any(known[0] == change.feed for known in line.keys):
                _advance(line, entries, ttl_s, change.at_s)
    for line in lines.values():
        _advance(line, entries, ttl_s, now_s)
    for key, line in rents.items():
        entry = entries[key]
        until_s = entry.observed_s + ttl_s[key[0]]
        if until_s < now_s:
            line.put(until_s, None)
    return PriceHistoryView(
        offers=tuple(_series(name, "USD/Mtok", line, now_s) for name, line in lines.items() if line.points),
        power=tuple(_steps(config, entries, PowerPrice, "USD/kWh")),
        carbon=tuple(_steps(config, entries, CarbonIntensity, "g CO2/kWh")),
        rents=tuple(
            _series(f"{feed}: {product}", "USD/GPU-hour", line, now_s) for (feed, product), line in rents.items()
        ),
        marks=tuple(marks[-_MARKS_MAX:]),
    )


def _offers(config: ClusterConfig) -> Iterator[tuple[str, list[Key]]]:
    for provider in config.providers:
        for served in provider.models:
            keys = bought.keys(config, served)
            if keys:
                yield f"{provider.name}/{served.model}", keys


def _advance(line: _Line, entries: dict[Key, Entry], ttl_s: dict[str, float], at_s: float) -> None:
    if line.expires_s < at_s:
        line.put(line.expires_s, None)
    line.expires_s = float("inf")
    for key in line.keys:
        entry = entries.get(key)
        usable = bought.unusable(entry, ttl_s[key[0]], at_s) is None
        if usable and entry is not None and isinstance(entry.price, TokenPrice):
            line.put(at_s, bought.blended(entry.price.rates["standard"]) * 1e6)
            line.expires_s = entry.observed_s + ttl_s[key[0]]
            return
    line.put(at_s, None)


def _series(name: str, unit: str, line: _Line, now_s: float) -> Series:
    return Series(name, unit, (*line.points, (now_s, line.points[-1][1])))


def _steps(
    config: ClusterConfig, entries: dict[Key, Entry], kind: type[PowerPrice] | type[CarbonIntensity], unit: str
) -> Iterator[Series]:
    """Series that come as steps: the last days of each, as the board knows them."""
    wanted = {(listed.feed, listed.product) for _, listed in config.listed()}
    for key, entry in entries.items():
        if key not in wanted or not isinstance(entry.price, kind):
            continue
        points: list[Point] = []
        for step in entry.price.steps:
            if points and points[-1][0] == step.start_s:
                points.pop()
            points += [(step.start_s, step.value), (step.end_s, None)]
        yield Series(f"{key[0]}: {key[1]}", unit, tuple(points))
