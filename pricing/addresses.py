"""Addresses that feeds ask: checked before, and shown without what may be secret in them."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

import requests

from pricing.feeds import FeedChanged
from pricing.feeds.reading import plain


def checked_address(url: str, params: dict[str, str]) -> str:
    """``url`` with ``params`` as its query. Raises FeedChanged where that is no http(s) address."""
    try:
        address = requests.Request("GET", url, params=params).prepare().url or ""
        scheme = urlsplit(address).scheme
    except (requests.RequestException, ValueError):
        raise FeedChanged(f"{shown_address(url)} is no address") from None
    if scheme not in ("http", "https"):
        raise FeedChanged(f"{shown_address(address)}: only http and https are asked")
    return address


def next_address(address: str, location: str) -> str:
    """Where a redirect leads. Raises FeedChanged when down from https to http, or to another scheme."""
    try:
        target = urljoin(address, location)
        schemes = urlsplit(address).scheme, urlsplit(target).scheme
    except ValueError:
        raise FeedChanged(f"{shown_address(address)}: redirect to something that is no address") from None
    if schemes not in (("http", "http"), ("http", "https"), ("https", "https")):
        raise FeedChanged(
            f"{shown_address(address)}: redirect from {schemes[0]} to {plain(schemes[1], 20) or 'nothing'}"
        )
    return target


def origin(address: str) -> tuple[str, str]:
    """Scheme, and host with port."""
    split = urlsplit(address)
    return split.scheme, split.netloc


def shown_address(address: str) -> str:
    """An address fit for logs: scheme, host and path; no query, user or password."""
    try:
        split = urlsplit(address)
        return plain(f"{split.scheme}://{split.netloc.rpartition('@')[2]}{split.path}", 120)
    except ValueError:
        return "an address that cannot be read"
