"""One streamed request as its client sees it: when the first token came and the last, from where, and at what cost."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

import aiohttp
import msgspec

from serving.replay.errors import UNREACHABLE, ReplayError
from serving.sse import StreamReader
from serving.upstreams import UpstreamError

_ERROR_BYTES_MAX = 4096
_PROBE_S = 10.0


class Seen(NamedTuple):
    """Instants on the event loop's clock, 0 for what never came. ``problem`` is empty for a whole answer.

    ``status``: the HTTP status, 0 where there was none. ``usd``: what the gateway says the answer cost.
    """

    status: int = 0
    source: str = ""
    offer: str = ""
    decision_id: str = ""
    first_s: float = 0.0
    last_s: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    problem: str = ""


class _Delta(msgspec.Struct):
    content: str | None = None
    tool_calls: Any = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []


_event = msgspec.json.Decoder(_Event).decode


def _has_token(events: bytes) -> bool:
    """Some engines tell the role before they have made a token: that is no first token yet."""
    for event in events.split(b"\n\n"):
        payload = event.removeprefix(b"data:").strip()
        if not payload.startswith(b"{"):
            continue
        try:
            choices = _event(payload).choices
        except (msgspec.DecodeError, RecursionError):
            continue
        for choice in choices:
            if choice.finish_reason or (choice.delta and (choice.delta.content or choice.delta.tool_calls)):
                return True
    return False


class Client:
    """Asks one gateway."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url.rstrip("/")

    async def chat(self, body: Mapping[str, Any], headers: Mapping[str, str], timeout_s: float) -> Seen:
        """One chat completion. Never raises for what the gateway or the network does: see ``Seen.problem``."""
        clock, seen, reader = asyncio.get_running_loop().time, Seen(), StreamReader()
        whole = {**body, "stream": True, "stream_options": {"include_usage": True}}
        try:
            async with self._session.post(
                self._url + "/v1/chat/completions",
                data=msgspec.json.encode(whole),
                headers={**headers, "content-type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=timeout_s),
            ) as response:
                seen = _of_head(response)
                if response.status != 200:
                    return seen._replace(problem=await _told(response))
                async for chunk in response.content.iter_any():
                    events_before = reader.events
                    relayed = reader.feed(chunk)
                    if reader.events > events_before and (seen.first_s or _has_token(relayed)):
                        now_s = clock()
                        seen = seen._replace(first_s=seen.first_s or now_s, last_s=now_s)
        except (aiohttp.ClientError, OSError, TimeoutError, UpstreamError) as error:
            return seen._replace(problem=f"{type(error).__name__}: {error}".rstrip(": "))
        return _closed(seen, reader)

    async def ready(self) -> None:
        """Raises ReplayError where no gateway answers, or one that is not ready."""
        try:
            timeout = aiohttp.ClientTimeout(total=_PROBE_S)
            async with self._session.get(self._url + "/readyz", timeout=timeout) as response:
                if response.status != 200:
                    raise ReplayError(f"the gateway at {self._url} is not ready: {await _told(response)}")
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            text = f"cannot reach {self._url}: {error or type(error).__name__} (is `baseload serve` running?)"
            raise ReplayError(text, UNREACHABLE) from None


def _of_head(response: aiohttp.ClientResponse) -> Seen:
    told = response.headers
    source, offer = told.get("x-baseload-source", ""), told.get("x-baseload-offer", "")
    return Seen(response.status, source, offer, told.get("x-baseload-decision-id", ""))


def _closed(seen: Seen, reader: StreamReader) -> Seen:
    """The end of a stream: usage and cost, or what is missing."""
    if reader.usage is not None:
        usage = reader.usage
        cost = reader.usage_event["usage"].get("cost") if reader.usage_event else None
        seen = seen._replace(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            usd=float(cost) if isinstance(cost, int | float) else 0.0,
        )
    if reader.error or not reader.done:
        return seen._replace(problem="the answer broke off")
    if reader.usage is None or not seen.first_s:
        return seen._replace(problem="the answer has no usage, or no token")
    return seen


async def _told(response: aiohttp.ClientResponse) -> str:
    """What an answer other than 200 says of itself."""
    body = b""
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) >= _ERROR_BYTES_MAX:
            break
    try:
        found = msgspec.json.decode(body[:_ERROR_BYTES_MAX])
        text = found["error"]["message"] if "error" in found else "; ".join(found["problems"])
        return f"HTTP {response.status}: {text}"
    except (msgspec.DecodeError, KeyError, TypeError, RecursionError):
        return f"HTTP {response.status}: {body[:200].decode('utf-8', 'replace')}"
