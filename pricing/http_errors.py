"""What went wrong with a GET, in our own words: the texts of requests and urllib3 repeat the whole query."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

from requests import exceptions

from pricing.addresses import shown_address
from pricing.deadline import Deadline, InsideAddress
from pricing.feeds import FeedChanged, FeedError, FeedUnavailable
from pricing.feeds.reading import number, plain

RETRY_AFTER_S_MAX = 86_400.0


def failure(error: Exception, address: str, deadline: Deadline) -> FeedError:
    """Of an exchange that has no answer, or no whole one."""
    shown = shown_address(address)
    if isinstance(error, InsideAddress):
        return FeedChanged(f"{shown}: a redirect from outside to an address of this machine or network")
    if deadline.passed or isinstance(error, exceptions.Timeout | TimeoutError):
        return FeedUnavailable(f"{shown}: no complete answer within {deadline.seconds:g} s")
    if isinstance(error, exceptions.SSLError):
        return FeedUnavailable(f"{shown}: TLS failed, the certificate is not trusted or the handshake broke")
    if isinstance(error, exceptions.ProxyError):
        return FeedUnavailable(f"{shown}: the proxy would not connect")
    if isinstance(error, exceptions.ConnectionError | ConnectionError):
        return FeedUnavailable(f"{shown}: no connection, or no HTTP on it")
    if isinstance(error, exceptions.RequestException | ValueError):
        return FeedChanged(f"{shown}: no valid address or header ({type(error).__name__})")
    return FeedUnavailable(f"{shown}: the answer is truncated")


def retry_after_s(text: str) -> float:
    """Seconds that the source asks for, as a number or until an HTTP date (RFC 9110, 10.2.3); at most a day."""
    seconds = number(text)
    if seconds is None:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return min(max(seconds, 0.0), RETRY_AFTER_S_MAX)


def redacted(body: bytes, secrets: list[str]) -> str:
    """The first words of an answer, without anything that was sent to get it."""
    text = body.decode("utf-8", "replace")
    for secret in (word for value in secrets for word in (value, *value.split()) if len(word) >= 4):
        text = text.replace(secret, "…")
    return plain(text).strip()
