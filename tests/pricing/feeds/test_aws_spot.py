"""AWS spot prices: moto for what it imitates, botocore's Stubber for pages and history, and HTTP on loopback for the rest.

moto knows each instance type's GPUs, but its prices are one constant of 2006 for every zone, in one page. Its server needs
Flask, so EC2's XML comes from the hostile source instead (figures synthetic).
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

import pytest
from botocore.stub import ANY, Stubber
from moto import mock_aws

from pricing.feeds import FeedChanged, FeedError, FeedOffline, FeedUnavailable, aws_spot, options_of
from pricing.feeds.aws_spot import KIND, Options, feed
from pricing.http import BoundedHttp, OfflineHttp
from pricing.listing import GpuPrice, Listing
from tests.pricing.hostile_source import Source, hostile

HISTORY = Path(__file__).resolve().parents[4] / "shared" / "data" / "prices" / "aws_gpu_spot_2019_2020.csv.gz"
NOW_S = 1_780_000_000.0
HTTP = BoundedHttp(5.0, 1_000_000)
INSTANCES = ("p4d.24xlarge", "p5.48xlarge")


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keys of no account, no profile and nobody's proxy; the metadata service must never be asked."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")


@pytest.fixture
def source() -> Iterator[Source]:
    with hostile() as running:
        yield running


def options(**more: Any) -> Options:
    wanted = {"regions": ["us-east-1"], "instances": list(INSTANCES), "timeout_s": 2.0, **more}
    found: Options = options_of(KIND, wanted)
    return found


def described(instance: str = "p4d.24xlarge", gpu: str = "A100", mib: int = 40960, count: int = 8) -> dict[str, Any]:
    gpus = [{"Name": gpu, "Manufacturer": "NVIDIA", "Count": count, "MemoryInfo": {"SizeInMiB": mib}}]
    return {"InstanceType": instance, "GpuInfo": {"Gpus": gpus, "TotalGpuMemoryInMiB": count * mib}}


def priced(
    usd: str, zone: str = "us-east-1a", at_s: float = NOW_S - 3600, instance: str = "p4d.24xlarge", **changed: Any
) -> dict[str, Any]:
    return {
        "InstanceType": instance,
        "AvailabilityZone": zone,
        "SpotPrice": usd,
        "ProductDescription": "Linux/UNIX",
        "Timestamp": datetime.fromtimestamp(at_s, UTC),
        **changed,
    }


def listing(usd: float, zone: str = "us-east-1a") -> Listing:
    price = GpuPrice(usd, "A100-40GB", 8, "aws", "us-east-1", "p4d.24xlarge", spot=True)
    return Listing(f"p4d.24xlarge/{zone}", price, NOW_S)


Answering = Callable[..., Stubber]


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> Answering:
    """EC2 as botocore knows it, answering these pages of prices in turn."""
    connect = aws_spot._client

    def answering(pages: list[list[dict[str, Any]]], types: list[dict[str, Any]] | None = None) -> Stubber:
        client = connect(options(), "us-east-1")
        stub = Stubber(client)
        stub.add_response("describe_instance_types", {"InstanceTypes": [described()] if types is None else types})
        for number, page in enumerate(pages):
            asked = {"InstanceTypes": ANY, "ProductDescriptions": ["Linux/UNIX"], "StartTime": ANY}
            asked |= {"NextToken": f"t{number}"} if number else {"MaxResults": 1000}
            answer = {"SpotPriceHistory": page, "NextToken": f"t{number + 1}" if number + 1 < len(pages) else ""}
            stub.add_response("describe_spot_price_history", answer, asked)
        stub.activate()
        monkeypatch.setattr(aws_spot, "_client", lambda options, region: client)
        return stub

    return answering


def poll(**more: Any) -> list[Listing]:
    return list(feed(HTTP, options(**more), NOW_S))


@mock_aws
def test_an_emulated_ec2_gives_every_zone_a_price_with_its_gpus() -> None:
    found = poll(regions=["us-east-1", "eu-west-1"], instances=["p4d.24xlarge", "g5.12xlarge", "no.such"])
    prices = [listing.price for listing in found if isinstance(listing.price, GpuPrice)]
    assert {(price.instance, price.gpu, price.gpu_count) for price in prices} == {
        ("p4d.24xlarge", "A100-40GB", 8),
        ("g5.12xlarge", "A10G", 4),
    }
    assert {price.region for price in prices} == {"us-east-1", "eu-west-1"}
    assert len({listing.product for listing in found}) == len(found) > 4
    assert {(price.usd_per_hour, price.spot, price.provider) for price in prices} == {(0.00001, True, "aws")}
    assert {listing.observed_s for listing in found} == {NOW_S}


def test_the_latest_change_of_each_zone_counts_across_pages(stubbed: Answering) -> None:
    stub = stubbed(
        [
            [priced("11.5", at_s=NOW_S - 10), priced("12.5", at_s=NOW_S - 500)],
            [priced("9.0", "us-east-1b"), priced("13.5", at_s=NOW_S - 90)],
        ],
    )
    assert poll() == [listing(11.5), listing(9.0, "us-east-1b")]
    stub.assert_no_pending_responses()


def test_other_instances_and_systems_are_passed_over(stubbed: Answering) -> None:
    rows = [priced("1", instance="m5.large"), priced("1", ProductDescription="Windows"), priced("9.5")]
    stubbed([rows])
    assert poll() == [listing(9.5)]


@pytest.mark.parametrize(
    "bad",
    [priced("nan", "us-east-1b"), priced("", "us-east-1b"), priced("1e999", "us-east-1b"), priced("5", "mars-1a")],
)
def test_one_bad_row_does_not_spoil_the_rest_and_mostly_bad_rows_do(stubbed: Answering, bad: dict[str, Any]) -> None:
    stubbed([[priced("9.5"), bad]])
    assert poll() == [listing(9.5)]
    stubbed([[priced("9.5"), bad, bad]])
    with pytest.raises(FeedChanged, match="2 of 3"):
        poll()


@pytest.mark.parametrize(
    "unknown",
    [
        {"InstanceType": "p4d.24xlarge"},
        {"InstanceType": "p4d.24xlarge", "GpuInfo": {"Gpus": []}},
        {"InstanceType": "p4d.24xlarge", "GpuInfo": {"Gpus": [{"Name": "L4", "GpuPartitionSize": 0.125, "Count": 1}]}},
        described(count=0),
    ],
)
def test_an_instance_without_whole_gpus_has_no_price(stubbed: Answering, unknown: dict[str, Any]) -> None:
    stubbed([], types=[unknown])
    with pytest.raises(FeedChanged, match=r"of its GPUs|part of a GPU"):
        poll()


def test_regions_without_any_of_the_instances_bring_nothing(stubbed: Answering) -> None:
    stubbed([], types=[])
    with pytest.raises(FeedChanged, match="no spot price"):
        poll()


def test_pages_without_end_stop_at_the_bound(stubbed: Answering) -> None:
    stubbed([[priced("9.5")]] * 4)
    with pytest.raises(FeedError, match="more than 3 pages"):
        poll(pages_max=3)


@pytest.mark.parametrize("missing", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_missing_keys_are_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.delenv(missing)
    with pytest.raises(FeedError, match=missing):
        poll()


def test_nothing_is_asked_where_there_is_no_network(source: Source) -> None:
    with pytest.raises(FeedOffline):
        feed(OfflineHttp(), options(endpoint_url=source.url), NOW_S)
    assert source.asked == []


def document(*rows: dict[str, Any]) -> bytes:
    """One XML document that answers both of the feed's questions: botocore reads of it what it asked for."""
    gpus = "<item><name>A100</name><count>8</count><memoryInfo><sizeInMiB>40960</sizeInMiB></memoryInfo></item>"
    types = f"<item><instanceType>p4d.24xlarge</instanceType><gpuInfo><gpus>{gpus}</gpus></gpuInfo></item>"
    prices = ""
    for row in rows:
        fields = {
            **row,
            "Timestamp": row["Timestamp"] if isinstance(row["Timestamp"], str) else row["Timestamp"].isoformat(),
        }
        inner = "".join(f"<{k[0].lower()}{k[1:]}>{escape(v)}</{k[0].lower()}{k[1:]}>" for k, v in fields.items())
        prices += f"<item>{inner}</item>"
    sets = f"<instanceTypeSet>{types}</instanceTypeSet><spotPriceHistorySet>{prices}</spotPriceHistorySet>"
    return f'<R xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>1</requestId>{sets}</R>'.encode()


def test_a_real_http_exchange_brings_prices_and_sends_no_secret(source: Source) -> None:
    source.answer("/", document(priced("9.5"), priced("8.25", "us-east-1b")), headers={"Content-Type": "text/xml"})
    assert poll(endpoint_url=source.url) == [listing(9.5), listing(8.25, "us-east-1b")]
    forms = [parse_qs(asked.body.decode()) for asked in source.asked]
    assert [form["Action"] for form in forms] == [["DescribeInstanceTypes"], ["DescribeSpotPriceHistory"]]
    assert forms[1]["InstanceType.1"] == ["p4d.24xlarge"]
    assert all("not-a-secret" not in f"{asked.headers}{asked.body!r}" for asked in source.asked)


def refusal(code: str) -> bytes:
    return f"<Response><Errors><Error><Code>{code}</Code><Message>m</Message></Error></Errors></Response>".encode()


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (401, "AuthFailure", FeedError),
        (403, "UnauthorizedOperation", FeedError),
        (503, "RequestLimitExceeded", FeedUnavailable),
        (500, "InternalError", FeedUnavailable),
        (400, "Throttling", FeedUnavailable),
    ],
)
def test_refusals_are_told_apart(source: Source, status: int, code: str, expected: type[FeedError]) -> None:
    source.answer("/", refusal(code), status, {"Content-Type": "text/xml"})
    with pytest.raises(FeedError, match=code) as raised:
        poll(endpoint_url=source.url)
    assert type(raised.value) is expected
    assert 1 <= len(source.asked) <= 2


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"<R>", document(priced("9.5", Timestamp="yesterday"))], ids=["empty", "JSON", "cut", "time"]
)
def test_an_answer_that_is_no_xml_of_ec2_brings_nothing(source: Source, body: bytes) -> None:
    source.answer("/", body, headers={"Content-Type": "text/xml"})
    with pytest.raises(FeedChanged):
        poll(endpoint_url=source.url)


def test_a_silent_or_closed_endpoint_is_unavailable_within_its_time(source: Source) -> None:
    source.silent("/")
    with pytest.raises(FeedUnavailable, match="ReadTimeout"):
        poll(endpoint_url=source.url, timeout_s=0.2)
    source.hang_up("/")
    with pytest.raises(FeedUnavailable):
        poll(endpoint_url=source.url)


@pytest.mark.parametrize(
    "bad", [{"regions": []}, {"regions": ["us-east-1/.."]}, {"instances": ["x"]}, {"pages_max": 0}, {"key": "AKID"}]
)
def test_options_are_strict(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        options(**bad)


@pytest.mark.evaluate
def test_the_last_prices_of_six_real_weeks_are_found_in_any_order(stubbed: Answering) -> None:
    with gzip.open(HISTORY, "rt", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["zone"].startswith("us-east-1")]
    last: dict[str, float] = {}
    for row in sorted(rows, key=lambda row: row["timestamp"]):
        last[f"{row['instance']}/{row['zone']}"] = float(row["spot_usd_h"])
    entries = [
        priced(row["spot_usd_h"], row["zone"], datetime.fromisoformat(row["timestamp"]).timestamp(), row["instance"])
        for row in reversed(rows)
    ]
    types = {row["instance"]: described(row["instance"], row["gpu"], 16384, int(row["gpu_count"])) for row in rows}
    stubbed([entries[i : i + 1000] for i in range(0, len(entries), 1000)], list(types.values()))
    found = poll(instances=sorted(types), pages_max=10)
    assert {item.product: item.price.usd_per_hour for item in found if isinstance(item.price, GpuPrice)} == last
    per_gpu = {item.price.usd_per_hour / item.price.gpu_count for item in found if isinstance(item.price, GpuPrice)}
    assert all(0.05 < usd < 3.5 for usd in per_gpu)
