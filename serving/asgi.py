"""uvicorn with the bounds it lacks: time and size of heads, connections. uvloop and httptools, no access log."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from scheduler.config.demand import RequestBounds
from serving.protocol import ProtocolError

_BACKLOG = 2048
_KEEP_ALIVE_S = 75
_HEAD_BYTES_MAX = 64 * 1024
# Charged for each header beside its text, as HTTP/2 does: many small ones cost time as well.
_HEADER_BYTES = 32
_UPGRADE = re.compile(rb"(?i)\r\nupgrade:")

DISCONNECT = "baseload.disconnect"
_TOO_SLOW = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: 105\r\n\r\n"
    b'{"error":{"message":"the body did not arrive in time","type":"timeout_error","param":null,"code":"slow"}}'
)


class OnDisconnect:
    """ASGI extension ``baseload.disconnect``: who wants to know that the client has gone sets ``call``.

    The portable way is a task that waits in ``receive``; at a tenth of a millisecond per request it is too dear here.
    """

    __slots__ = ("abort", "call")

    def __init__(self, abort: Callable[[], object]) -> None:
        self.call: Callable[[], object] | None = None
        self.abort = abort  # ends the connection at once, whatever is still unsent


class BoundedProtocol(HttpToolsProtocol):
    """Ends connections whose head or body takes too long (slow loris), and those above the limit."""

    bounds: RequestBounds
    _timer: asyncio.TimerHandle | None = None
    _head_is_there = False
    _head_bytes = 0
    _running: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.bounds.connections_max:
            transport.abort()
            return
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        # Upgrades may be ignored, and are: the parser would drop the body of a request that offers one (Java's
        # client offers HTTP/2 on every plain connection). Renamed only where a head begins.
        if not self._head_is_there and not self._head_bytes and _UPGRADE.search(data):
            head, end, rest = data.partition(b"\r\n\r\n")
            data = _UPGRADE.sub(b"\r\nignored:", head) + end + rest
        super().data_received(data)
        if self._timer is not None and not self._head_is_there:
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES_MAX and not self.transport.is_closing():
                self.send_400_response("the head does not end")

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP, or too much of it, in OpenAI's shape; never into an answer that is under way."""
        answering = self._running
        if answering is not None and answering.response_started and not answering.response_complete:
            self.transport.abort()
            return
        error = ProtocolError(400, "this is not an HTTP/1.1 request that can be read", "invalid_http")
        if self._head_bytes > _HEAD_BYTES_MAX:
            error = ProtocolError(431, f"the request's head is larger than {_HEAD_BYTES_MAX} bytes", "head_too_large")
        body = error.body()
        lines = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[error.status] + lines + body)
        self.transport.close()

    def _expect_head(self) -> None:
        self._head_is_there, self._head_bytes = False, 0
        self._timer = self.loop.call_later(self.bounds.header_s_max, self._time_is_up)

    def _time_is_up(self) -> None:
        """One timer a request: it is only set again where a body is still coming when the head's time ends."""
        if self.transport.is_closing():
            return
        if not self._head_is_there:
            self.transport.abort()
        elif self._timer is not None:
            self._timer = self.loop.call_later(self.bounds.body_s_max, self._body_is_late)

    def _body_is_late(self) -> None:
        if not self.transport.is_closing():
            if self.cycle is self._running and self.cycle is not None and not self.cycle.response_started:
                self.transport.write(_TOO_SLOW)
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def on_message_begin(self) -> None:
        # A further request on a kept connection; the first one's timer runs since the connect.
        if self._timer is None:
            self._expect_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_is_there = True
        self._head_bytes = len(self.url) + sum(len(name) + len(value) + _HEADER_BYTES for name, value in self.headers)
        if self._head_bytes > _HEAD_BYTES_MAX:
            raise ValueError("head too large")  # ends in send_400_response
        self.scope["extensions"] = {DISCONNECT: OnDisconnect(self.transport.abort)}  # type: ignore[dict-item]
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._stop_timer()
        self._head_is_there, self._head_bytes = False, 0
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)
        # With pipelining, the request that runs is not the newest one, which is all that uvicorn tells.
        cycle = self._running
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            waiting: Any = cycle.scope["extensions"]
            if waiting[DISCONNECT].call is not None:
                waiting[DISCONNECT].call()


def _protocol(bounds: RequestBounds) -> type[BoundedProtocol]:
    """The protocol for these bounds, as a class: uvicorn constructs it without a place for arguments."""
    return type("Protocol", (BoundedProtocol,), {"bounds": bounds})


class Server(uvicorn.Server):
    """A uvicorn server that leaves signals to its composition root."""

    def capture_signals(self) -> Any:
        """No capture; the composition root stops the server by ``should_exit``."""
        return contextlib.nullcontext()


def server(app: Any, bounds: RequestBounds, drain_s: float = 10.0) -> Server:
    """A server for ``app``, not yet started; ``serve(sockets=[...])`` starts it."""
    return Server(
        uvicorn.Config(
            app,
            loop="uvloop",
            http=_protocol(bounds),
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="warning",
            server_header=False,
            date_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(drain_s),
        )
    )


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; a port of a server that has just ended can be taken at once. Raises OSError naming the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error
    listener.set_inheritable(True)
    return listener
