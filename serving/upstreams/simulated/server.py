"""A stand-in for a frontier API: an OpenAI-compatible server that answers filler at a set pace, price and reliability.

Everything it says is marked as simulated. For load tests, for rehearsing failures, and for trying the product out
without a key. Run it with ``python -m serving.upstreams.simulated --port 8090 --ttft-s 0.3 --tokens-per-s 80``; every
setting is an option, and PUT /simulated/settings changes it later.

How answers end too early: ``cut_after_tokens`` closes the connection in the middle of an answer, after what was sent
has arrived and without the chunk that ends a body. ``outage`` "refuse" aborts it before any byte of an answer.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

import msgspec
import uvicorn

from serving.upstreams.simulated.app import SimulatedProvider
from serving.upstreams.simulated.connection import TransportShowingHttp
from serving.upstreams.simulated.settings import Settings, merged

KEEP_ALIVE_S = 75  # longer than clients keep idle connections, so that none is closed under a request
STOP_S = 2


def make_app(settings: Settings) -> SimulatedProvider:
    """The provider as an ASGI application. Raises msgspec.ValidationError for settings out of bounds.

    Serve it through ``make_server`` where connections have to break as a broken provider's would: that needs the
    HTTP protocol chosen there.
    """
    return SimulatedProvider(settings)


class SimulatedServer(uvicorn.Server):
    """uvicorn's server, made to say when it is ready and to stop at once and with status 0."""

    announce = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, then says so in one line if asked to."""
        await super().startup(sockets)
        if self.announce and self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            sys.stdout.write(f"[simulated] provider ready on http://{host}:{port}\n")
            sys.stdout.flush()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stops without waiting for answers under way, which can be minutes long and are worth nothing."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, TransportShowingHttp):
                connection.transport.abort()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT stop the server; uvicorn's own way would raise them again once it has stopped."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(_signal: int, _frame: FrameType | None) -> None:
            self.should_exit = True

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def make_server(host: str, port: int, settings: Settings) -> SimulatedServer:
    """A server that has not started: call ``run()``, and set ``should_exit`` from anywhere to stop it.

    Port 0 takes a free one. Run in a thread, it leaves the process's signals alone.
    """
    config = uvicorn.Config(
        make_app(settings),
        host=host,
        port=port,
        loop="uvloop",
        http=TransportShowingHttp,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="error",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_S,
    )
    return SimulatedServer(config)


def serve(host: str, port: int, settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT; prints one line when ready. Raises SystemExit if it cannot listen."""
    server = make_server(host, port, settings)
    server.announce = True
    server.run()


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: one option for each setting, its name with dashes; ``models`` separated by commas."""
    parser = argparse.ArgumentParser(prog="python -m serving.upstreams.simulated", description="A simulated LLM API.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090)
    fields = msgspec.structs.fields(Settings)
    for field in fields:
        parser.add_argument(f"--{field.name.replace('_', '-')}", help=f"default: {field.default!r}")
    options = vars(parser.parse_args(argv))
    host, port = options.pop("host"), options.pop("port")
    changes = {name: value for name, value in options.items() if value is not None}
    if "models" in changes:
        changes["models"] = changes["models"].split(",")
    try:
        settings = merged(Settings(), changes, strict=False)
    except msgspec.ValidationError as error:
        parser.error(str(error))
    serve(host, port, settings)
    return 0
