"""Spot prices of AWS GPU instances, zone by zone, as EC2 tells an account.

Source: EC2's DescribeSpotPriceHistory, whose answer from now on holds the price in force of each instance and zone, and
DescribeInstanceTypes, which says what GPUs are inside. Both need an account (ec2:DescribeSpotPriceHistory and
ec2:DescribeInstanceTypes), whose keys come from the environment and from nowhere else: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY and, for temporary ones, AWS_SESSION_TOKEN. The transport is botocore's own.
Product: ``instance/zone``. AWS stamps a price with the time of its last change; it holds when it is told.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pricing.feeds import FeedChanged, FeedError, FeedKind, FeedUnavailable, Http
from pricing.feeds.gpu_names import gpu_name
from pricing.feeds.reading import Problems, number, plain, readable
from pricing.listing import GpuPrice, Listing

Region = Annotated[str, Meta(pattern=r"^[a-z]{2}(-[a-z]+)+-\d{1,2}$")]
Instance = Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,30}\.[a-z0-9-]{1,30}$")]
_TYPES_A_PAGE, _PRICES_A_PAGE = 100, 1000  # EC2's own limits
_CLOCK_S = 300.0  # by how much our clock may be ahead of EC2's
_PRODUCT_LENGTH_MAX = 100
_MIB_PER_GB = 1024.0  # AWS means GiB where the box says GB
_BUSY = frozenset(("RequestLimitExceeded", "Throttling", "ThrottlingException", "InternalError", "Unavailable"))
_NO_KEYS = "no AWS keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``product_description`` is EC2's word for the operating system. ``pages_max`` bounds the answer of one region.

    ``endpoint_url`` leads to another EC2 (a private endpoint, an emulator); it is asked for every region then.
    """

    regions: Annotated[tuple[Region, ...], Meta(min_length=1, max_length=50)]
    instances: Annotated[tuple[Instance, ...], Meta(min_length=1, max_length=100)]
    product_description: str = "Linux/UNIX"
    timeout_s: Annotated[float, Meta(gt=0, le=120)] = 10.0
    pages_max: Annotated[int, Meta(ge=1, le=100)] = 10
    endpoint_url: Annotated[str, Meta(pattern=r"^(https?://[^/?#]+(/[^?#]*)?)?$")] = ""


class _Gpus(msgspec.Struct, frozen=True):
    """What an instance type holds, from its GpuInfo."""

    gpu: str
    gpu_count: int


def feed(http: Http, options: Options, now_s: float) -> Iterable[Listing]:
    """One poll of every region: one that fails fails the poll, lest its prices look withdrawn."""
    http.require_network()
    listings: list[Listing] = []
    problems = Problems()
    with _plain_errors():
        for region in options.regions:
            client = _client(options, region)
            try:
                known = _inside(client, options, problems)
                listings += _newest(client, options, region, known, now_s, problems)
            finally:
                client.close()
    if not listings and not problems:
        raise FeedChanged("no spot price of any of the instances in any of the regions")
    return readable(listings, problems)


@cache
def _session() -> Any:
    """What boto3 knows of its services, which takes it long to read. Holds no keys."""
    import boto3.session  # here, so that whoever only wants to know the options does not load it

    return boto3.session.Session()


def _client(options: Options, region: str) -> Any:
    """An EC2 client that asks nobody but EC2: no metadata service, no profile, no shared credentials file."""
    from botocore.config import Config

    key, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
    if not key or not secret:
        raise FeedError(_NO_KEYS)
    return _session().client(
        "ec2",
        region_name=region,
        endpoint_url=options.endpoint_url or None,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        aws_session_token=os.environ.get("AWS_SESSION_TOKEN") or None,
        config=Config(
            connect_timeout=options.timeout_s,
            read_timeout=options.timeout_s,
            retries={"total_max_attempts": 2, "mode": "standard"},
        ),
    )


def _inside(client: Any, options: Options, problems: Problems) -> dict[str, _Gpus]:
    """The GPUs of each asked instance type that the region has; a type that the region lacks is no error."""
    known: dict[str, _Gpus] = {}
    wanted = [{"Name": "instance-type", "Values": list(options.instances)}]
    for entry in _pages(client.describe_instance_types, "InstanceTypes", options, _TYPES_A_PAGE, Filters=wanted):
        name = entry.get("InstanceType")
        try:
            gpus = entry["GpuInfo"]["Gpus"]
            whole = all(gpu.get("GpuPartitionSize", 1.0) == 1.0 for gpu in gpus)
            count = sum(gpu["Count"] for gpu in gpus)
            gpu = gpu_name(gpus[0]["Name"], gpus[0]["MemoryInfo"]["SizeInMiB"] / _MIB_PER_GB)
        except (KeyError, IndexError, TypeError):
            problems.append(f"{plain(str(name))}: nothing is said of its GPUs")
            continue
        if whole and count >= 1:
            known[str(name)] = _Gpus(gpu, count)
        else:
            problems.append(f"{plain(str(name))}: a part of a GPU, which has no price by the GPU")
    return known


def _newest(
    client: Any, options: Options, region: str, known: dict[str, _Gpus], now_s: float, problems: Problems
) -> list[Listing]:
    """The price in force of each instance and zone: the latest change, whatever the order of the answer."""
    if not known:
        return []
    newest: dict[str, tuple[float, Listing]] = {}
    entries = _pages(
        client.describe_spot_price_history,
        "SpotPriceHistory",
        options,
        _PRICES_A_PAGE,
        InstanceTypes=sorted(known),
        ProductDescriptions=[options.product_description],
        StartTime=datetime.fromtimestamp(now_s - _CLOCK_S, UTC),
    )
    described = options.product_description, f"{options.product_description} (Amazon VPC)"
    for entry in entries:
        instance, zone, at = (entry.get(name) for name in ("InstanceType", "AvailabilityZone", "Timestamp"))
        if instance not in known or entry.get("ProductDescription") not in described:
            continue
        usd_per_hour = number(entry.get("SpotPrice"))
        product = f"{instance}/{zone}"
        named = str(zone).startswith(region) and product == plain(product, _PRODUCT_LENGTH_MAX)
        if usd_per_hour is None or not isinstance(at, datetime) or not named:
            problems.append(f"{plain(product)}: no price, time or zone of {region}")
            continue
        gpus = known[instance]
        price = GpuPrice(usd_per_hour, gpus.gpu, gpus.gpu_count, "aws", region, instance, spot=True)
        changed_s = at.timestamp()
        if product not in newest or changed_s > newest[product][0]:
            newest[product] = changed_s, Listing(product, price, observed_s=now_s)
    return [listing for _, listing in newest.values()]


def _pages(
    ask: Callable[..., dict[str, Any]], field: str, options: Options, items_max: int, **parameters: Any
) -> Iterator[dict[str, Any]]:
    """Every entry of every page. (botocore's own paginator knows no bound on pages.)"""
    token = ""
    for _ in range(options.pages_max):
        answer = ask(**parameters, **({"NextToken": token} if token else {"MaxResults": items_max}))
        yield from answer.get(field, ())
        token = answer.get("NextToken") or ""
        if not token:
            return
    raise FeedError(f"more than {options.pages_max} pages; name fewer instances, or raise pages_max")


@contextmanager
def _plain_errors() -> Iterator[None]:
    """botocore's errors as feeds' errors."""
    try:
        from botocore import exceptions
        from botocore.parsers import ResponseParserError
    except ImportError:
        raise FeedError("boto3 is not installed") from None
    try:
        yield
    except exceptions.ClientError as error:
        code, status = _code_and_status(error.response)
        text = f"EC2 refused with {plain(code)} (HTTP {status})"
        if code in _BUSY or status >= 500 or status == 429:
            raise FeedUnavailable(text) from None
        raise FeedError(text) from None
    except (ResponseParserError, ValueError):  # a time that is none fails the whole page in botocore
        raise FeedChanged("EC2's answer cannot be read") from None
    except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
        raise FeedUnavailable(f"EC2 cannot be reached: {plain(type(error).__name__)}") from None
    except exceptions.BotoCoreError as error:
        raise FeedError(f"botocore: {plain(str(error))}") from None


def _code_and_status(response: dict[str, Any]) -> tuple[str, int]:
    code = response.get("Error", {}).get("Code", "")
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return str(code), int(status)


KIND = FeedKind(feed, Options, isolated=True)
