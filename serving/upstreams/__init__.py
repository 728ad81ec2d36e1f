"""Sources that can be asked, behind one small interface.

Transport         ``post`` a body, get a ``Reply``
Reply             status, headers, ``read()`` for plain answers, ``chunks()`` for streams, ``close()``
UpstreamError     nothing (more) will come; ``begun`` is False where the source cannot have seen the request
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from serving.routes import Route


class UpstreamError(Exception):
    """A source could not be reached or broke off. ``begun`` is False where it cannot have seen the request."""

    def __init__(self, message: str, begun: bool = True) -> None:
        super().__init__(message)
        self.begun = begun


class Reply(Protocol):
    """The beginning of an answer; the body is read by exactly one of ``read`` and ``chunks``."""

    @property
    def status(self) -> int:
        """HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Case-insensitive, or lower-case names."""
        ...

    async def read(self) -> bytes:
        """The whole body, bounded."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises UpstreamError where it breaks off."""
        ...

    def close(self) -> None:
        """Stop: the source sees a closed connection and ends its work."""
        ...


class Transport(Protocol):
    """One way of asking. It neither retries nor falls back nor waits beyond the connect: the dispatcher owns all that."""

    async def post(self, base_url: str, path: str, body: bytes, route: Route, left_s: float) -> Reply:
        """Send ``body`` to ``base_url + path``; ``left_s`` is the time left, for libraries that want to know."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...
