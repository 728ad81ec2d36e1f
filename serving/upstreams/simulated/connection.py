"""One client's connection to the simulated provider: reading, answering, waiting, and breaking off."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.upstreams.simulated.requests import ApiError

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

BODY_BYTES_MAX = 8 * 1024 * 1024
TRANSPORT = "simulated.transport"  # the ASGI extension under which the protocol below shows its transport
JSON_TYPE = b"application/json"
EVENT_STREAM_TYPE = b"text/event-stream; charset=utf-8"


class TransportShowingHttp(HttpToolsProtocol):
    """uvicorn's HTTP protocol, which also lets the application break the connection.

    ASGI has no word for "close without an answer": an application that returns early has a 500 sent in its name.
    """

    def on_message_begin(self) -> None:
        """Called by the parser at the start of each request."""
        super().on_message_begin()
        extensions: dict[str, Any] = {TRANSPORT: self.transport}
        self.scope["extensions"] = extensions


class ClientGone(Exception):
    """The client closed its connection before it was answered in full."""


class Connection:
    """One request with its answer. Times are seconds of time.monotonic()."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._watcher: asyncio.Task[None] | None = None
        self._wake: asyncio.Future[None] | None = None
        self._gone = False
        self._marks = [(b"x-simulated", b"true"), (b"x-request-id", request_id.encode())]

    def header(self, name: bytes) -> bytes:
        """A request header by its lower-case name, b"" if it was not sent."""
        return next((value for key, value in self._scope["headers"] if key == name), b"")

    async def body(self) -> bytes:
        """The whole request body; from here on the client's leaving is noticed.

        Raises ApiError 413 over 8 MiB, and ClientGone.
        """
        received, more = bytearray(), True
        while more:
            event = await self._receive()
            if event["type"] == "http.disconnect":
                raise ClientGone
            received += event.get("body", b"")
            more = event.get("more_body", False)
            if len(received) > BODY_BYTES_MAX:
                raise ApiError(413, f"the request is larger than {BODY_BYTES_MAX} bytes", code="request_too_large")
        self._watcher = asyncio.create_task(self._watch())
        return bytes(received)

    async def _watch(self) -> None:
        """Waits for the client to leave (or the answer to be complete) and ends any wait that is under way."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def sleep_until(self, when_s: float) -> None:
        """Returns at ``when_s``, at once if that is past. Raises ClientGone as soon as the client leaves."""
        delay_s = when_s - time.monotonic()
        if delay_s > 0 and not self._gone:
            loop = asyncio.get_running_loop()
            self._wake = loop.create_future()
            timer = loop.call_later(delay_s, _set, self._wake)
            try:
                await self._wake
            finally:
                timer.cancel()
                self._wake = None
        if self._gone:
            raise ClientGone

    async def until_gone(self) -> None:
        """Answers nothing until the client leaves."""
        await (self._watcher or self._watch())

    async def start(self, status: int, kind: bytes, *headers: tuple[bytes, bytes]) -> None:
        """Sends the status line and the headers."""
        listed = [(b"content-type", kind), *self._marks, *headers]
        await self._send({"type": "http.response.start", "status": status, "headers": listed})

    async def write(self, part: bytes, *, more: bool = True) -> None:
        """Sends a part of the body; returns when the client keeps up with reading."""
        await self._send({"type": "http.response.body", "body": part, "more_body": more})

    async def answer(self, payload: bytes, status: int = 200, *headers: tuple[bytes, bytes]) -> None:
        """Sends a whole JSON document."""
        await self.start(status, JSON_TYPE, (b"content-length", b"%d" % len(payload)), *headers)
        await self.write(payload, more=False)

    async def answer_error(self, error: ApiError) -> None:
        """Sends an error document, with the time to come back if there is one."""
        headers = []
        if error.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
            headers.append((b"retry-after-ms", b"%d" % max(1, math.ceil(error.retry_after_s * 1000))))
        await self.answer(error.body(), error.status, *headers)

    async def break_off(self, *, flush: bool) -> None:
        """Closes the connection with the answer unfinished, or not begun.

        With ``flush`` what was written still arrives, and then the end comes too early: no last chunk, fewer bytes
        than announced. Without it the connection is aborted and nothing arrives. Returns when the connection is
        closed, so that the server has no reason to complete the answer. Under a server that does not show its
        transport it only returns, and such a server closes an unfinished answer and turns none into a 500.
        """
        transport = (self._scope.get("extensions") or {}).get(TRANSPORT)
        if transport is None:
            return
        if flush:
            transport.close()
        else:
            transport.abort()
        await self.until_gone()


def _set(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
