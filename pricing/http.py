"""The network as feeds see it: GET with a deadline, a bound on bytes, few redirects and no secrets in errors or logs.

Proxies and certificate bundles come from the environment (HTTPS_PROXY, NO_PROXY, REQUESTS_CA_BUNDLE), as in requests.
"""

from __future__ import annotations

import logging
import math
import time
import zlib
from contextlib import suppress
from importlib.metadata import version

import requests
from requests import exceptions
from urllib3.exceptions import HTTPError

from pricing.addresses import checked_address, inside, next_address, origin, shown_address
from pricing.deadline import Deadline, DeadlineAdapter, InsideAddress
from pricing.feeds import FeedChanged, FeedError, FeedOffline, FeedUnavailable
from pricing.feeds.reading import plain
from pricing.http_errors import failure, redacted, retry_after_s

REDIRECTS_MAX = 3
# What all the GETs of one poll may take together, in timeouts and in bodies.
POLL_TIMEOUTS, POLL_BODIES = 10, 2
_CHUNK_BYTES = 65_536
_EXCERPT_BYTES = 4_096
_VALIDATOR_CHARACTERS_MAX = 512
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_BUSY = frozenset((429, 503))


# What a later GET asks with, and the header of an answer that it comes from.
_CONDITIONS = {"If-None-Match": "ETag", "If-Modified-Since": "Last-Modified"}


class OfflineHttp:
    """What feeds get at a site without a network: every question raises FeedOffline."""

    def get(
        self,
        url: str,
        params: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        *,
        bytes_max: int | None = None,
        conditional: bool = True,
    ) -> bytes | None:
        """Raises FeedOffline."""
        raise FeedOffline("this site is air-gapped: feeds may not use the network")

    def require_network(self) -> None:
        """Raises FeedOffline."""
        self.get("")

    def accept(self) -> None:
        """Nothing was asked."""

    def forget(self) -> None:
        """Nothing was asked."""


class BoundedHttp:
    """The network of one feed, for one thread at a time.

    ``timeout_s`` bounds a whole ``get``, redirects and body included; ``bytes_max`` the body after decompression. A poll,
    from its first ``get`` to ``accept()`` or ``forget()``, may take ten and two times as much. GETs become conditional only
    after ``accept()``, which says that the poll's answers are in use: a feed that could not read an answer must not be told
    "not modified" for ever. A poll that asked several addresses is never conditional, since one of them alone may have
    changed; so None means that the whole poll would bring nothing new. ``validators``, the conditions of the next poll by
    address, may be carried to another process.
    """

    def __init__(self, timeout_s: float, bytes_max: int, user_agent: str = "") -> None:
        self._timeout_s = timeout_s
        self._bytes_max = bytes_max
        self._headers = {
            "User-Agent": user_agent or f"baseload/{version('baseload')}",
            "Accept-Encoding": "gzip",
        }
        self.validators: dict[str, dict[str, str]] = {}
        self._asked: dict[str, dict[str, str]] = {}
        self._failed = False
        self._left_bytes, self._end_s = POLL_BODIES * bytes_max, math.inf
        logging.getLogger("urllib3.connectionpool").addFilter(_without_query)

    def get(
        self,
        url: str,
        params: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        *,
        bytes_max: int | None = None,
        conditional: bool = True,
    ) -> bytes | None:
        """Body of a 200; None for a 304. Raises FeedUnavailable or FeedChanged, naming host and path only.

        ``bytes_max`` may lower the site's own; without ``conditional`` this poll and the next ask for the whole answer.
        """
        limit = self._bytes_max if bytes_max is None else min(bytes_max, self._bytes_max)
        try:
            return self._get(url, params or {}, headers or {}, limit, conditional)
        except FeedError:
            self._failed = True
            raise

    def require_network(self) -> None:
        """The network may be used."""

    def accept(self) -> None:
        """The poll's answers were taken in: the next one may be conditional."""
        one = len(self._asked) == 1 and not self._failed
        validators = {address: sent for address, sent in self._asked.items() if one and sent}
        self.forget()
        self.validators = validators

    def forget(self) -> None:
        """The poll's answers were of no use: ask for everything again."""
        self.validators, self._asked, self._failed = {}, {}, False
        self._left_bytes, self._end_s = POLL_BODIES * self._bytes_max, math.inf

    def _get(
        self, url: str, params: dict[str, str], headers: dict[str, str], bytes_max: int, conditional: bool
    ) -> bytes | None:
        address = checked_address(url, params)
        conditions = self.validators.get(address, {}) if conditional else {}
        with Deadline(self._seconds(address)) as deadline, requests.Session() as session:
            adapter = DeadlineAdapter(deadline)
            session.mount("http://", adapter)
            session.mount("https://", adapter)
            with self._ask(session, deadline, address, headers, conditions) as response:
                if response.status_code == 304:
                    if not conditions:
                        raise FeedChanged(f"{shown_address(address)}: HTTP 304 to a request without conditions")
                    self._asked[address] = conditions
                    return None
                if response.status_code != 200:
                    own = origin(response.url) == origin(address)  # nobody else's words get into errors
                    raise self._refusal(response, deadline, [*params.values(), *headers.values()] if own else None)
                body = self._body(response, deadline, min(bytes_max, self._left_bytes))
        self._left_bytes -= len(body)
        self._asked[address] = _validators(response) if conditional else {}
        return body

    def _seconds(self, address: str) -> float:
        """What one GET may take of what is left to the poll. Raises FeedUnavailable where nothing is."""
        now_s, poll_s = time.monotonic(), POLL_TIMEOUTS * self._timeout_s
        self._end_s = min(self._end_s, now_s + poll_s)
        if now_s >= self._end_s or self._left_bytes <= 0:
            taken = f"{poll_s:g} s or {POLL_BODIES * self._bytes_max} bytes"
            raise FeedUnavailable(f"{shown_address(address)}: the poll has already taken its {taken}")
        return min(self._timeout_s, self._end_s - now_s)

    def _ask(
        self,
        session: requests.Session,
        deadline: Deadline,
        address: str,
        headers: dict[str, str],
        conditions: dict[str, str],
    ) -> requests.Response:
        """The first answer that is no redirect; the caller's headers, keys among them, stay with the first host."""
        target = address
        for _ in range(REDIRECTS_MAX + 1):
            own = headers if origin(target) == origin(address) else {}
            try:
                if deadline.outside_only and inside(target):
                    raise InsideAddress
                response = session.get(
                    target,
                    headers={**self._headers, **conditions, **own},
                    timeout=deadline.left_s(),
                    stream=True,
                    allow_redirects=False,
                    auth=lambda request: request,  # else a .netrc of the user who runs this would be sent
                )
            except (exceptions.RequestException, HTTPError, OSError, ValueError) as error:
                raise failure(error, target, deadline) from None
            location = response.headers.get("Location")
            if response.status_code not in _REDIRECTS or location is None:
                return response
            response.close()
            # A source outside must not choose which of the site's own machines is asked.
            deadline.outside_only |= target == address and not (deadline.inside or inside(address))
            target = checked_address(next_address(target, location), {})
        raise FeedChanged(f"{shown_address(address)}: more than {REDIRECTS_MAX} redirects")

    def _body(self, response: requests.Response, deadline: Deadline, bytes_max: int, cut: bool = False) -> bytes:
        """The whole body (or its start, with ``cut``), unpacked piece by piece so that a bomb stops at ``bytes_max``."""
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        if encoding not in ("identity", "gzip", "x-gzip"):
            raise FeedChanged(
                f"{shown_address(response.url)}: content encoding {plain(encoding, 20)} was not asked for"
            )
        unzip = None if encoding == "identity" else zlib.decompressobj(wbits=31)
        body = bytearray()
        try:
            while len(body) <= bytes_max and (chunk := response.raw.read(_CHUNK_BYTES, decode_content=False)):
                body += chunk if unzip is None else unzip.decompress(chunk, bytes_max + 1 - len(body))
                if unzip is not None and unzip.eof:
                    break
        except zlib.error:
            raise FeedChanged(f"{shown_address(response.url)}: the body is not the gzip that it says it is") from None
        except (HTTPError, OSError, ValueError) as error:
            raise failure(error, response.url, deadline) from None
        if len(body) > bytes_max:
            if cut:
                return bytes(body)
            raise FeedChanged(f"{shown_address(response.url)}: the body is larger than {bytes_max} bytes")
        # A connection that is cut looks like the end of a body without a length.
        if deadline.passed or (unzip is not None and not unzip.eof):
            raise failure(EOFError(), response.url, deadline)
        return bytes(body)

    def _refusal(self, response: requests.Response, deadline: Deadline, secrets: list[str] | None) -> FeedError:
        """The error that a status other than 200 and 304 means, with the answer's first words unless ``secrets`` is None."""
        status, shown = response.status_code, shown_address(response.url)
        if status in _BUSY:
            return FeedUnavailable(f"{shown}: HTTP {status}", retry_after_s(response.headers.get("Retry-After", "")))
        if status >= 500:
            return FeedUnavailable(f"{shown}: HTTP {status}")
        said = ""
        if secrets is not None:
            with suppress(FeedError):
                said = redacted(self._body(response, deadline, _EXCERPT_BYTES, cut=True), secrets)
        return FeedChanged(f"{shown}: HTTP {status}" + (f": {said}" if said else ""))


def _validators(response: requests.Response) -> dict[str, str]:
    """The conditions under which the next GET would bring nothing new."""
    found = {condition: response.headers.get(name, "") for condition, name in _CONDITIONS.items()}
    return {condition: value for condition, value in found.items() if 0 < len(value) <= _VALIDATOR_CHARACTERS_MAX}


def _without_query(record: logging.LogRecord) -> bool:
    """urllib3 logs each request line at debug level: leave the query, where keys travel, out of it."""
    if isinstance(record.args, tuple):
        record.args = tuple(a.partition("?")[0] if isinstance(a, str) else a for a in record.args)
    return True
