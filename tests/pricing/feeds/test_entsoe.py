"""The feed of ENTSO-E's transparency platform against a server on loopback: documents as published, and hostile ones."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.feeds import FeedChanged, FeedError, FeedUnavailable, options_of
from pricing.feeds.entsoe import KIND, Options, feed
from pricing.guard import implausible
from pricing.http import BoundedHttp
from pricing.listing import Listing, PowerPrice, Step
from tests.pricing.hostile_source import Source, hostile

AREA = "10Y1001A1001A82H"
TOKEN = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"
HOUR_S = 3600.0
START_S = datetime(2025, 10, 25, 22, 0, tzinfo=UTC).timestamp()
NOW_S = START_S + 10.5 * HOUR_S
NAMESPACE = "urn:iec62325.351:tc57wg16:451-3:publicationdocument:7:3"


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Iterator[Source]:
    """A transparency platform of our own, and a token for it."""
    monkeypatch.setenv("ENTSOE_TOKEN", TOKEN)
    with hostile() as server:
        yield server


def iso(at_s: float) -> str:
    """As the platform writes instants."""
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%dT%H:%MZ}"


def points(**prices: object) -> str:
    """Points by position: p1=…, p4=…"""
    return "".join(
        f"<Point><position>{name[1:]}</position><price.amount>{price}</price.amount></Point>"
        for name, price in prices.items()
    )


def period(content: str, hours: float = 4, start_s: float = START_S, resolution: str = "PT60M") -> str:
    """A period with these points."""
    ends = f"<start>{iso(start_s)}</start><end>{iso(start_s + hours * HOUR_S)}</end>"
    return f"<Period><timeInterval>{ends}</timeInterval><resolution>{resolution}</resolution>{content}</Period>"


def series(
    *periods: str,
    curve: str = "A03",
    sequence: str = "1",
    currency: str = "EUR",
    agreement: str = "A01",
    unit: str = "MWH",
) -> str:
    """A time series in the platform's order of fields."""
    position = "classificationSequence_AttributeInstanceComponent.position"
    return (
        f"<TimeSeries><mRID>1</mRID><auction.type>A01</auction.type><businessType>A62</businessType>"
        f'<in_Domain.mRID codingScheme="A01">{AREA}</in_Domain.mRID>'
        f"<contract_MarketAgreement.type>{agreement}</contract_MarketAgreement.type>"
        f"<currency_Unit.name>{currency}</currency_Unit.name><price_Measure_Unit.name>{unit}</price_Measure_Unit.name>"
        + (f"<{position}>{sequence}</{position}>" if sequence else "")
        + f"<curveType>{curve}</curveType>{''.join(periods)}</TimeSeries>"
    )


def document(*content: str, kind: str = "Publication_MarketDocument", namespace: str = NAMESPACE) -> bytes:
    """A whole document."""
    head = '<?xml version="1.0" encoding="utf-8"?>'
    return f'{head}<{kind} xmlns="{namespace}"><type>A44</type>{"".join(content)}</{kind}>'.encode()


def polled(source: Source, body: bytes | None = None, **more: object) -> tuple[Step, ...]:
    """Steps of one poll, in USD/MWh since the rate is one."""
    if body is not None:
        source.answer("/api", body)
    given = {"token_env": "ENTSOE_TOKEN", "area": AREA, "usd_per_eur": 1.0, "url": f"{source.url}/api"}
    found = feed(BoundedHttp(5.0, 2**23), options_of(KIND, given | more), NOW_S)
    assert found is not None
    [listing] = found
    assert isinstance(listing, Listing) and isinstance(listing.price, PowerPrice)
    assert (listing.product, listing.observed_s) == (AREA, NOW_S)
    assert implausible(listing.price) is None
    return listing.price.steps


def by_hour(steps: tuple[Step, ...]) -> list[tuple[float, float, float]]:
    """(start, end) in hours since the start of the period, EUR/MWh."""
    return [((s - START_S) / HOUR_S, (e - START_S) / HOUR_S, round(value * 1000, 9)) for s, e, value in steps]


def test_the_question_names_area_days_and_token(source: Source) -> None:
    """From yesterday to the end of tomorrow, in UTC, so that one address serves the whole day."""
    polled(source, document(series(period(points(p1=5)))))
    assert source.asked[0].query == {
        "securityToken": TOKEN, "documentType": "A44", "in_Domain": AREA, "out_Domain": AREA,
        "periodStart": "202510250000", "periodEnd": "202510280000",
    }  # fmt: skip


def test_in_a_curve_of_blocks_a_point_holds_until_the_next_that_is_given(source: Source) -> None:
    """A03: positions 2 and 4 repeat the ones before them."""
    steps = polled(source, document(series(period(points(p1=50.5, p3=-3)))))
    assert by_hour(steps) == [(0, 2, 50.5), (2, 4, -3.0)]


def test_in_a_curve_of_points_a_missing_one_is_a_gap(source: Source) -> None:
    """A01: nothing is repeated."""
    steps = polled(source, document(series(period(points(p1=50, p3=60)), curve="A01")))
    assert by_hour(steps) == [(0, 1, 50.0), (2, 3, 60.0)]


def test_a_point_without_a_readable_price_is_a_gap_that_the_point_before_does_not_fill(source: Source) -> None:
    """Even in a curve of blocks: there was a price, and it is not known."""
    steps = polled(source, document(series(period(points(p1=50, p2="NaN", p4=60)))))
    assert by_hour(steps) == [(0, 1, 50.0), (3, 4, 60.0)]


def test_quarters_and_hours_and_several_series_make_one_ascending_list(source: Source) -> None:
    """Document order is not the order of time, nor of the auctions."""
    late = series(period(points(p1=7, p2=8), hours=0.5, start_s=START_S + 4 * HOUR_S, resolution="PT15M"))
    other_auction = series(period(points(p1=99)), sequence="2")
    intraday = series(period(points(p1=98)), agreement="A07")
    steps = polled(source, document(late, other_auction, intraday, series(period(points(p1=5, p2=6)))))
    assert by_hour(steps) == [(0, 1, 5.0), (1, 4, 6.0), (4, 4.25, 7.0), (4.25, 4.5, 8.0)]
    assert by_hour(polled(source, sequence=2)) == [(0, 4, 99.0)]
    with pytest.raises(FeedUnavailable, match="no values"):
        polled(source, sequence=3)


def test_a_zone_with_one_auction_does_not_number_it(source: Source) -> None:
    """Most zones: the field is not there."""
    assert by_hour(polled(source, document(series(period(points(p1=5)), sequence="")))) == [(0, 4, 5.0)]


def test_one_auction_in_two_resolutions_is_a_choice_for_a_person(source: Source) -> None:
    """Without `resolution` it is refused instead of mixed."""
    quarters = period(points(p1=1, p2=2), hours=1, resolution="PT15M")
    body = document(series(period(points(p1=9), hours=1)), series(quarters))
    with pytest.raises(FeedChanged, match="a second value for 2025-10-25T22:00:00Z"):
        polled(source, body)
    assert by_hour(polled(source, resolution="PT60M")) == [(0, 1, 9.0)]
    assert by_hour(polled(source, resolution="PT15M")) == [(0, 0.25, 1.0), (0.25, 1, 2.0)]


def test_other_currencies_need_a_rate_of_their_own(source: Source) -> None:
    """The rate of the euro is not applied to the zloty."""
    body = document(series(period(points(p1=400)), currency="PLN"))
    with pytest.raises(FeedChanged, match=r"TimeSeries\[0\]\.currency_Unit\.name: no exchange rate for PLN"):
        polled(source, body)
    assert polled(source, usd_per_currency={"PLN": 0.25})[0].value == pytest.approx(0.1)


def test_an_acknowledgement_means_that_there_is_no_data(source: Source) -> None:
    """With the platform's reason, on one line."""
    text = "No matching data found for Data item\n   Energy Prices"
    body = document(f"<Reason><code>999</code><text>{text}</text></Reason>", kind="Acknowledgement_MarketDocument")
    with pytest.raises(FeedUnavailable, match="no data: No matching data found for Data item Energy Prices"):
        polled(source, body)


LAUGHS = b'<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>'
HEAD = b'<?xml version="1.0" encoding="%s"?>'


@pytest.mark.parametrize(
    "body",
    [
        LAUGHS + document(series(period(points(p1="&c;")))).partition(b"?>")[2],
        b'<!DOCTYPE a SYSTEM "file:///etc/passwd">' + document(),
        document(series(period(points(p1=5)))).replace(b"<type>", b'<!ENTITY x "y"><type>'),
        ((HEAD % b"utf-16").decode() + LAUGHS.decode() + "<a>&c;</a>").encode("utf-16"),
        (LAUGHS.decode() + "<a>&c;</a>").encode("utf-16-le"),
        HEAD % b"cp037" + (LAUGHS.decode() + "<a>&c;</a>").encode("cp037"),
        HEAD % b"utf-7" + b"+ADw-a/+AD4-",
        document("<a>&c;</a>"),
        b"<a>" * 100_000,
        document()[:-5],
        b'{"json": true}',
        b"\x00\xff",
        b"",
    ],
)
def test_declarations_bombs_and_what_is_no_xml_are_refused(source: Source, body: bytes) -> None:
    """In whatever encoding they come."""
    with pytest.raises(FeedChanged, match=r"declares|no XML|a document of"):
        polled(source, body)


def test_a_document_that_is_sound_but_far_too_large_is_refused(source: Source) -> None:
    """A tree takes many times the memory of its text."""
    for count, refused in ((600_000, "larger than 2097152 bytes"), (160_000, "more than 150000 tags")):
        body = document(series(period(points(p1=5))), "<a/>" * count)
        with pytest.raises(FeedChanged, match=refused):
            polled(source, body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (document(), "document: no TimeSeries"),
        (document(series()), r"TimeSeries\[0\]: no Period"),
        (document(series(period(""))), r"TimeSeries\[0\]\.Period\[0\]: no Point"),
        (document(kind="GL_MarketDocument"), "GL_MarketDocument"),
        (document(series(period(points(p1=5), resolution="P1D"))), r"Period\[0\]\.resolution: P1D"),
        (document(series(period(points(p1=5), hours=-1))), r"Period\[0\]\.timeInterval"),
        (document(series(period(points(p1=5), hours=1.5))), r"Period\[0\]\.timeInterval"),
        (document(series(period(points(p1=5), start_s=-6e10, hours=3e7))), r"Period\[0\]\.timeInterval"),
        (document(series(period(points(p5=5)))), r"Point\[0\]\.position: 5"),
        (document(series(period(points(p0=5)))), r"Point\[0\]\.position: 0"),
        (document(series(period(points(p1=5) + points(p1=6)))), r"Point\[1\]\.position: 1"),
        (document(series(period(points(**{"p１": 5})))), r"Point\[0\]\.position"),
        (document(series(period(points(p1="inf", p2=" ", p3=5)))), r"2 of 3 .*Point\[0\]\.price\.amount: inf"),
        (document(series(period(points(p1=5)), unit="KWH")), "price_Measure_Unit.name: KWH"),
        (document(series(period(points(p1=5)), curve="A02")), "curveType: A02"),
        (document(series(period(points(p1=5))).replace(AREA, "10YFR-RTE------C")), "in_Domain.mRID: 10YFR-RTE------C"),
    ],
)
def test_a_document_of_another_shape_is_refused_with_its_path(source: Source, body: bytes, message: str) -> None:
    """Units, curves and zones that were not asked for, and points that lie outside their period."""
    with pytest.raises(FeedChanged, match=message):
        polled(source, body)


@pytest.mark.parametrize("status", [200, 301, 400, 401, 403, 404, 429, 503])
def test_the_token_is_in_no_error_and_no_log(source: Source, caplog: pytest.LogCaptureFixture, status: int) -> None:
    """Not even where the platform repeats it."""
    text = f"<Reason><text>Unauthorized: {TOKEN}</text></Reason><{TOKEN[4:]}/>"
    body = document(text, kind="Acknowledgement_MarketDocument").replace(b"<-", b"<a-").replace(b"<4", b"<a4")
    with caplog.at_level(logging.DEBUG), pytest.raises(FeedError) as caught:
        source.answer("/api", body, status, {"Location": f"/api?securityToken={TOKEN}"})
        polled(source)
    error: BaseException | None = caught.value
    while error is not None:
        assert TOKEN not in str(error)
        error = error.__cause__ or error.__context__
    assert TOKEN not in caplog.text


def test_the_token_is_in_no_error_of_a_document_that_repeats_it(source: Source) -> None:
    """As the name of a curve, say."""
    with pytest.raises(FeedChanged) as caught:
        polled(source, document(series(period(points(p1=5)), curve=TOKEN)))
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("token", [None, "", "   ", "short", "x" * 200, f"{TOKEN} {TOKEN}"])
def test_without_a_token_nobody_is_asked(source: Source, monkeypatch: pytest.MonkeyPatch, token: str | None) -> None:
    """The error names the variable, not what it holds."""
    monkeypatch.delenv("ENTSOE_TOKEN") if token is None else monkeypatch.setenv("ENTSOE_TOKEN", token)
    with pytest.raises(FeedUnavailable, match=r"ENTSOE_TOKEN holds no security token$"):
        polled(source)
    assert source.asked == []


@pytest.mark.parametrize(
    "more",
    [
        {"usd_per_eur": 0.0},
        {"usd_per_eur": None},
        {"area": "DE-LU"},
        {"token_env": "a b"},
        {"usd_per_currency": {"PLN": -1.0}},
        {"resolution": "P1D"},
        {"token": TOKEN},
    ],
)
def test_options_are_strict(more: dict[str, object]) -> None:
    """The token itself has no place in cluster.yaml."""
    given = {"token_env": "ENTSOE_TOKEN", "area": AREA, "usd_per_eur": 1.0}
    assert isinstance(options_of(KIND, given), Options)
    with pytest.raises(ValueError):
        options_of(KIND, given | more)


class Canned:
    """A network that always says the same."""

    def __init__(self, body: bytes | None) -> None:
        self.body = body

    def get(
        self, url: str, params: dict[str, str] | None = None, headers: dict[str, str] | None = None, **_: Any
    ) -> bytes | None:
        """That."""
        return self.body


def asked(body: bytes | None) -> list[Listing] | None:
    """One poll without a server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENTSOE_TOKEN", TOKEN)
        found = feed(Canned(body), Options(token_env="ENTSOE_TOKEN", area=AREA, usd_per_eur=1.0), NOW_S)
        return None if found is None else list(found)


def test_an_unchanged_document_is_no_listing() -> None:
    """304."""
    assert asked(None) is None


@given(st.lists(st.none() | st.integers(-500, 4000), min_size=1, max_size=96), st.booleans())
def test_a_curve_says_what_each_of_its_slots_says(slots: list[int | None], blocks: bool) -> None:
    """Oracle: slot by slot; in a curve of blocks, one that is left out repeats the one before."""
    given_points = points(**{f"p{i + 1}": price for i, price in enumerate(slots) if price is not None})
    body = document(
        series(period(given_points, hours=len(slots) / 4, resolution="PT15M"), curve="A03" if blocks else "A01")
    )
    if all(price is None for price in slots):
        with pytest.raises(FeedChanged, match="no Point"):
            asked(body)
        return
    [listing] = asked(body) or []
    assert isinstance(listing.price, PowerPrice)
    last: int | None = None
    for i, price in enumerate(slots):
        last = price if price is not None or not blocks else last
        middle_s = START_S + (i + 0.5) * 900.0
        held = [step.value for step in listing.price.steps if step.start_s <= middle_s < step.end_s]
        assert held == ([] if last is None else [pytest.approx(last / 1000.0)])
