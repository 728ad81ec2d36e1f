"""Feeds that drag a large library along run in a process of their own: bounded in time and memory, and gone afterwards.

    python -m pricing.isolated < question > answer        MessagePack, which knows NaN, so that one bad price is one

The process that keeps the prices never imports those libraries, and a library that hangs cannot hold it up.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
from typing import Any

import msgspec

from pricing import feeds
from pricing.feeds import FeedError, FeedUnavailable
from pricing.http import BoundedHttp, OfflineHttp
from pricing.listing import Listing

MEMORY_BYTES_MAX = 4 * 1024**3
ANSWER_BYTES_MAX = 64 * 1024 * 1024
# What the process may take beyond the network's own time: to start, import and parse.
EXTRA_S = 30.0


class Question(msgspec.Struct, frozen=True):
    """One poll."""

    kind: str
    options: dict[str, Any]
    now_s: float
    timeout_s: float
    bytes_max: int
    offline: bool
    validators: dict[str, dict[str, str]] = {}


class Answer(msgspec.Struct, frozen=True):
    """``listings`` None: nothing has changed. ``error``: the poll brought nothing."""

    listings: list[Listing] | None = None
    error: str = ""
    unavailable: bool = False
    retry_after_s: float = 0.0
    validators: dict[str, dict[str, str]] = {}


def answer(question: Question) -> Answer:
    """Poll the feed here and now."""
    http = OfflineHttp() if question.offline else BoundedHttp(question.timeout_s, question.bytes_max)
    if isinstance(http, BoundedHttp):
        http.validators.update(question.validators)
    try:
        found = feeds.kind(question.kind)
        listings = found.feed(http, feeds.options_of(found, question.options), question.now_s)
        taken = None if listings is None else list(listings)
    except FeedUnavailable as error:
        return Answer(error=str(error), unavailable=True, retry_after_s=error.retry_after_s)
    except (FeedError, ValueError) as error:
        return Answer(error=str(error))
    if isinstance(http, BoundedHttp):
        http.accept()
        return Answer(taken, validators=http.validators)
    return Answer(taken)


async def ask(question: Question) -> Answer:
    """Poll in a process of its own. Raises FeedError."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "pricing.isolated",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(question.timeout_s + EXTRA_S):
            body = await _talk(process, msgspec.msgpack.encode(question))
    except TimeoutError:
        raise FeedUnavailable(f"the feed's process took longer than {question.timeout_s + EXTRA_S:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    try:
        result = msgspec.msgpack.decode(body, type=Answer)
    except msgspec.DecodeError:
        raise FeedError(f"the feed's process ended with status {process.returncode} and no answer") from None
    if result.unavailable:
        raise FeedUnavailable(result.error, result.retry_after_s)
    if result.error:
        raise FeedError(result.error)
    return result


async def _talk(process: asyncio.subprocess.Process, question: bytes) -> bytes:
    if process.stdin is None or process.stdout is None:
        raise FeedError("the feed's process has no pipes")
    with contextlib.suppress(ConnectionError):
        process.stdin.write(question)
        await process.stdin.drain()
    process.stdin.close()
    parts: list[bytes] = []
    size = 0
    while chunk := await process.stdout.read(65536):
        size += len(chunk)
        if size > ANSWER_BYTES_MAX:
            raise FeedError(f"the feed lists more than {ANSWER_BYTES_MAX} bytes")
        parts.append(chunk)
    await process.wait()
    return b"".join(parts)


def main() -> int:
    """Answer the question on standard input."""
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    question = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Question)
    output = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not become part of the answer
    data = msgspec.msgpack.encode(answer(question))
    while data:
        data = data[os.write(output, data) :]
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
