"""A source that takes any body as it is, remembers it, and answers the same short text to everything."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

USAGE = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
JSON = [(b"content-type", b"application/json")]


@dataclass
class Source:
    """What was asked: path, headers and raw body of each request. ``replies`` are given first, in their order."""

    url: str = ""
    asked: list[tuple[str, dict[bytes, bytes], bytes]] = field(default_factory=list)
    replies: list[tuple[int, list[tuple[bytes, bytes]], bytes]] = field(default_factory=list)

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        status, headers, answer = 404, JSON, b"{}"  # no counters here: alive all the same
        if scope["method"] == "POST":
            self.asked.append((scope["path"], dict(scope["headers"]), body))
            status, headers, answer = self.replies.pop(0) if self.replies else _answer(scope["path"], body)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


def _answer(path: str, body: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    if path == "/v1/embeddings":
        return 200, JSON, json.dumps({"object": "list", "data": [], "usage": {"prompt_tokens": 10}}).encode()
    choice = {"index": 0, "message": {"role": "assistant", "content": "recorded"}, "finish_reason": "stop"}
    if json.loads(body).get("stream"):
        events: list[Any] = [{"choices": [{**choice, "delta": {"content": "recorded"}}], "usage": None}]
        events.append({"choices": [], "usage": USAGE})
        lines = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
        return 200, [(b"content-type", b"text/event-stream")], lines + b"data: [DONE]\n\n"
    return 200, JSON, json.dumps({"choices": [choice], "usage": USAGE}).encode()


@contextmanager
def recording() -> Iterator[Source]:
    """A recording source on a free port, stopped at the end."""
    source = Source()
    config = uvicorn.Config(source, port=0, lifespan="off", ws="none", access_log=False, log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the source did not start"
            time.sleep(0.002)
        source.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield source
    finally:
        server.should_exit = True
        thread.join(10)
    assert not thread.is_alive(), "the source did not stop"
