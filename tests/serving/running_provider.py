"""A simulated provider under its real server in a thread, and the few ways in which tests talk to it."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from serving.upstreams.simulated import Settings, make_server

MODEL = "simulated-frontier"
QUICK: dict[str, Any] = {"ttft_s": 0.0, "tokens_per_s": 100_000.0, "output_tokens": 8}


@dataclass
class Reply:
    """One answer in full."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The stream's events; its last line is kept as text."""
        lines = [line.removeprefix("data: ") for line in self.body.decode().split("\n\n") if line]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]


@dataclass
class Provider:
    """A provider that is running."""

    url: str

    def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        """One request on a connection of its own; ``body`` is JSON unless it is bytes."""

        async def run() -> Reply:
            data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
                session.request(method, self.url + path, data=io.BytesIO(data), headers=headers) as response,
            ):
                return Reply(response.status, response.headers, await response.read())

        return asyncio.run(run())

    def chat(self, content: str = "hello", **fields: Any) -> Reply:
        body = {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}
        return self.call("POST", "/v1/chat/completions", body)

    def change(self, **settings: Any) -> Reply:
        return self.call("PUT", "/simulated/settings", settings)

    def counters(self) -> dict[str, int]:
        return dict(self.call("GET", "/simulated/counters").json)

    def counters_when(self, ready: Callable[[dict[str, int]], bool]) -> dict[str, int]:
        """The counters as soon as they satisfy ``ready``, or as they are after five seconds."""
        deadline_s = time.monotonic() + 5
        while not ready(counters := self.counters()) and time.monotonic() < deadline_s:
            time.sleep(0.01)
        return counters


@contextmanager
def running(**settings: Any) -> Iterator[Provider]:
    """A provider on a free port, stopped at the end."""
    server = make_server("127.0.0.1", 0, Settings(**{**QUICK, **settings}))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.002)
        yield Provider(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
    finally:
        server.should_exit = True
        thread.join(10)
    assert not thread.is_alive(), "the server did not stop"
