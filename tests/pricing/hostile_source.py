"""A source of prices that misbehaves on demand: a real HTTP server on loopback, one behaviour a path.

    with hostile() as source:
        source.answer("/prices", b"[]", etag='"1"')
        source.trickle("/slow", b"[]")
        ... http.get(source.url + "/prices") ...
        assert source.asked[0].query == {}

A path that was not given a behaviour answers 404. Leaving the block wakes whatever still waits, and joins every thread.
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

JSON = "application/json"


class Asked(NamedTuple):
    """One request; names of headers in lower case. ``target`` is the request line's (absolute through a proxy)."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    target: str
    body: bytes


@dataclass
class Source:
    """The server's behaviours, which a test switches while it runs, and what it was asked."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    _behaviours: dict[str, Callable[[_Handler], None]] = field(default_factory=dict)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def answer(
        self,
        path: str,
        body: bytes,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        etag: str | None = None,
        last_modified: str | None = None,
    ) -> None:
        """Answer so; 304 to an If-None-Match (or If-Modified-Since) that equals ``etag`` (or ``last_modified``)."""
        sent = {"Content-Type": JSON, "Content-Length": str(len(body)), **(headers or {})}
        sent |= {"ETag": etag} if etag else {}
        sent |= {"Last-Modified": last_modified} if last_modified else {}
        self._behaviours[path] = partial(_answer, body=body, status=status, headers=sent)

    def not_modified(self, path: str) -> None:
        """304 to everybody, whether or not they sent a validator."""
        self.answer(path, b"", 304)

    def busy(self, path: str, retry_after: str = "", status: int = 429) -> None:
        """429 (or 503) with Retry-After: seconds or an HTTP date."""
        self.answer(path, b"slow down", status, {"Retry-After": retry_after} if retry_after else {})

    def broken(self, path: str, status: int = 500, body: bytes = b"oops") -> None:
        """An internal error."""
        self.answer(path, body, status, {"Content-Type": "text/plain"})

    def redirect(self, path: str, to: str, status: int = 302) -> None:
        """A redirect; ``to`` equal to ``path`` is a loop."""
        self.answer(path, b"", status, {"Location": to})

    def gzip(self, path: str, body: bytes, cut: int = 0) -> None:
        """``body`` compressed; a bomb where it is long and dull; ``cut`` bytes are missing at the end."""
        packed = gzip.compress(body)
        self.answer(path, packed[: len(packed) - cut], headers={"Content-Encoding": "gzip"})

    def truncate(self, path: str, body: bytes, promised: int) -> None:
        """Promise more bytes than come, and close."""
        self.answer(path, body, headers={"Content-Length": str(promised)})

    def silent(self, path: str) -> None:
        """Accept and never answer."""
        self._behaviours[path] = _silent

    def hang_up(self, path: str) -> None:
        """Close without a word."""
        self._behaviours[path] = lambda handler: None

    def trickle(self, path: str, body: bytes, every_s: float = 1.0, headers_too: bool = False) -> None:
        """One byte of the body (or of the whole answer) every ``every_s`` seconds, without ever being idle long."""
        self._behaviours[path] = partial(_trickle, body=body, every_s=every_s, headers_too=headers_too)

    def endless(self, path: str) -> None:
        """A body without a length that never ends."""
        self._behaviours[path] = _endless

    def raw(self, path: str, answer: bytes) -> None:
        """These very bytes on the wire, status line included."""
        self._behaviours[path] = lambda handler: handler.put(answer)

    def clear(self) -> None:
        """Forget the behaviours and what was asked."""
        self._behaviours.clear()
        self.asked.clear()

    def handle(self, handler: _Handler) -> None:
        """Note one request and behave as its path was told to (called by the server's threads)."""
        split = urlsplit(handler.path)
        headers = {name.lower(): value for name, value in handler.headers.items()}
        body = handler.rfile.read(int(headers.get("content-length", "0")))
        query = dict(parse_qsl(split.query, keep_blank_values=True))
        self.asked.append(Asked(handler.command, split.path, query, headers, handler.path, body))
        self._behaviours.get(split.path, _not_found)(handler)

    def wait(self, seconds: float) -> bool:
        """Wait; True when the server is being stopped."""
        return self._stopping.wait(seconds)

    def stop(self) -> None:
        """Wake every waiting behaviour."""
        self._stopping.set()


class _Handler(BaseHTTPRequestHandler):
    """HTTP/1.0: one request a connection, so that closing is part of each behaviour."""

    source: Source

    def put(self, data: bytes) -> None:
        self.wfile.write(data)

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def do_GET(self) -> None:
        with suppress(OSError):  # clients that lose patience are what these tests are about
            self.source.handle(self)

    do_POST = do_GET

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close() joins them
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that a client reset is no news."""


def _answer(handler: _Handler, body: bytes, status: int, headers: Mapping[str, str]) -> None:
    etag, modified = headers.get("ETag"), headers.get("Last-Modified")
    matches = etag is not None and handler.headers.get("If-None-Match") == etag
    if matches or (modified is not None and handler.headers.get("If-Modified-Since") == modified):
        handler.head(304, {name: headers[name] for name in ("ETag", "Last-Modified") if name in headers})
        return
    handler.head(status, headers)
    handler.put(body)


def _not_found(handler: _Handler) -> None:
    handler.head(404, {"Content-Type": "text/plain", "Content-Length": "0"})


def _silent(handler: _Handler) -> None:
    while not handler.source.wait(1.0):
        pass


def _trickle(handler: _Handler, body: bytes, every_s: float, headers_too: bool) -> None:
    head = f"HTTP/1.0 200 OK\r\nContent-Type: {JSON}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    if not headers_too:
        handler.put(head)
    for byte in head + body if headers_too else body:
        if handler.source.wait(every_s):
            return
        handler.put(bytes([byte]))


def _endless(handler: _Handler) -> None:
    handler.head(200, {"Content-Type": JSON})
    while not handler.source.wait(0.0):
        handler.put(b"[" * 65536)


@contextmanager
def hostile(host: str = "127.0.0.1") -> Iterator[Source]:
    """A running source on a free port of loopback; ``host`` may be another of its addresses."""
    source = Source()
    server = _Server((host, 0), type("_BoundHandler", (_Handler,), {"source": source}))
    source.url = f"http://{host}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield source
    finally:
        source.stop()
        server.shutdown()
        thread.join()
        server.server_close()
