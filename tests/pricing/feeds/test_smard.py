"""The feed of SMARD against a server on loopback that answers in its documented shape, and in others."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.feeds import FeedChanged, FeedError, FeedUnavailable, options_of
from pricing.feeds.series import Reading, steps_of
from pricing.feeds.smard import KIND, Options, feed
from pricing.guard import implausible
from pricing.http import BoundedHttp
from pricing.listing import Listing, PowerPrice
from tests.pricing.hostile_source import Source, hostile

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "energy"
HOUR_MS = 3_600_000
WEEK_MS = 168 * HOUR_MS
MONDAY_MS = 1_742_770_800_000  # Monday, 2025-03-24 00:00 in Berlin
NOW_S = MONDAY_MS / 1000 + 10.5 * 3600

Entry = list[int | float | None]


@pytest.fixture
def source() -> Iterator[Source]:
    """A SMARD of our own."""
    with hostile() as server:
        yield server


def options(source: Source, resolution: str = "hour", usd_per_eur: float = 1.1) -> Options:
    """Options as cluster.yaml would give them."""
    given = {"usd_per_eur": usd_per_eur, "resolution": resolution, "url": f"{source.url}/chart_data"}
    found = options_of(KIND, given)
    assert isinstance(found, Options)
    return found


def publish(source: Source, weeks: dict[int, list[Entry]], resolution: str = "hour", etag: str | None = None) -> None:
    """Index and weekly files, as SMARD documents them."""
    folder = "/chart_data/4169/DE-LU"
    source.answer(f"{folder}/index_{resolution}.json", json.dumps({"timestamps": sorted(weeks)}).encode(), etag=etag)
    for week_ms, series in weeks.items():
        body = {"meta_data": {"version": 1, "created": week_ms + 1}, "series": series}
        source.answer(f"{folder}/4169_DE-LU_{resolution}_{week_ms}.json", json.dumps(body).encode(), etag=etag)


def hours(start_ms: int, *eur: float | None) -> list[Entry]:
    """[ms, EUR/MWh] by the hour."""
    return [[start_ms + i * HOUR_MS, value] for i, value in enumerate(eur)]


def polled(source: Source, chosen: Options, now_s: float = NOW_S, http: BoundedHttp | None = None) -> Listing:
    """The one listing of a poll."""
    found = feed(http or BoundedHttp(5.0, 2**20), chosen, now_s)
    assert found is not None
    [listing] = found
    return listing


def prices(listing: Listing) -> list[tuple[float, float, float]]:
    """(start, end, USD/kWh) of its steps."""
    assert isinstance(listing.price, PowerPrice)
    return [tuple(step) for step in listing.price.steps]


def test_prices_are_usd_per_kwh_by_the_hour_and_hours_without_one_are_left_out(source: Source) -> None:
    """Negative prices stay negative; tomorrow, which is null until the auction, is a gap and not a zero."""
    publish(source, {MONDAY_MS - WEEK_MS: hours(MONDAY_MS - HOUR_MS, 50.0), MONDAY_MS: hours(MONDAY_MS, -20, None, 80)})
    listing = polled(source, options(source))
    start_s = MONDAY_MS / 1000
    assert (listing.product, listing.observed_s) == ("DE-LU", NOW_S)
    assert prices(listing) == [
        (start_s - 3600, start_s, pytest.approx(0.055)),
        (start_s, start_s + 3600, pytest.approx(-0.022)),
        (start_s + 7200, start_s + 10_800, pytest.approx(0.088)),
    ]
    assert implausible(listing.price) is None


def test_quarters_of_an_hour_are_steps_of_their_own(source: Source) -> None:
    """As traded since October 2025."""
    publish(source, {MONDAY_MS: [[MONDAY_MS + i * 900_000, 10.0 * i] for i in range(4)]}, "quarterhour")
    steps = prices(polled(source, options(source, "quarterhour", usd_per_eur=1.0)))
    assert steps == [(MONDAY_MS / 1000 + i * 900, MONDAY_MS / 1000 + (i + 1) * 900, 0.01 * i) for i in range(4)]


def test_only_the_two_newest_weeks_up_to_the_next_are_asked_for(source: Source) -> None:
    """The index reaches back to 2018, and a week far in the future must not push out the current one."""
    weeks = {MONDAY_MS + i * WEEK_MS: hours(MONDAY_MS + i * WEEK_MS, 1.0) for i in (-3, -2, -1, 0, 52)}
    publish(source, weeks)
    polled(source, options(source))
    names = [asked.path.rpartition("_")[2] for asked in source.asked]
    assert names == ["hour.json", f"{MONDAY_MS - WEEK_MS}.json", f"{MONDAY_MS}.json"]


def test_a_week_that_has_not_changed_still_comes_with_the_one_that_has(source: Source) -> None:
    """All three files carry an ETag: a 304 for one must not lose its half of the steps."""
    http = BoundedHttp(5.0, 2**20)
    weeks = {MONDAY_MS - WEEK_MS: hours(MONDAY_MS - HOUR_MS, 50.0), MONDAY_MS: hours(MONDAY_MS, 1.0, None)}
    publish(source, weeks, etag='"1"')
    assert len(prices(polled(source, options(source), http=http))) == 2
    http.accept()
    name = f"/chart_data/4169/DE-LU/4169_DE-LU_hour_{MONDAY_MS}.json"
    source.answer(name, json.dumps({"series": hours(MONDAY_MS, 1.0, 2.0)}).encode(), etag='"2"')
    assert len(prices(polled(source, options(source), http=http))) == 3


def test_a_week_that_two_files_hold_counts_once(source: Source) -> None:
    """Files overlap where the clock changes; the same value twice is no contradiction."""
    publish(source, {MONDAY_MS - WEEK_MS: hours(MONDAY_MS - HOUR_MS, 5.0, 6.0), MONDAY_MS: hours(MONDAY_MS, 6.0, 7.0)})
    assert [value for *_, value in prices(polled(source, options(source, usd_per_eur=1.0)))] == [0.005, 0.006, 0.007]


@pytest.mark.parametrize(
    ("series", "message"),
    [
        (hours(MONDAY_MS, 5.0) + hours(MONDAY_MS, 6.0), r"series\[1\]: a second value for 2025-03-23T23:00:00Z"),
        ([[MONDAY_MS, 5.0], [MONDAY_MS + 900_000, 5.0], [MONDAY_MS + 1_800_000, 5.0]], r"2 of 3 .* series\[1\]"),
        ([[MONDAY_MS // 1000, 5.0]], r"1 of 1 entries cannot be read, first 4169_DE-LU_hour_\d+.json: series\[0\]"),
        ([[MONDAY_MS, "NaN"], [MONDAY_MS + HOUR_MS, "n/a"], [MONDAY_MS + 2 * HOUR_MS, 5]], r"2 of 3 .*series\[0\]"),
        ([{"at": MONDAY_MS, "eur": 5.0}], r"series\[0\]"),
        ([[True, 5.0], [10**400, 5.0], [float(MONDAY_MS), 5.0], [MONDAY_MS, True], [MONDAY_MS], None], r"6 of 6"),
    ],
)
def test_a_file_of_another_shape_is_refused_with_its_path(source: Source, series: list[Entry], message: str) -> None:
    """More than half unreadable, or two prices at once."""
    publish(source, {MONDAY_MS: series})
    with pytest.raises(FeedChanged, match=message):
        polled(source, options(source))


def test_a_few_unreadable_entries_cost_only_themselves(source: Source) -> None:
    """They leave a gap."""
    publish(source, {MONDAY_MS: [*hours(MONDAY_MS, 1.0, 2.0), ["x", 3.0], *hours(MONDAY_MS + 3 * HOUR_MS, 4.0)]})
    assert [value for *_, value in prices(polled(source, options(source, usd_per_eur=1.0)))] == [0.001, 0.002, 0.004]


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (b'{"timestamps": []}', FeedUnavailable, "no week"),
        (b'{"timestamps": [99999999999999999999999999]}', FeedUnavailable, "no week"),
        (b'{"timestamps": ["x"]}', FeedChanged, r"\$\.timestamps\[0\]"),
        (b'{"weeks": []}', FeedChanged, "timestamps"),
        (b"<html>maintenance</html>", FeedChanged, "malformed"),
        (b"[" * 100_000, FeedChanged, "object"),
        (b"", FeedChanged, "truncated"),
    ],
)
def test_an_index_that_is_none_is_refused(source: Source, index: bytes, error: type[Exception], message: str) -> None:
    """Nothing is guessed from the calendar."""
    source.answer("/chart_data/4169/DE-LU/index_hour.json", index)
    with pytest.raises(error, match=message):
        polled(source, options(source))


def test_a_week_that_is_listed_but_missing_is_an_error_and_half_a_listing_is_not_made(source: Source) -> None:
    """404 on one of the files."""
    source.answer("/chart_data/4169/DE-LU/index_hour.json", json.dumps({"timestamps": [MONDAY_MS]}).encode())
    with pytest.raises(FeedError, match="404"):
        polled(source, options(source))


def test_a_bottomless_file_is_an_error_like_any_other(source: Source) -> None:
    """A hundred thousand brackets, where a price should be."""
    publish(source, {MONDAY_MS: []})
    source.answer(f"/chart_data/4169/DE-LU/4169_DE-LU_hour_{MONDAY_MS}.json", b'{"series": [' + b"[" * 100_000)
    with pytest.raises(FeedChanged, match="recursion"):
        polled(source, options(source))


def test_weeks_without_any_price_are_no_listing(source: Source) -> None:
    """All null."""
    publish(source, {MONDAY_MS: hours(MONDAY_MS, None, None)})
    with pytest.raises(FeedUnavailable, match="no values"):
        polled(source, options(source))


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"usd_per_eur": 0.0},
        {"usd_per_eur": float("nan")},
        {"usd_per_eur": float("inf")},
        {"usd_per_eur": 1.1, "resolution": "day"},
        {"usd_per_eur": 1.1, "region": "../DE"},
        {"usd_per_eur": 1.1, "region": "DE\n"},
        {"usd_per_eur": 1.1, "url": "https://example.org/a?b=c"},
        {"usd_per_eur": 1.1, "usd_per_euro": 1.1},
    ],
)
def test_an_exchange_rate_is_asked_for_and_options_are_strict(given: dict[str, object]) -> None:
    """A rate is never a default."""
    with pytest.raises(ValueError):
        options_of(KIND, given)


readings = st.builds(
    lambda start, length, value: Reading("series", 1e9 + 900.0 * start, 1e9 + 900.0 * (start + length), value),
    st.integers(0, 9),
    st.integers(1, 4),
    st.none() | st.sampled_from([-0.1, 0.0, 0.1]),
)


@given(st.lists(readings | st.just("series[7]: nonsense"), max_size=12))
def test_steps_ascend_do_not_overlap_and_hold_nothing_that_the_source_has_not_said(
    entries: list[Reading | str],
) -> None:
    """Whatever a source says: steps of its own values, in order, or an error."""
    try:
        steps = steps_of(entries)
    except FeedError:
        return
    said = {(e.start_s, e.end_s, e.value) for e in entries if isinstance(e, Reading) and e.value is not None}
    assert {tuple(step) for step in steps} == said and len(said) == len(steps)
    assert implausible(PowerPrice(steps)) is None


def test_a_contradiction_and_a_majority_of_nonsense_are_told_apart_from_a_lack_of_values() -> None:
    """Which error decides whether somebody has to look at the feed."""
    one = Reading("a", 1e9, 1e9 + 900, 0.1)
    with pytest.raises(FeedChanged, match="second value"):
        steps_of([one, one._replace(value=0.2)])
    with pytest.raises(FeedChanged, match="second value"):
        steps_of([one, one._replace(start_s=1e9 + 450)])
    with pytest.raises(FeedChanged, match="2 of 3"):
        steps_of([one, "b", "c"])
    with pytest.raises(FeedUnavailable):
        steps_of([one._replace(value=None)])
    assert len(steps_of([one, "b", one])) == 1


@pytest.mark.evaluate
def test_six_years_of_german_prices_come_back_value_by_value(source: Source) -> None:
    """Hourly, then by the quarter: served as SMARD's weekly files, read week by week, compared with the data set."""
    with gzip.open(DATA / "de_lu_day_ahead.csv.gz", "rt") as lines:
        rows = [(datetime.fromisoformat(row["utc"]), row["price_eur_mwh"]) for row in csv.DictReader(lines)]
    berlin = ZoneInfo("Europe/Berlin")
    turn = rows.index(next((at, v) for at, v in rows if at.minute))
    compared = 0
    for resolution, step_s, part in (("hour", 3600, rows[: turn - 1]), ("quarterhour", 900, rows[turn - 1 :])):
        weeks: dict[int, list[Entry]] = {}
        for at, eur in part:
            day = at.astimezone(berlin)
            monday = datetime(day.year, day.month, day.day, tzinfo=berlin) - timedelta(days=day.weekday())
            weeks.setdefault(int(monday.timestamp()) * 1000, []).append([int(at.timestamp()) * 1000, float(eur)])
        publish(source, weeks, resolution)
        read: dict[float, float] = {}
        for week_ms in weeks:
            steps = prices(polled(source, options(source, resolution), week_ms / 1000 - 86_400.0))
            assert all(end_s - start_s == step_s for start_s, end_s, _ in steps)
            read |= {start_s: value for start_s, _, value in steps}
        expected = {at.timestamp(): pytest.approx(float(eur) * 1.1 / 1000, rel=1e-12) for at, eur in part}
        assert read == expected
        compared += len(expected)
    assert compared == len(rows) == 59_239
