"""gpuhunt's catalogs from a source on loopback. The catalogs are synthetic, in the published format v3."""

from __future__ import annotations

import csv
import doctest
import io
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import gpuhunt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.feeds import FeedChanged, FeedError, FeedOffline, FeedUnavailable, gpu_names, gpus, options_of
from pricing.feeds.gpus import KIND, Options, feed
from pricing.guard import implausible
from pricing.http import BoundedHttp, OfflineHttp
from pricing.listing import GpuPrice, Listing
from tests.pricing.hostile_source import Source, hostile

# gpuhunt leaves the closing of its file to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file .*csv:ResourceWarning")

VERSION = "20260818-42"
NOW_S = datetime(2026, 8, 18, 12, tzinfo=UTC).timestamp()
FIELDS = [
    *("instance_name", "location", "price", "cpu", "memory", "gpu_count", "gpu_name", "gpu_memory", "spot"),
    *("disk_size", "gpu_vendor", "flags", "cpu_arch", "provider_data"),
]


@pytest.fixture
def source() -> Iterator[Source]:
    with hostile() as running:
        yield running


def row(instance: str = "p4d.24xlarge", price: object = 21.96, **changed: object) -> dict[str, object]:
    return {
        "instance_name": instance,
        "location": "us-east-1",
        "price": price,
        "cpu": 96,
        "memory": 1152.0,
        "gpu_count": 8,
        "gpu_name": "A100",
        "gpu_memory": 40.0,
        "spot": "False",
        "disk_size": "",
        "gpu_vendor": "nvidia",
        "flags": "",
        "cpu_arch": "x86",
        "provider_data": "{}",
        **changed,
    }


def catalog(*rows: dict[str, object], name: str = "aws.csv", compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    text = io.StringIO(newline="")
    fields = list(dict.fromkeys(field for row in rows for field in row)) or FIELDS
    writer = csv.DictWriter(text, fields)
    writer.writeheader()
    writer.writerows(rows)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", compression) as archive:
        archive.writestr(name, text.getvalue())
    return packed.getvalue()


def publish(source: Source, packed: bytes, provider: str = "aws", version: str = VERSION) -> None:
    source.answer(f"/v3/{provider}/version", f"{version}\n".encode())
    source.answer(f"/v3/{provider}/{version.strip()}/catalog.zip", packed)


def poll(source: Source, http: Any = None, bytes_max: int = 1_000_000, **more: Any) -> list[Listing]:
    wanted = {"url": f"{source.url}/v3", "providers": ["aws"], "gpus": ["A100"], **more}
    found = feed(http or BoundedHttp(5.0, bytes_max), options_of(KIND, wanted), NOW_S)
    assert found is not None
    return list(found)


def products(listings: list[Listing]) -> list[str]:
    return [listing.product for listing in listings]


def test_a_catalog_becomes_listings_of_the_asked_gpus(source: Source) -> None:
    publish(
        source, catalog(row(), row(price=9.5, spot="True"), row("p5.48xlarge", 98.0, gpu_name="H100", gpu_memory=80))
    )
    assert poll(source) == [
        Listing(
            f"aws/p4d.24xlarge/us-east-1/{mode}",
            GpuPrice(usd, "A100-40GB", 8, "aws", "us-east-1", "p4d.24xlarge", spot),
            NOW_S,
        )
        for usd, spot, mode in ((9.5, True, "spot"), (21.96, False, "on-demand"))
    ]


def test_what_gpuhunt_itself_writes_is_read(source: Source) -> None:
    """The row above in gpuhunt's own words: its model, its columns."""
    from gpuhunt._internal import storage

    item = gpuhunt.CatalogItem(
        "aws",
        "p5.48xlarge",
        "us-east-2",
        55.0,
        192,
        2048.0,
        8,
        "H100",
        80.0,
        False,
        None,
        gpuhunt.AcceleratorVendor.NVIDIA,
    )
    assert storage.CATALOG_V2_FIELDS == FIELDS
    publish(source, catalog(storage.item_to_row(item)))
    assert [listing.price for listing in poll(source, gpus=["h100"])] == [
        GpuPrice(55.0, "H100", 8, "aws", "us-east-2", "p5.48xlarge", False)
    ]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"gpus": ["A100-80GB"]}, ["aws/b/us-east-1/on-demand"]),
        ({"counts": [4]}, ["aws/c/us-east-1/on-demand"]),
        ({"regions": ["eu-west-1"]}, ["aws/d/eu-west-1/on-demand"]),
        ({"spot": True}, ["aws/e/us-east-1/spot"]),
        ({"gpus": ["H100"]}, []),
    ],
)
def test_options_narrow_what_is_listed(source: Source, asked: dict[str, Any], found: list[str]) -> None:
    rows = [row("a"), row("b", gpu_memory=80), row("c", gpu_count=4), row("d", location="eu-west-1")]
    publish(source, catalog(*rows, row("e", spot="True"), row("cpu", gpu_count=0, gpu_name="", gpu_vendor="")))
    assert products(poll(source, **asked)) == found


def test_only_the_cheapest_of_a_kind_are_listed_and_those_that_are_named(source: Source) -> None:
    publish(source, catalog(*(row(f"i{usd}", usd) for usd in (5, 3, 4, 2)), row("other", 9.0, location="eu-west-1")))
    assert products(poll(source, cheapest_max=2)) == [
        *("aws/i2/us-east-1/on-demand", "aws/i3/us-east-1/on-demand", "aws/other/eu-west-1/on-demand"),
    ]
    named = poll(source, cheapest_max=1, always=["aws/i5/us-east-1/on-demand"], regions=["us-east-1"])
    assert products(named) == ["aws/i2/us-east-1/on-demand", "aws/i5/us-east-1/on-demand"]


def test_an_instance_sold_with_different_gpus_names_them(source: Source) -> None:
    rows = [row("n1", 3.0, gpu_count=1), row("n1", 5.0, gpu_count=2), row("n1", 1.0, gpu_name="T4", gpu_count=1)]
    publish(source, catalog(*rows))
    assert products(poll(source, gpus=["A100", "T4"])) == [
        *("aws/n1/us-east-1/on-demand/1xT4", "aws/n1/us-east-1/on-demand/1xA100-40GB"),
        "aws/n1/us-east-1/on-demand/2xA100-40GB",
    ]


def test_offers_with_strings_attached_are_listed_only_where_asked_for(source: Source) -> None:
    publish(source, catalog(row("plain"), row("calendar", flags="gcp-dws-calendar-mode")))
    assert products(poll(source)) == ["aws/plain/us-east-1/on-demand"]
    assert len(poll(source, flags=["gcp-dws-calendar-mode"])) == 2


@pytest.mark.parametrize("price", ["nan", "inf", "1e400", "", "cheap"])
def test_a_row_without_a_finite_price_is_left_out(source: Source, price: str) -> None:
    publish(source, catalog(row("good"), row("also"), row("bad", price)))
    assert products(poll(source)) == ["aws/good/us-east-1/on-demand", "aws/also/us-east-1/on-demand"]
    publish(source, catalog(row("good"), row("bad", price), row("worse", price)))
    with pytest.raises(FeedChanged, match="2 of 3 rows"):
        poll(source)


@pytest.mark.parametrize("usd", [-1.0, 0.0])
def test_a_price_of_nothing_takes_nobodys_place_and_is_left_to_the_guard(source: Source, usd: float) -> None:
    publish(source, catalog(row("good", 3.0), row("bad", usd), row("good", usd, cpu=1)))
    found = poll(source, cheapest_max=1)
    assert products(found) == ["aws/good/us-east-1/on-demand", "aws/bad/us-east-1/on-demand"]
    assert [implausible(listing.price) is None for listing in found] == [True, False]


@pytest.mark.parametrize("renamed", ["price", "spot", "gpu_name", "location", "gpu_count"])
def test_a_column_of_another_name_is_a_changed_source(source: Source, renamed: str) -> None:
    rows = [{("new_" * (field == renamed)) + field: value for field, value in row().items()} for _ in range(3)]
    publish(source, catalog(*rows))
    with pytest.raises(FeedChanged, match="3 of 3 rows"):
        poll(source)


GOOD = catalog(row())


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        GOOD[: len(GOOD) // 2],
        GOOD[:40] + b"\0" * 20 + GOOD[60:],
        catalog(row(), name="../aws.csv"),
        catalog(row(), compression=zipfile.ZIP_LZMA),
        catalog(),
        catalog(row(), row(price='1"\n' * 200_000)),
        catalog(row(provider_data="[" * 100_000)),
    ],
    ids=["empty", "truncated", "corrupt", "elsewhere", "lzma", "no rows", "one endless field", "deep JSON"],
)
def test_a_catalog_that_cannot_be_read_brings_nothing(source: Source, packed: bytes) -> None:
    publish(source, packed)
    with pytest.raises(FeedChanged, match="aws"):
        poll(source)


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=4), st.integers(0, len(GOOD)))
def test_whatever_is_changed_in_an_archive_it_unpacks_or_is_refused(changes: list[tuple[int, int]], cut: int) -> None:
    packed = bytearray(GOOD)
    for at, byte in changes:
        packed[at] = byte
    for variant in (bytes(packed), bytes(packed[:cut])):
        with suppress(FeedChanged):
            assert gpus._unpacked("aws", variant)


def test_a_zip_bomb_stops_at_the_bound(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "CSV_BYTES_MAX", 100_000)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("aws.csv", b"0" * 5_000_000)
    assert len(bomb.getvalue()) < 10_000
    publish(source, bomb.getvalue())
    with pytest.raises(FeedChanged, match="longer than 100000 bytes"):
        poll(source)


def test_the_download_is_bounded_and_cut_connections_are_seen(source: Source) -> None:
    publish(source, GOOD)
    with pytest.raises(FeedChanged, match="larger than 100 bytes"):
        poll(source, bytes_max=100)
    source.truncate(f"/v3/aws/{VERSION}/catalog.zip", GOOD[:50], promised=len(GOOD))
    with pytest.raises(FeedUnavailable):
        poll(source)


@pytest.mark.parametrize("version", ["", "../../x", "1/2", "a b", "x" * 100, "\xff", "<html>"])
def test_a_version_that_is_none_is_not_asked_for(source: Source, version: str) -> None:
    source.answer("/v3/aws/version", version.encode("latin-1"))
    with pytest.raises(FeedChanged, match="no version"):
        poll(source)
    assert len(source.asked) == 1


def test_one_failing_provider_fails_the_poll(source: Source) -> None:
    publish(source, GOOD)
    source.busy("/v3/gcp/version", retry_after="30")
    with pytest.raises(FeedUnavailable) as raised:
        poll(source, providers=["aws", "gcp"])
    assert raised.value.retry_after_s == 30


def test_an_old_catalog_says_of_which_day_it_is(source: Source) -> None:
    publish(source, GOOD, version="20260815-1")
    assert [listing.observed_s for listing in poll(source)] == [datetime(2026, 8, 16, tzinfo=UTC).timestamp()]
    publish(source, GOOD, version="latest")
    assert [listing.observed_s for listing in poll(source)] == [NOW_S]


class Unchanged:
    def get(self, url: str, params: Any = None, headers: Any = None, **_: Any) -> bytes | None:
        return None

    def require_network(self) -> None:
        """The network may be used."""


def test_not_modified_is_no_news_and_a_304_nobody_asked_for_is_an_error(source: Source) -> None:
    assert feed(Unchanged(), Options(gpus=("A100",)), NOW_S) is None
    source.not_modified("/v3/aws/version")
    with pytest.raises(FeedChanged, match="304"):
        poll(source)


def test_a_second_poll_brings_the_whole_catalog_again(source: Source) -> None:
    """Two documents a poll: neither alone could say that nothing has changed."""
    source.answer("/v3/aws/version", VERSION.encode(), etag='"v"')
    source.answer(f"/v3/aws/{VERSION}/catalog.zip", GOOD, etag='"z"')
    http = BoundedHttp(5.0, 1_000_000)
    first = poll(source, http)
    http.accept()
    assert poll(source, http) == first != []


def test_nothing_is_asked_where_there_is_no_network() -> None:
    with pytest.raises(FeedOffline):
        feed(OfflineHttp(), Options(gpus=("A100",)), NOW_S)


def test_a_question_that_matches_too_much_is_refused(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "LISTINGS_MAX", 2)
    publish(source, catalog(*(row(f"i{n}", n) for n in range(1, 4))))
    with pytest.raises(FeedError, match="name fewer"):
        poll(source)


@pytest.mark.parametrize(
    "bad", [{}, {"gpus": []}, {"gpus": ["A100"], "providers": ["vastai"]}, {"gpus": ["A100"], "url": "ftp://x/"}]
)
def test_options_are_strict(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        options_of(KIND, bad)


def test_the_worked_example_of_names_holds() -> None:
    found = doctest.testmod(gpu_names)
    assert (found.attempted, found.failed) == (1, 0)


def test_knowing_the_options_loads_none_of_the_libraries() -> None:
    """Only the process of its own, which polls, may: see pricing.feeds."""
    code = (
        "import sys, pricing.feeds.gpus, pricing.feeds.aws_spot; print(sorted({'gpuhunt', 'boto3'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
