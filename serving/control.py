"""How the serving processes talk to the controller: small JSON posts with a shared token, soft state only.

Whoever reports also receives, so nobody needs to be told where anybody is but the controller.
"""

from __future__ import annotations

import hmac
import http.client
import logging
import os
import secrets
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from serving.gate.wire import ReplicaInfo

if TYPE_CHECKING:  # meters and the prices process report without loading what they do not need
    import aiohttp

    from scheduler.config import ClusterConfig

log = logging.getLogger("baseload.control")

TOKEN_ENV = "BASELOAD_CONTROL_TOKEN"  # noqa: S105 - the name of the variable, not a secret
_TIMEOUT_S = 2.0
_ANSWER_BYTES_MAX = 16 * 1024 * 1024

# What decoding a body from elsewhere may raise: not JSON, not of the type, not UTF-8, nested without end.
UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)

T = TypeVar("T")

HERE, ELSEWHERE = "here", "elsewhere"


class Wanted(msgspec.Struct, frozen=True, array_like=True):
    """``scheduler.core.bids.Demand``; JSON knows no infinity: ``usd_displaced`` None can go nowhere else.

    ``end``: '' for a request as it was decided, once for each pool that might serve it. HERE or ELSEWHERE once it is over,
    once for all pools of one model and zone, under the cheapest of them. A gateway of before tells of no ends.
    """

    usd_displaced: float | None
    work_s: float
    ttft_s_max: float
    weight: float = 1.0
    end: str = ""


class MarketRequest(msgspec.Struct, frozen=True):
    """A gateway asks for the market and says what it has spent and may spend (USD by tenant since it started).

    ``wanted``: by pool, a sample of what its requests would displace there, since it last asked, and of how they ended.
    """

    gateway: str
    started_s: float
    spent: dict[str, float]
    held: dict[str, float] = {}
    wanted: dict[str, list[Wanted]] = {}


class Announcement(msgspec.Struct, frozen=True):
    """A replica says that it is there. ``leaves``: that it takes nothing new, since it is to go."""

    pool: str
    replica: ReplicaInfo
    leaves: bool = False


class Scaled(msgspec.Struct, frozen=True):
    """Who deploys pools says how many replicas each has been set to; only of pools that it can scale."""

    replicas: dict[str, int]


class Desired(msgspec.Struct, frozen=True):
    """The answer: how many they should have. A pool that is not named stays as it is."""

    replicas: dict[str, int] = {}


class MeterReplica(msgspec.Struct, frozen=True):
    """A replica, for the meters: the controller's answer to their reports."""

    pool: str
    replica: ReplicaInfo


class Spent(msgspec.Struct, frozen=True):
    """USD of avoidable money that a writer has recorded for a tenant since the tenant's budget window began."""

    tenant: str
    writer: str
    usd: float


def token() -> str:
    """The token shared by this run's processes; a fresh one where none was handed down."""
    value = os.environ.get(TOKEN_ENV)
    if not value:
        value = secrets.token_urlsafe(24)
        os.environ[TOKEN_ENV] = value
    return value


def authorized(header: str, expected: str) -> bool:
    """Compare a ``Bearer`` header in constant time."""
    return hmac.compare_digest(header.encode("utf-8", "surrogateescape"), f"Bearer {expected}".encode())


def url(config: ClusterConfig) -> str:
    """Base address of the controller."""
    return f"http://{config.controller.host}:{config.controller.port}"


async def post(
    session: aiohttp.ClientSession, base: str, what: str, message: Any, bearer: str, answer: type[T]
) -> T | None:
    """Post ``message``; the decoded answer, or None where the controller is away (callers go on with what they know)."""
    import aiohttp

    try:
        async with session.post(
            f"{base}/{what}",
            data=msgspec.json.encode(message),
            headers={"authorization": f"Bearer {bearer}"},
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
        ) as response:
            if response.status != 200:
                return None
            return msgspec.json.decode(await response.read(), type=answer)
    except (aiohttp.ClientError, OSError, TimeoutError, *UNREADABLE):
        return None


def tell(base: str, what: str, message: Any, bearer: str, answer: type[T]) -> T | None:
    """The same, blocking, for processes that report every few seconds and are to stay small (aiohttp alone takes 13 MB)."""
    address = urlsplit(base)
    try:
        with closing(
            http.client.HTTPConnection(address.hostname or "", address.port, timeout=_TIMEOUT_S)
        ) as connection:
            headers = {"authorization": f"Bearer {bearer}", "content-type": "application/json"}
            connection.request("POST", f"/{what}", msgspec.json.encode(message), headers)
            response = connection.getresponse()
            body = response.read(_ANSWER_BYTES_MAX)
            if response.status != 200:
                log.warning("the controller refuses", extra={"what": what, "status": response.status})
                return None
            return msgspec.json.decode(body, type=answer)
    except (OSError, http.client.HTTPException, *UNREADABLE):
        return None
