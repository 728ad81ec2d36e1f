"""Day-ahead power prices of the German regulator's platform SMARD: Germany and Luxembourg, and their neighbours.

Source: the chart data of smard.de (Bundesnetzagentur, CC BY 4.0), an index of weekly files and the files themselves:
``{filter}/{region}/index_{resolution}.json`` and ``{filter}/{region}/{filter}_{region}_{resolution}_{ms}.json``, with
EUR/MWh by the start of the hour or quarter of an hour. Prices of the next day appear in the early afternoon; until then
they are null. The two newest weeks are read, so that the turn of the week is inside.

The feed never says "unchanged": it asks for three files, and one alone cannot speak for the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from pricing.feeds import FeedChanged, FeedKind, FeedUnavailable, Http
from pricing.feeds.reading import ENTRIES_MAX, SERIES_BYTES_MAX, Entries, decode, decode_entry, number
from pricing.feeds.series import INSTANT_S_MAX, INSTANT_S_MIN, KWH_PER_MWH, Reading, sound, steps_of
from pricing.listing import Listing, PowerPrice

T = TypeVar("T")
_WEEKS = 2
_AHEAD_S = 8 * 86_400.0
_STEP_S = {"hour": 3600.0, "quarterhour": 900.0}


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``usd_per_eur`` converts every price. ``filter`` and ``region`` are SMARD's own: 4169 in DE-LU is Germany/Luxembourg.

    ``resolution``: the market trades quarters of an hour since October 2025; an hour is the mean of its quarters.
    """

    usd_per_eur: Annotated[float, Meta(gt=0, lt=100)]
    resolution: Literal["hour", "quarterhour"] = "quarterhour"
    filter: Annotated[int, Meta(gt=0, lt=1_000_000)] = 4169
    region: Annotated[str, Meta(pattern=r"^[A-Za-z0-9-]{1,20}\Z")] = "DE-LU"
    product: Annotated[str, Meta(min_length=1, max_length=200)] = "DE-LU"
    url: Annotated[str, Meta(pattern=r"^https?://[^/?#]+/[^?#]*[^/?#]\Z")] = "https://www.smard.de/app/chart_data"


class _Index(msgspec.Struct):
    timestamps: Annotated[list[int], Meta(max_length=ENTRIES_MAX)]


class _Week(msgspec.Struct):
    series: Entries


def feed(http: Http, options: Options, now_s: float) -> Iterable[Listing] | None:
    """One listing with the steps of the two newest weeks; hours that have no price yet are left out."""
    folder = f"{options.url}/{options.filter}/{options.region}"
    index = _fetched(http, f"{folder}/index_{options.resolution}.json", _Index)
    last_ms = (now_s + _AHEAD_S) * 1000.0
    weeks = sorted(ms for ms in set(index.timestamps) if INSTANT_S_MIN * 1000.0 <= ms <= last_ms)[-_WEEKS:]
    if not weeks:
        raise FeedUnavailable("the index lists no week up to now")
    entries: list[Reading | str] = []
    for week_ms in weeks:
        name = f"{options.filter}_{options.region}_{options.resolution}_{week_ms}.json"
        entries += _read(_fetched(http, f"{folder}/{name}", _Week), name, options)
    return [Listing(options.product, PowerPrice(steps_of(entries)), now_s)]


def _fetched(http: Http, url: str, type: type[T]) -> T:
    body = http.get(url, bytes_max=SERIES_BYTES_MAX)
    if body is None:
        raise FeedChanged("HTTP 304 for one file of several, whose others may have changed")
    return decode(body, type)


def _read(week: _Week, name: str, options: Options) -> Iterator[Reading | str]:
    """Each entry [ms, EUR/MWh or null] as a reading in USD/kWh, or what is wrong with it."""
    step_s, usd_per_kwh = _STEP_S[options.resolution], options.usd_per_eur / KWH_PER_MWH
    for i, raw in enumerate(week.series):
        path = f"{name}: series[{i}]"
        try:
            entry = decode_entry(raw, Any)
        except FeedChanged as error:
            yield f"{path}: {error}"
            continue
        ms, eur = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
        start_s = ms / 1000.0 if isinstance(ms, int) and abs(ms) < INSTANT_S_MAX * 1000.0 else -1.0
        price = number(eur)
        if not sound(start_s, start_s + step_s) or start_s % step_s or (price is None and eur is not None):
            yield f"{path}: not the start of an hour or a quarter in ms and EUR/MWh"
        else:
            yield Reading(path, start_s, start_s + step_s, None if price is None else price * usd_per_kwh)


KIND = FeedKind(feed=feed, options=Options)
