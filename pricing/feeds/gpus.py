"""Rented GPUs of many clouds, from the catalogs that gpuhunt publishes: on demand and spot, USD per hour of an instance.

Source: gpuhunt's catalogs, format v3: ``url/provider/version`` names the newest, ``url/provider/<version>/catalog.zip``
holds ``provider.csv``. They are fetched here, so that time and bytes are bounded, and read and filtered by gpuhunt, through
the folder of local catalogs that it takes. Its live providers, which ask the network themselves, are left out.
A catalog is made once a day: poll it a few times a day.

Product: ``provider/instance/region/spot`` or ``.../on-demand``; where a provider sells an instance with different GPUs, the
GPUs follow (``.../spot/4xT4``).
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
import threading
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal, NamedTuple, get_args

import msgspec
from msgspec import Meta

from pricing.feeds import FeedChanged, FeedError, FeedKind, Http
from pricing.feeds.gpu_names import gpu_name
from pricing.feeds.reading import plain
from pricing.listing import GpuPrice, Listing

Cloud = Literal["aws", "azure", "cloudrift", "gcp", "lambdalabs", "nebius", "oci", "runpod", "verda"]
CSV_BYTES_MAX = 64 * 1024 * 1024
LISTINGS_MAX = 5000
_PRODUCT_LENGTH_MAX = 200
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ENVIRONMENT = threading.Lock()  # gpuhunt is told its folder by an environment variable


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``gpus`` by gpuhunt's names (A100, or A100-80GB); empty ``counts`` and ``regions`` mean all.

    Of each (provider, region, GPU, count, spot or not) the ``cheapest_max`` cheapest instances are listed, and the products
    in ``always`` however dear: name those there that something is priced by, lest they drop out. ``flags``: gpuhunt's marks
    of offers with strings attached, which are listed only if all of theirs are named.
    """

    gpus: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=60)], ...], Meta(min_length=1, max_length=50)]
    providers: Annotated[tuple[Cloud, ...], Meta(min_length=1)] = get_args(Cloud)
    counts: tuple[Annotated[int, Meta(ge=1, le=1024)], ...] = ()
    regions: tuple[str, ...] = ()
    spot: bool | None = None
    cheapest_max: Annotated[int, Meta(ge=1, le=100)] = 3
    always: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    url: Annotated[str, Meta(pattern=r"^https?://[^/?#]+(/[^?#]*)?$")] = (
        "https://dstack-gpu-pricing.s3.eu-west-1.amazonaws.com/v3"
    )


class _Offer(NamedTuple):
    product: str
    price: GpuPrice


def feed(http: Http, options: Options, now_s: float) -> Iterable[Listing] | None:
    """One poll of every provider: one that fails fails the poll, lest its prices look withdrawn."""
    listings: list[Listing] = []
    for provider in dict.fromkeys(options.providers):
        base = f"{options.url.rstrip('/')}/{provider}"
        named = http.get(f"{base}/version")
        if named is None:
            return None
        version = named.decode("ascii", "replace").strip()
        if not _VERSION.fullmatch(version):
            raise FeedChanged(f"{provider}: `{plain(version)}` is no version of a catalog")
        packed = http.get(f"{base}/{version}/catalog.zip")
        if packed is None:
            return None
        offers = _offers(provider, _read(provider, _unpacked(provider, packed)), options)
        observed_s = min(now_s, _end_of_day_s(version, now_s))
        listings += [Listing(offer.product, offer.price, observed_s) for offer in _cheapest(offers, options)]
    if len(listings) > LISTINGS_MAX:
        raise FeedError(f"{len(listings)} offers match, more than {LISTINGS_MAX}: name fewer GPUs, counts or regions")
    return listings


def _unpacked(provider: str, packed: bytes) -> bytes:
    """The provider's CSV of a catalog's ZIP, bounded. Raises FeedChanged."""
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            member = archive.getinfo(f"{provider}.csv")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise FeedChanged(f"{provider}: the catalog is packed in a way that catalogs are not")
            with archive.open(member) as file:
                text = file.read(CSV_BYTES_MAX + 1)  # the size that the archive declares may be a lie
    except KeyError:
        raise FeedChanged(f"{provider}: there is no {provider}.csv in the catalog") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise FeedChanged(f"{provider}: the catalog cannot be unpacked: {plain(str(error))}") from None
    if len(text) > CSV_BYTES_MAX:
        raise FeedChanged(f"{provider}: the catalog is longer than {CSV_BYTES_MAX} bytes")
    return text


def _read(provider: str, text: bytes) -> list[Any]:
    """gpuhunt's CatalogItems of a CSV, without those that it or we cannot read. Raises FeedChanged if most are so."""
    try:
        import gpuhunt  # here, so that whoever only wants to know the options need not have it
    except ImportError:
        raise FeedError("gpuhunt is not installed") from None
    try:
        rows = sum(1 for row in csv.reader(io.StringIO(text.decode("utf-8"))) if row) - 1
        with TemporaryDirectory() as folder, _environment("GPUHUNT_CATALOG_DIR", folder):
            Path(folder, f"{provider}.csv").write_bytes(text)
            items = gpuhunt.Catalog(auto_reload=False).query(provider=provider)
    except Exception as error:  # whatever a stranger's bytes make a stranger's parser raise
        raise FeedChanged(f"{provider}: gpuhunt cannot read the catalog: {plain(str(error))}") from None
    good = [item for item in items if math.isfinite(item.price) and (item.gpu_count == 0 or item.gpu_name)]
    if 2 * len(good) < rows or rows < 1:
        raise FeedChanged(f"{provider}: {rows - len(good)} of {rows} rows of the catalog cannot be read")
    return good


def _offers(provider: str, items: list[Any], options: Options) -> Iterator[_Offer]:
    """What was asked for, under names that are unique as long as gpuhunt's rows are."""
    contents: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for item in items:
        if item.gpu_count > 0:
            contents[item.instance_name].add((item.gpu_name, item.gpu_count))
    gpus, flags = {name.casefold() for name in options.gpus}, set(options.flags)
    for item in items:
        if item.gpu_count < 1 or not flags.issuperset(item.flags):
            continue
        gpu = gpu_name(item.gpu_name, item.gpu_memory)
        product = f"{provider}/{item.instance_name}/{item.location}/{'spot' if item.spot else 'on-demand'}"
        if len(contents[item.instance_name]) > 1:
            product += f"/{item.gpu_count}x{gpu}"
        if (
            gpus.isdisjoint((gpu.casefold(), item.gpu_name.casefold()))
            or (options.counts and item.gpu_count not in options.counts)
            or (options.regions and item.location not in options.regions)
            or (options.spot is not None and options.spot != item.spot)
            or product != plain(product, _PRODUCT_LENGTH_MAX)
        ):
            continue
        yield _Offer(
            product,
            GpuPrice(item.price, gpu, item.gpu_count, provider, item.location, item.instance_name, item.spot),
        )


def _cheapest(offers: Iterable[_Offer], options: Options) -> Iterator[_Offer]:
    """The cheapest of each kind. What is no price at all (zero or less) takes nobody's place, and is left to be judged."""
    best: dict[str, _Offer] = {}
    for offer in sorted(offers, key=lambda offer: (offer.price.usd_per_hour <= 0, offer.price.usd_per_hour)):
        best.setdefault(offer.product, offer)
    taken: dict[tuple[str, str, int, bool], int] = defaultdict(int)
    for offer in best.values():
        price = offer.price
        kind = price.region, price.gpu, price.gpu_count, price.spot
        taken[kind] += price.usd_per_hour > 0
        if taken[kind] <= options.cheapest_max or price.usd_per_hour <= 0 or offer.product in options.always:
            yield offer


def _end_of_day_s(version: str, now_s: float) -> float:
    """Until when a catalog held: a version begins with the day on which it was made (20260818-42)."""
    try:
        return datetime.strptime(version[:8], "%Y%m%d").replace(tzinfo=UTC).timestamp() + 86_400.0
    except ValueError:
        return now_s


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    with _ENVIRONMENT:
        before = os.environ.get(name)
        os.environ[name] = value
        try:
            yield
        finally:
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before


KIND = FeedKind(feed, Options, isolated=True)
