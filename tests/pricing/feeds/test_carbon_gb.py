"""The feed of Great Britain's carbon intensity against a server on loopback."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pricing.feeds import FeedChanged, FeedUnavailable, options_of
from pricing.feeds.carbon_gb import KIND, Options, feed
from pricing.guard import implausible
from pricing.http import BoundedHttp
from pricing.listing import CarbonIntensity, Listing, Step
from tests.pricing.hostile_source import Source, hostile

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "energy"
HALF_HOUR_S = 1800.0
NOON_S = datetime(2018, 1, 20, 12, 0, tzinfo=UTC).timestamp()
# The current half-hour begins at 12:30.
NOW_S = NOON_S + 2700.0
PATH = "/intensity/2018-01-20T12:00Z/fw48h"


@pytest.fixture
def source() -> Iterator[Source]:
    """A Carbon Intensity API of our own."""
    with hostile() as server:
        yield server


def entry(start_s: float, forecast: Any, actual: Any = None) -> dict[str, Any]:
    """One half-hour in the documented shape."""
    start, end = (f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%MZ}" for at in (start_s, start_s + HALF_HOUR_S))
    return {"from": start, "to": end, "intensity": {"forecast": forecast, "actual": actual, "index": "moderate"}}


def polled(source: Source, now_s: float = NOW_S, http: BoundedHttp | None = None) -> Listing | None:
    """The one listing of a poll, None for "unchanged"."""
    found = feed(http or BoundedHttp(5.0, 2**22), Options(url=source.url), now_s)
    return None if found is None else next(iter(found))


def intensity(listing: Listing | None) -> CarbonIntensity:
    """Its carbon intensity."""
    assert listing is not None and isinstance(listing.price, CarbonIntensity)
    return listing.price


def publish(source: Source, *entries: Any, path: str = PATH, etag: str | None = None) -> None:
    """An answer with these half-hours."""
    source.answer(path, json.dumps({"data": list(entries)}).encode(), etag=etag)


def test_a_half_hour_is_what_was_measured_and_before_that_what_is_forecast(source: Source) -> None:
    """The example of the API's documentation, and the half-hours after it."""
    publish(source, entry(NOON_S, 266, 263), entry(NOON_S + 1800, 270, None), entry(NOON_S + 3600, 0))
    listing = polled(source)
    assert listing is not None and (listing.product, listing.observed_s) == ("GB", NOW_S)
    assert intensity(listing) == CarbonIntensity(
        (
            Step(NOON_S, NOON_S + 1800, 263.0),
            Step(NOON_S + 1800, NOON_S + 3600, 270.0),
            Step(NOON_S + 3600, NOON_S + 5400, 0.0),
        ),
        forecast=True,
    )
    assert implausible(intensity(listing)) is None


def test_measured_values_alone_are_no_forecast(source: Source) -> None:
    """The flag says whether any of the steps is one."""
    publish(source, entry(NOON_S, 266, 263), entry(NOON_S + 1800, None, None))
    assert intensity(polled(source)) == CarbonIntensity((Step(NOON_S, NOON_S + 1800, 263.0),), forecast=False)


def test_a_missing_half_hour_is_a_gap(source: Source) -> None:
    """Five values of the public data set are missing as well."""
    publish(source, entry(NOON_S + 3600, 3), entry(NOON_S + 1800, None), entry(NOON_S, 1))
    assert [step.start_s - NOON_S for step in intensity(polled(source)).steps] == [0.0, 3600.0]


def test_the_same_half_hour_is_asked_for_conditionally(source: Source) -> None:
    """Within one half-hour the address stays, so that an unchanged answer costs nothing."""
    http = BoundedHttp(5.0, 2**20)
    publish(source, entry(NOON_S, 266), etag='"a"')
    assert polled(source, http=http) is not None
    http.accept()
    assert polled(source, NOW_S + 600.0, http) is None


@pytest.mark.parametrize(
    ("entries", "error", "message"),
    [
        ([], FeedUnavailable, "no values"),
        ([entry(NOON_S, None)], FeedUnavailable, "no values"),
        ([entry(NOON_S, "high")], FeedChanged, r"data\[0\]\.intensity\.forecast"),
        ([entry(NOON_S, 266, "NaN")], FeedChanged, r"data\[0\]\.intensity\.actual"),
        ([entry(NOON_S, -5)], FeedChanged, r"data\[0\]\.intensity\.forecast"),
        ([entry(NOON_S, True)], FeedChanged, r"data\[0\]\.intensity\.forecast"),
        ([entry(NOON_S, 1), {"from": "x"}, 7], FeedChanged, r"2 of 3 .* data\[1\]\.intensity"),
        ([{**entry(NOON_S, 1), "to": "2018-01-20T11:30Z"}], FeedChanged, r"data\[0\]\.from"),
        ([{**entry(NOON_S, 1), "to": "2018-01-21T12:00Z"}], FeedChanged, r"data\[0\]\.from"),
        ([{**entry(NOON_S, 1), "from": 1516449600}], FeedChanged, r"data\[0\]\.from"),
        ([entry(NOON_S, 1), entry(NOON_S, 2)], FeedChanged, r"data\[1\]: a second value for 2018-01-20T12:00:00Z"),
    ],
)
def test_an_answer_of_another_shape_is_refused_with_its_path(
    source: Source, entries: list[Any], error: type[Exception], message: str
) -> None:
    """Nothing that is no number of grams becomes one."""
    publish(source, *entries)
    with pytest.raises(error, match=message):
        polled(source)


@pytest.mark.parametrize(
    "body", [b'{"error": {"code": "500 Internal Server Error"}}', b"[]", b"<html>", b'{"data": {}}']
)
def test_what_is_no_answer_at_all_is_refused(source: Source, body: bytes) -> None:
    """An error object, another type, a web page."""
    source.answer(PATH, body)
    with pytest.raises(FeedChanged):
        polled(source)


def test_options_are_strict() -> None:
    """No unknown names, and no address with a query."""
    assert options_of(KIND, {}) == Options()
    for given in ({"region": 3}, {"url": "ftp://example.org"}, {"url": "https://example.org/?x=1"}):
        with pytest.raises(ValueError):
            options_of(KIND, given)


@pytest.mark.evaluate
def test_nine_months_of_british_carbon_come_back_value_by_value(source: Source) -> None:
    """Served two days at a time in the API's shape, compared with the data set: measured where it was, else forecast."""
    with gzip.open(DATA / "gb_carbon_intensity_2023.csv.gz", "rt") as lines:
        rows = {datetime.fromisoformat(row["utc"]).timestamp(): row for row in csv.DictReader(lines)}
    starts = sorted(rows)
    read: dict[float, float] = {}
    at_s = starts[0] + HALF_HOUR_S
    while at_s - HALF_HOUR_S <= starts[-1]:
        first = datetime.fromtimestamp(at_s - HALF_HOUR_S, UTC)
        part = [rows[at_s + (i - 1) * HALF_HOUR_S] for i in range(97) if at_s + (i - 1) * HALF_HOUR_S in rows]
        said = [
            entry(
                datetime.fromisoformat(row["utc"]).timestamp(),
                float(row["forecast_gco2_kwh"]) if row["forecast_gco2_kwh"] else None,
                float(row["actual_gco2_kwh"]) if row["actual_gco2_kwh"] else None,
            )
            for row in part
        ]
        publish(source, *said, path=f"/intensity/{first:%Y-%m-%dT%H:%MZ}/fw48h")
        steps = intensity(polled(source, at_s)).steps
        assert all(step.end_s - step.start_s == HALF_HOUR_S for step in steps)
        read |= {step.start_s: step.value for step in steps}
        at_s += 48 * 3600.0
    texts = {at: row["actual_gco2_kwh"] or row["forecast_gco2_kwh"] for at, row in rows.items()}
    assert read == {at: float(text) for at, text in texts.items() if text}
    assert len(rows) == 13_105 and len(read) > 13_095
