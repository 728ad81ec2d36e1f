"""uvicorn with the bounds it lacks: time for headers, number of connections. uvloop and httptools, no access log."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from scheduler.config.demand import RequestBounds

_BACKLOG = 2048
_KEEP_ALIVE_S = 75


DISCONNECT = "baseload.disconnect"
_TOO_SLOW = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: 105\r\n\r\n"
    b'{"error":{"message":"the body did not arrive in time","type":"timeout_error","param":null,"code":"slow"}}'
)


class OnDisconnect:
    """ASGI extension ``baseload.disconnect``: who wants to know that the client has gone sets ``call``.

    The portable way is a task that waits in ``receive``; at a tenth of a millisecond per request it is too dear here.
    """

    __slots__ = ("call",)

    def __init__(self) -> None:
        self.call: Callable[[], object] | None = None


def _protocol(bounds: RequestBounds) -> type[HttpToolsProtocol]:
    """A protocol class for these bounds (uvicorn constructs it without a place for arguments)."""

    class BoundedProtocol(HttpToolsProtocol):
        """Ends connections whose head or body takes too long (slow loris), and those above the limit."""

        _timer: asyncio.TimerHandle | None = None
        _head_is_there = False
        _on_disconnect: OnDisconnect | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > bounds.connections_max:
                transport.abort()
                return
            self._expect_head()

        def _expect_head(self) -> None:
            self._head_is_there = False
            self._timer = self.loop.call_later(bounds.header_s_max, self._time_is_up)

        def _time_is_up(self) -> None:
            """One timer a request: it is only set again where a body is still coming when the head's time ends."""
            if self.transport.is_closing():
                return
            if not self._head_is_there:
                self.transport.abort()
            elif self._timer is not None:
                self._timer = self.loop.call_later(bounds.body_s_max, self._body_is_late)

        def _body_is_late(self) -> None:
            if not self.transport.is_closing():
                if self.cycle is not None and not self.cycle.response_started:
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
            self._on_disconnect = OnDisconnect()
            self.scope["extensions"] = {DISCONNECT: self._on_disconnect}  # type: ignore[typeddict-item]
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._stop_timer()
            super().on_message_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            waiting, cycle = self._on_disconnect, self.cycle
            super().connection_lost(exc)
            if waiting is not None and waiting.call is not None and cycle is not None and not cycle.response_complete:
                waiting.call()

    return BoundedProtocol


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
    """A bound socket; several gateways may share one address (SO_REUSEPORT). Raises OSError naming the address."""
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
