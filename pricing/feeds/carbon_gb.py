"""Carbon intensity of power in Great Britain: what was measured, and two days of forecast.

Source: the Carbon Intensity API of the National Energy System Operator (CC BY 4.0), ``/intensity/{from}/fw48h``: grams of
CO2 equivalent per kWh consumed, by half-hour, losses and imports included. The estimate from metered generation
(``actual``) is taken where there is one, else the forecast.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pricing.feeds import FeedChanged, FeedKind, Http
from pricing.feeds.reading import SERIES_BYTES_MAX, Entries, decode, decode_entry, instant, number
from pricing.feeds.series import Reading, sound, steps_of
from pricing.listing import CarbonIntensity, Listing

PRODUCT = "GB"
_HALF_HOUR_S = 1800.0


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``url``: a mirror of the API."""

    url: Annotated[str, Meta(pattern=r"^https?://[^/?#]+(/[^?#]*)?[^/?#]\Z")] = "https://api.carbonintensity.org.uk"


class _Answer(msgspec.Struct):
    data: Entries


def feed(http: Http, options: Options, now_s: float) -> Iterable[Listing] | None:
    """One listing from the half-hour before this one up to two days ahead."""
    # The half-hour that ends at `from` may come first: ask from the one before, so that this one is inside in any case.
    start = datetime.fromtimestamp((now_s // _HALF_HOUR_S - 1) * _HALF_HOUR_S, UTC)
    body = http.get(f"{options.url}/intensity/{start:%Y-%m-%dT%H:%MZ}/fw48h", bytes_max=SERIES_BYTES_MAX)
    if body is None:
        return None
    entries = list(_read(decode(body, _Answer)))
    steps = steps_of(entries)
    forecast = any(entry.forecast for entry in entries if isinstance(entry, Reading))
    return [Listing(PRODUCT, CarbonIntensity(steps, forecast), now_s)]


def _read(answer: _Answer) -> Iterator[Reading | str]:
    """Each half-hour as a reading, or what is wrong with it."""
    for i, raw in enumerate(answer.data):
        path = f"data[{i}]"
        try:
            entry: Any = decode_entry(raw, Any)
        except FeedChanged as error:
            yield f"{path}: {error}"
            continue
        intensity = entry.get("intensity") if isinstance(entry, dict) else None
        if not isinstance(intensity, dict):
            yield f"{path}.intensity: missing"
            continue
        start_s, end_s = instant(entry.get("from")), instant(entry.get("to"))
        if start_s is None or end_s is None or not sound(start_s, end_s) or end_s - start_s != _HALF_HOUR_S:
            yield f"{path}.from: not the start of a half-hour that ends at `to`"
            continue
        is_forecast = intensity.get("actual") is None
        name = "forecast" if is_forecast else "actual"
        grams = number(intensity.get(name))
        if intensity.get(name) is not None and (grams is None or grams < 0.0):
            yield f"{path}.intensity.{name}: no number of grams"
        else:
            yield Reading(path, start_s, end_s, grams, forecast=is_forecast and grams is not None)


KIND = FeedKind(feed=feed, options=Options)
