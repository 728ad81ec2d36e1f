"""One file a source of prices. Each holds one function, ``feed(http, options, now_s)``, and the options it understands.

A feed is synchronous and asks the network only through ``http``; it yields listings and raises FeedError. It is never
called on the request path: ``serving.prices_process`` decides when, in a thread, or in a process of its own for feeds that
drag a large library along (``isolated``). A site adds one by an entry point in the group ``baseload.feeds``.

FeedError                       this poll brought nothing; the text says why
    FeedOffline                 the site is air-gapped, or the feed needs a network that it may not use
    FeedUnavailable             timeout, refusal, 429 or 5xx: ``retry_after_s`` where the source said so
    FeedChanged                 the source answered with something that is not what it documents
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points
from typing import Any, NamedTuple, Protocol

import msgspec

from pricing.listing import Listing

GROUP = "baseload.feeds"


class FeedError(Exception):
    """This poll brought nothing new."""


class FeedOffline(FeedError):
    """The feed may not use the network here."""


class FeedUnavailable(FeedError):
    """The source could not be asked, or would not answer now."""

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class FeedChanged(FeedError):
    """The source's answer is not what it documents: truncated, of another shape, or not what was asked for."""


class Http(Protocol):
    """How a feed asks the network: bounded in bytes and time, conditional where the source gives an ETag."""

    def get(
        self,
        url: str,
        params: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        *,
        bytes_max: int | None = None,
        conditional: bool = True,
    ) -> bytes | None:
        """Body of a 200; None for a 304 (nothing has changed since the last poll). Raises FeedError.

        ``bytes_max``: what the body may have where that is less than the site allows. ``conditional`` False: what the feed
        makes of the same answer depends on the time, so it wants the body in any case.
        """
        ...

    def require_network(self) -> None:
        """Raises FeedOffline where the network may not be used: for feeds whose library brings its own transport."""
        ...


class FeedFunction(Protocol):
    """One poll. Returns None where the source says that nothing has changed."""

    def __call__(self, http: Http, options: Any, now_s: float) -> Iterable[Listing] | None: ...


class FeedKind(NamedTuple):
    """What an entry point names. ``options`` is a msgspec Struct type; ``needs_network`` False: works air-gapped."""

    feed: FeedFunction
    options: type[msgspec.Struct]
    isolated: bool = False
    needs_network: bool = True


@cache
def kinds() -> dict[str, str]:
    """Names of the kinds of feed that are installed, with where they come from; nothing is imported."""
    return {entry.name: entry.value for entry in entry_points(group=GROUP)}


def kind(name: str) -> FeedKind:
    """Load a kind of feed. Raises ValueError naming those that exist."""
    for entry in entry_points(group=GROUP, name=name):
        found = entry.load()
        if not isinstance(found, FeedKind):
            raise ValueError(f"{entry.value} is no FeedKind")
        return found
    raise ValueError(f"there is no kind of feed {name!r} (known: {', '.join(sorted(kinds())) or 'none'})")


def options_of(found: FeedKind, options: dict[str, Any]) -> Any:
    """The options as the feed's own type. Raises ValueError naming the field and what is wrong with it."""
    try:
        return msgspec.convert(options, found.options, strict=True)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
