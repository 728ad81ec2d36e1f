"""Addresses that feeds ask: checked before, and shown without what may be secret in them."""

from __future__ import annotations

import socket
from ipaddress import IPv6Address, ip_address
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


def public(ip: str) -> bool:
    """Whether an IP address is one of the Internet: not loopback, private, link-local, shared or reserved."""
    found = ip_address(ip)
    if isinstance(found, IPv6Address):
        found = found.ipv4_mapped or found.sixtofour or found
    return found.is_global and not found.is_multicast


def inside(address: str) -> bool:
    """Whether the host, as it is written, is an address of this machine or network; names are left to the resolver."""
    host = (urlsplit(address).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return not public(host)
    except ValueError:
        pass
    try:
        return not public(socket.inet_ntoa(socket.inet_aton(host)))  # 127.1 and 2130706433 are addresses as well
    except (OSError, ValueError):
        return False


def shown_address(address: str) -> str:
    """An address fit for logs: scheme, host and path; no query, user or password."""
    try:
        split = urlsplit(address)
        return plain(f"{split.scheme}://{split.netloc.rpartition('@')[2]}{split.path}", 120)
    except ValueError:
        return "an address that cannot be read"
