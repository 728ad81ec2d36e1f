"""An ASGI server in memory: one request, its answer, and a client that may go away at any time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Application = Callable[[Mapping[str, Any], Any, Any], Awaitable[None]]


@dataclass
class Exchange:
    """One request and everything that came back. ``gone_s``: seconds after which the client leaves, None for never."""

    path: str
    headers: list[tuple[bytes, bytes]]
    body_parts: list[bytes]
    gone_s: float | None = None
    client: tuple[str, int] | None = ("127.0.0.1", 5)
    method: str = "POST"
    sent: list[Mapping[str, Any]] = field(default_factory=list)
    on_bytes: Callable[[bytes], None] = lambda data: None
    began_s: float = 0.0
    ended_s: float = 0.0
    gone: bool = False

    async def run(self, app: Application) -> None:
        """Send the request and let the application answer; returns when the application does."""
        loop = asyncio.get_running_loop()
        self.began_s = loop.time()
        left, parts = asyncio.Event(), list(self.body_parts)

        def leave() -> None:
            self.gone = True
            left.set()

        async def receive() -> Mapping[str, Any]:
            if parts and not self.gone:
                await asyncio.sleep(0)
                return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Mapping[str, Any]) -> None:
            await asyncio.sleep(0)
            self.sent.append(message)
            if message["type"] == "http.response.body" and message.get("body"):
                self.on_bytes(message["body"])
            if message["type"] == "http.response.body" and not message.get("more_body"):
                left.set()  # as a server does: after the answer, receive tells of nothing but the end

        timer = loop.call_later(self.gone_s, leave) if self.gone_s is not None else None
        length = (b"content-length", b"%d" % sum(map(len, self.body_parts)))
        scope = {
            "type": "http",
            "method": self.method,
            "path": self.path,
            "headers": [length, *self.headers],
            "client": self.client,
        }
        try:
            await app(scope, receive, send)
        finally:
            self.ended_s = loop.time()
            if timer is not None:
                timer.cancel()

    @property
    def status(self) -> int | None:
        """HTTP status, or None where nothing came."""
        return next((m["status"] for m in self.sent if m["type"] == "http.response.start"), None)

    @property
    def response_headers(self) -> dict[bytes, bytes]:
        """Headers of the answer."""
        return dict(next((m["headers"] for m in self.sent if m["type"] == "http.response.start"), []))

    @property
    def body(self) -> bytes:
        """All bytes of the answer."""
        return b"".join(m.get("body", b"") for m in self.sent if m["type"] == "http.response.body")

    def answered_once(self) -> bool:
        """Exactly one head, then bodies, of which exactly the last is final."""
        kinds = [m["type"] for m in self.sent]
        finals = [m["type"] == "http.response.body" and not m.get("more_body") for m in self.sent]
        heads = kinds.count("http.response.start")
        return heads == 1 and kinds[0] == "http.response.start" and finals.count(True) == 1 and finals[-1]

    def answered_once_too_often(self) -> bool:
        """Two heads, two ends, or anything after the end: wrong even where the client has gone."""
        kinds = [m["type"] for m in self.sent]
        finals = [m["type"] == "http.response.body" and not m.get("more_body") for m in self.sent]
        return kinds.count("http.response.start") > 1 or any(finals[:-1])
