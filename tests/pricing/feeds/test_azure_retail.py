"""Azure's retail prices, from a source on loopback that answers in the documented shape (figures synthetic)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from pricing.feeds import FeedChanged, FeedError, FeedOffline, FeedUnavailable, options_of
from pricing.feeds.azure_retail import KIND, KNOWN, Options, feed
from pricing.http import BoundedHttp, OfflineHttp
from pricing.listing import GpuPrice, Listing
from tests.pricing.hostile_source import Source, hostile

NOW_S = 1_780_000_000.0
SIZE = "Standard_NC24ads_A100_v4"
PATH = "/api/retail/prices"


@pytest.fixture
def source() -> Iterator[Source]:
    with hostile() as running:
        yield running


def options(source: Source, **more: Any) -> Options:
    found: Options = options_of(KIND, {"regions": ["westeurope"], "url": source.url + PATH, **more})
    return found


def poll(source: Source, http: BoundedHttp | None = None, **more: Any) -> list[Listing] | None:
    taken = feed(http or BoundedHttp(5.0, 1_000_000), options(source, **more), NOW_S)
    return None if taken is None else list(taken)


def item(retail_price: object = 4.2, spot: bool = False, **changed: Any) -> dict[str, Any]:
    """One meter as Azure documents it."""
    name = "NC24ads A100 v4" + (" Spot" if spot else "")
    return {
        "currencyCode": "USD",
        "tierMinimumUnits": 0.0,
        "retailPrice": retail_price,
        "unitPrice": retail_price,
        "armRegionName": "westeurope",
        "location": "EU West",
        "effectiveStartDate": "2024-05-01T00:00:00Z",
        "meterId": "00000000-0000-0000-0000-000000000000",
        "meterName": name,
        "productId": "DZH000000000",
        "skuId": "DZH000000000/0000",
        "productName": "Virtual Machines NCADSA100v4 Series",
        "skuName": name,
        "serviceName": "Virtual Machines",
        "serviceId": "DZH313Z7MMC8",
        "serviceFamily": "Compute",
        "unitOfMeasure": "1 Hour",
        "type": "Consumption",
        "isPrimaryMeterRegion": True,
        "armSkuName": SIZE,
        **changed,
    }


def page(*items: object, following: str | None = None, **changed: Any) -> bytes:
    answer = {
        "BillingCurrency": "USD",
        "CustomerEntityId": "Default",
        "CustomerEntityType": "Retail",
        "Items": items,
        "NextPageLink": following,
        "Count": len(items),
        **changed,
    }
    return json.dumps(answer).encode()


def on_demand(usd: float) -> Listing:
    return Listing(
        f"{SIZE}/westeurope/on-demand", GpuPrice(usd, "A100-80GB", 1, "azure", "westeurope", SIZE, False), NOW_S
    )


def test_on_demand_and_spot_become_listings_with_their_gpus(source: Source) -> None:
    source.answer(PATH, page(item(4.2), item(1.3, spot=True)))
    assert poll(source) == [
        on_demand(4.2),
        Listing(f"{SIZE}/westeurope/spot", GpuPrice(1.3, "A100-80GB", 1, "azure", "westeurope", SIZE, True), NOW_S),
    ]


def test_only_spot_or_only_on_demand_can_be_asked_for(source: Source) -> None:
    source.answer(PATH, page(item(4.2), item(1.3, spot=True)))
    assert [listing.product for listing in poll(source, spot=True) or []] == [f"{SIZE}/westeurope/spot"]
    assert [listing.product for listing in poll(source, spot=False) or []] == [f"{SIZE}/westeurope/on-demand"]


def test_the_question_names_region_sizes_and_usd(source: Source) -> None:
    source.answer(PATH, page(item()))
    poll(source, sizes=[SIZE, "Standard_ND96isr_H100_v5"])
    assert source.asked[0].query["currencyCode"] == "'USD'"
    asked = source.asked[0].query["$filter"]
    assert "armRegionName eq 'westeurope'" in asked
    assert f"(armSkuName eq '{SIZE}' or armSkuName eq 'Standard_ND96isr_H100_v5')" in asked


@pytest.mark.parametrize(
    "changed",
    [
        {"productName": "Virtual Machines NCADSA100v4 Series Windows"},
        {"skuName": "NC24ads A100 v4 Low Priority"},
        {"productName": "NCADSA100v4 Series CloudServices"},
        {"type": "Reservation"},
        {"type": "DevTestConsumption"},
        {"isPrimaryMeterRegion": False},
        {"armRegionName": "northeurope"},
        {"armSkuName": "Standard_D2s_v5"},
        {"serviceName": "Virtual Machines Licenses"},
        {"tierMinimumUnits": 100.0},
        {"effectiveStartDate": "2099-01-01T00:00:00Z"},
    ],
)
def test_what_is_no_linux_machine_by_the_hour_now_is_passed_over(source: Source, changed: dict[str, Any]) -> None:
    source.answer(PATH, page(item(0.1, **changed), item(4.2)))
    assert poll(source) == [on_demand(4.2)]


def test_the_newest_of_two_meters_counts_and_two_at_once_are_no_price(source: Source) -> None:
    newer = item(4.0, effectiveStartDate="2025-01-01T00:00:00Z")
    source.answer(PATH, page(newer, item(4.2)))
    assert poll(source) == [on_demand(4.0)]
    source.answer(PATH, page(item(4.2), item(4.3), item(1.3, spot=True)))
    assert [listing.product for listing in poll(source) or []] == [f"{SIZE}/westeurope/spot"]


class Pages:
    """Answers these pages in turn, and notes the addresses."""

    def __init__(self, *pages: bytes) -> None:
        self.pages, self.asked = list(pages), list[str]()

    def get(self, url: str, params: Any = None, headers: Any = None, **_: Any) -> bytes | None:
        self.asked.append(url)
        return self.pages.pop(0)

    def require_network(self) -> None:
        """The network may be used."""


def test_a_link_that_spells_out_the_default_port_leads_to_the_same_host() -> None:
    link = "https://prices.azure.com:443/api/retail/prices?$skip=1000"
    http = Pages(page(item(4.2), following=link), page(item(1.3, spot=True)))
    assert len(list(feed(http, Options(regions=("westeurope",)), NOW_S) or [])) == 2
    assert http.asked == ["https://prices.azure.com/api/retail/prices", link]


def test_every_page_is_read(source: Source) -> None:
    source.answer(PATH, page(item(4.2), following=f"{source.url}/page2?$skip=1000"))
    source.answer("/page2", page(item(1.3, spot=True)))
    assert len(poll(source) or []) == 2
    assert source.asked[1].query == {"$skip": "1000"}


@pytest.mark.parametrize(
    "link",
    [
        "http://prices.example.org/next",
        "https://127.0.0.1/next",
        "http://127.0.0.1:1/x",
        "file:///etc/passwd",
        "//[",
        7,
    ],
)
def test_a_page_at_another_host_is_not_asked_for(source: Source, link: object) -> None:
    source.answer(PATH, page(item(), NextPageLink=link))
    with pytest.raises(FeedChanged):
        poll(source)
    assert len(source.asked) == 1


def test_pages_without_end_stop_at_the_bound(source: Source) -> None:
    source.answer(PATH, page(item(), following=source.url + PATH))
    with pytest.raises(FeedError, match="more than 3 pages"):
        poll(source, pages_max=3)
    assert len(source.asked) == 3


@pytest.mark.parametrize(
    "bad",
    [
        item("n/a", spot=True),
        item(None, spot=True),
        item("nan", spot=True),
        item(True, spot=True),
        item(1.2, spot=True, currencyCode="EUR"),
        item(1.2, spot=True, unitOfMeasure="100 Hours"),
        {"retailPrice": 1.0},
        "row",
        None,
    ],
)
def test_one_bad_row_does_not_spoil_the_rest_and_mostly_bad_rows_do(source: Source, bad: object) -> None:
    source.answer(PATH, page(item(4.2), bad))
    assert poll(source) == [on_demand(4.2)]
    source.answer(PATH, page(item(4.2), bad, bad))
    with pytest.raises(FeedChanged, match="2 of 3"):
        poll(source)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"Items": 3}',
        b'{"Items": [',
        page(item(), BillingCurrency="EUR"),
        page(),
        page(item(armRegionName="eastus")),
        b'{"Items": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    ],
)
def test_an_answer_of_another_shape_or_without_prices_brings_nothing(source: Source, body: bytes) -> None:
    source.answer(PATH, body)
    with pytest.raises(FeedChanged):
        poll(source)


def test_one_failing_region_fails_the_poll(source: Source) -> None:
    source.answer(PATH, page(item(), following=source.url + "/busy"))
    source.busy("/busy", retry_after="7")
    with pytest.raises(FeedUnavailable) as raised:
        poll(source)
    assert raised.value.retry_after_s == 7


def test_a_price_from_a_later_date_on_arrives_although_the_page_has_not_changed(source: Source) -> None:
    items = item(4.2), item(5.0, effectiveStartDate="2026-09-01T00:00:00Z")
    source.answer(PATH, page(*items), etag='"a"')
    http, asked = BoundedHttp(5.0, 1_000_000), options(source)
    before_s, after_s = (datetime(2026, month, 2, tzinfo=UTC).timestamp() for month in (8, 9))
    found = []
    for now_s in (before_s, after_s):
        [listing] = feed(http, asked, now_s) or []
        assert isinstance(listing.price, GpuPrice)
        found.append(listing.price.usd_per_hour)
        http.accept()
    assert found == [4.2, 5.0]


def test_nothing_is_asked_where_there_is_no_network() -> None:
    with pytest.raises(FeedOffline):
        feed(OfflineHttp(), Options(regions=("westeurope",)), NOW_S)


def test_other_sizes_need_to_say_what_is_in_them(source: Source) -> None:
    with pytest.raises(ValueError, match="Standard_NV36ads_A10_v5"):
        options(source, sizes=["Standard_NV36ads_A10_v5"])
    source.answer(PATH, page(item(3.2, armSkuName="Standard_NV36ads_A10_v5")))
    told = {"Standard_NV36ads_A10_v5": {"gpu": "A10", "gpu_count": 1}}
    found = poll(source, sizes=["Standard_NV36ads_A10_v5"], gpus=told) or []
    assert [listing.price for listing in found if isinstance(listing.price, GpuPrice) and listing.price.gpu == "A10"]


@pytest.mark.parametrize(
    "bad", [{"regions": []}, {"regions": ["x' or 1 eq 1"]}, {"sizes": ["a'b"]}, {"pages_max": 0}, {"size": ["x"]}]
)
def test_options_are_strict(source: Source, bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        options(source, **bad)


def test_the_built_in_sizes_hold_one_to_eight_gpus() -> None:
    assert {inside.gpu_count for inside in KNOWN.values()} == {1, 2, 4, 8}
