"""Azure's public retail prices of GPU virtual machines, on demand and spot. No account is needed.

Source: "Azure Retail Prices" of Azure's Cost Management REST reference. One question a region, filtered on the server by
``armRegionName`` and ``armSkuName``, answered in pages. Prices are in USD, which Azure names as its pricing currency.
Product: ``size/region/spot`` or ``size/region/on-demand``, for Linux; the price is that of the whole machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from pricing.addresses import shown_address
from pricing.feeds import FeedChanged, FeedError, FeedKind, Http
from pricing.feeds.reading import ENTRIES_MAX, Entries, Problems, decode, decode_entry, instant, number, plain, readable
from pricing.listing import GpuPrice, Listing

Region = Annotated[str, Meta(pattern=r"^[a-z0-9]{2,40}$")]
Size = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{2,60}$")]
_DEFAULT_PORTS = {"https": 443, "http": 80}
_LINK_LENGTH_MAX = 8000
# Other systems, hosts of one's own, Azure Cloud Services, and what is no longer sold: none is a Linux VM by the hour.
_OTHER_PRODUCTS = ("Windows", "Dedicated", "CloudServices", "Cloud Services", "Low Priority", "Expired")


class Gpus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is in a virtual machine of one size."""

    gpu: Annotated[str, Meta(min_length=1, max_length=60)]
    gpu_count: Annotated[int, Meta(ge=1, le=1024)]


# Source: Azure's documentation of GPU-accelerated sizes (families NC and ND), one page a series.
KNOWN = {
    "Standard_NC4as_T4_v3": Gpus("T4", 1),
    "Standard_NC8as_T4_v3": Gpus("T4", 1),
    "Standard_NC16as_T4_v3": Gpus("T4", 1),
    "Standard_NC64as_T4_v3": Gpus("T4", 4),
    "Standard_NC24ads_A100_v4": Gpus("A100-80GB", 1),
    "Standard_NC48ads_A100_v4": Gpus("A100-80GB", 2),
    "Standard_NC96ads_A100_v4": Gpus("A100-80GB", 4),
    "Standard_NC40ads_H100_v5": Gpus("H100NVL", 1),
    "Standard_NC80adis_H100_v5": Gpus("H100NVL", 2),
    "Standard_ND96asr_v4": Gpus("A100-40GB", 8),
    "Standard_ND96amsr_A100_v4": Gpus("A100-80GB", 8),
    "Standard_ND96isr_H100_v5": Gpus("H100", 8),
    "Standard_ND96isr_H200_v5": Gpus("H200", 8),
    "Standard_ND96isr_MI300X_v5": Gpus("MI300X", 8),
}


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``sizes``: names of VM sizes to ask for, empty for all whose GPUs are known; ``gpus`` says what is in other sizes.

    ``spot``: only spot, only on demand, or both (None). ``pages_max`` bounds the pages of one region's answer.
    """

    regions: Annotated[tuple[Region, ...], Meta(min_length=1, max_length=100)]
    sizes: Annotated[tuple[Size, ...], Meta(max_length=50)] = ()
    gpus: Annotated[dict[Size, Gpus], Meta(max_length=50)] = {}
    spot: bool | None = None
    pages_max: Annotated[int, Meta(ge=1, le=100)] = 10
    url: Annotated[str, Meta(pattern=r"^https?://[^/?#]+/[^?#]*$")] = "https://prices.azure.com/api/retail/prices"

    def __post_init__(self) -> None:
        unknown = [size for size in self.sizes if size not in KNOWN and size not in self.gpus]
        if unknown:
            raise ValueError(f"what GPUs are in {', '.join(unknown)}? Say so in `gpus`")

    def contents(self) -> dict[str, Gpus]:
        """What is in each size that is asked for."""
        known = KNOWN | self.gpus
        return {size: known[size] for size in self.sizes or known}


class _Page(msgspec.Struct, rename="pascal"):
    items: Entries
    billing_currency: str = "USD"
    next_page_link: str | None = None


class _Item(msgspec.Struct, rename="camel"):
    """The fields of one meter that are read here."""

    currency_code: str
    arm_region_name: str
    arm_sku_name: str
    meter_name: str
    sku_name: str
    product_name: str
    service_name: str
    type: str
    unit_of_measure: str
    retail_price: float | str | None = None
    tier_minimum_units: float = 0.0
    is_primary_meter_region: bool = True
    effective_start_date: str | None = None

    @property
    def spot(self) -> bool:
        return "Spot" in self.meter_name or "Spot" in self.sku_name


class _Found(NamedTuple):
    since_s: float
    price: GpuPrice


def feed(http: Http, options: Options, now_s: float) -> Iterable[Listing] | None:
    """One poll of every region: a region that fails fails the poll, lest its prices look withdrawn."""
    contents = options.contents()
    found: dict[str, list[_Found]] = {}
    problems = Problems()
    for region in options.regions:
        items = _items(http, options, region, tuple(contents))
        if items is None:
            return None
        for raw in items:
            try:
                item = decode_entry(raw, _Item)
            except FeedChanged as error:
                problems.append(f"{region}: {error}")
                continue
            if not _wanted(item, region, contents, options.spot, now_s):
                continue
            usd_per_hour = number(item.retail_price)
            product = f"{item.arm_sku_name}/{region}/{'spot' if item.spot else 'on-demand'}"
            if usd_per_hour is None or item.currency_code != "USD" or item.unit_of_measure != "1 Hour":
                problems.append(
                    f"{product}: no price in USD per hour (`{item.currency_code}`, `{item.unit_of_measure}`)"
                )
                continue
            inside = contents[item.arm_sku_name]
            price = GpuPrice(usd_per_hour, inside.gpu, inside.gpu_count, "azure", region, item.arm_sku_name, item.spot)
            found.setdefault(product, []).append(_Found(instant(item.effective_start_date) or 0.0, price))
    listings = []
    for product, candidates in found.items():
        newest_s = max(candidate.since_s for candidate in candidates)
        prices = {candidate.price for candidate in candidates if candidate.since_s == newest_s}
        if len(prices) == 1:
            listings.append(Listing(product, prices.pop(), observed_s=now_s))
        else:
            problems.append(f"{product}: {len(prices)} prices at once")
    if not listings and not problems:
        raise FeedChanged("no price for any of the sizes in any of the regions")
    return readable(listings, problems)


def _wanted(item: _Item, region: str, contents: dict[str, Gpus], spot: bool | None, now_s: float) -> bool:
    """Whether this meter is what a Linux machine of an asked size costs now; the server's filter is not relied upon."""
    names = (item.product_name, item.sku_name, item.meter_name)
    return (
        item.service_name == "Virtual Machines"
        and item.type == "Consumption"
        and item.arm_region_name == region
        and item.arm_sku_name in contents
        and item.is_primary_meter_region  # the meters that Azure bills by
        and item.tier_minimum_units == 0
        and not any(other in name for other in _OTHER_PRODUCTS for name in names)
        and (spot is None or spot == item.spot)
        and (instant(item.effective_start_date) or 0.0) <= now_s
    )


def _items(http: Http, options: Options, region: str, sizes: tuple[str, ...]) -> list[msgspec.Raw] | None:
    """The items of every page of one region; None where nothing has changed since the last poll."""
    either = " or ".join(f"armSkuName eq '{size}'" for size in sizes)
    conditions = f"serviceName eq 'Virtual Machines' and priceType eq 'Consumption' and armRegionName eq '{region}'"
    asked: dict[str, str] | None = {"currencyCode": "'USD'", "$filter": f"{conditions} and ({either})"}
    url, items = options.url, list[msgspec.Raw]()
    for _ in range(options.pages_max):
        body = http.get(url, asked, conditional=False)  # an item may hold from a later date on
        if body is None:
            return None
        page = decode(body, _Page)
        if page.billing_currency != "USD":
            raise FeedChanged(f"{region}: asked for USD, got `{plain(page.billing_currency)}`")
        items += page.items
        if len(items) > ENTRIES_MAX:
            raise FeedChanged(f"{region}: more than {ENTRIES_MAX} items")
        if not page.next_page_link:
            return items
        url, asked = _checked(page.next_page_link, options.url), None
    raise FeedError(f"{region}: more than {options.pages_max} pages; name fewer sizes, or raise pages_max")


def _checked(link: str, url: str) -> str:
    """``link``, if it leads to where ``url`` does."""
    try:
        same = len(link) <= _LINK_LENGTH_MAX and _origin(link) == _origin(url)
    except ValueError:
        same = False
    if not same:
        raise FeedChanged(f"the next page is said to be at {shown_address(link)}, not at {shown_address(url)}")
    return link


def _origin(url: str) -> tuple[str, str | None, int | None]:
    split = urlsplit(url)
    return split.scheme, split.hostname, split.port or _DEFAULT_PORTS.get(split.scheme)


KIND = FeedKind(feed, Options)
