"""uvicorn with the bounds it lacks: time for headers, number of connections. uvloop and httptools, no access log."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from scheduler.config.demand import RequestBounds

_BACKLOG = 2048
_KEEP_ALIVE_S = 75


def _protocol(bounds: RequestBounds) -> type[HttpToolsProtocol]:
    """A protocol class for these bounds (uvicorn constructs it without a place for arguments)."""

    class BoundedProtocol(HttpToolsProtocol):
        """Closes connections whose request head takes too long (slow loris), and those above the limit."""

        _head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > bounds.connections_max:
                transport.abort()
                return
            self._await_head()

        def _await_head(self) -> None:
            self._head_timer = self.loop.call_later(bounds.header_s_max, self._too_slow)

        def _too_slow(self) -> None:
            if not self.transport.is_closing():
                self.transport.abort()

        def _head_done(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def on_message_begin(self) -> None:
            # A further request on a kept connection; the first one's timer runs since the connect.
            if self._head_timer is None:
                self._await_head()
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._head_done()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head_done()
            super().connection_lost(exc)

    return BoundedProtocol


class Server(uvicorn.Server):
    """A uvicorn server that leaves signals to its composition root."""

    def install_signal_handlers(self) -> None:
        """Nothing: see ``run``."""

    def capture_signals(self) -> Any:
        """No capture; the composition root stops the server by ``should_exit``."""
        import contextlib

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
