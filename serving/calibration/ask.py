"""One timed request through the gateway, and the gateway's own account of a pool.

CalibrationError(message, status)       the pool cannot be measured; ``status`` is the command's exit status
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import aiohttp
import msgspec

REFUSED, UNREACHABLE = 1, 3
_TAIL_BYTES = 16_384
_HEAD_BYTES_MAX = 1_048_576
_GAP_SHARE_MAX = 0.25
_ERROR_BYTES_MAX = 4096
_METRICS_BYTES_MAX = 16 * 1024 * 1024
_SAMPLE = re.compile(r"^(\w+)(?:\{([^}]*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class CalibrationError(Exception):
    """The pool cannot be measured; the text says why and what to do."""

    def __init__(self, message: str, status: int = REFUSED) -> None:
        super().__init__(message)
        self.status = status


class Answer(NamedTuple):
    """One request as its client saw it; instants on the event loop's clock, ``problem`` empty for a whole answer.

    ``gap_s_max``: the longest silence between its first token and its last.
    """

    asked_s: float
    first_s: float
    last_s: float
    offer: str
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    usd: float
    gap_s_max: float = 0.0
    problem: str = ""

    @property
    def steady(self) -> bool:
        """Tokens came as they were made. In bursts, somebody between engine and client was short of CPU, and the first
        token's instant says little."""
        return self.gap_s_max <= _GAP_SHARE_MAX * (self.last_s - self.first_s)

    @property
    def ttft_s(self) -> float:
        """Seconds to the first token."""
        return self.first_s - self.asked_s


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None
    cost: float | None = None


class _Delta(msgspec.Struct):
    role: str | None = None
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_event = msgspec.json.Decoder(_Event).decode


def _events(data: bytes) -> list[_Event]:
    """The whole events in ``data``; what is cut or is no such event is left out."""
    found = []
    for line in data.split(b"\n\n"):
        payload = line.removeprefix(b"data:").strip()
        if payload.startswith(b"{"):
            try:
                found.append(_event(payload))
            except (msgspec.DecodeError, RecursionError):
                continue
    return found


def _is_token(event: _Event) -> bool:
    """An event of a token: some engines tell the role before they have made one."""
    if not event.choices:
        return False
    choice = event.choices[0]
    only_role = choice.delta is not None and choice.delta.role is not None and not choice.delta.content
    return not only_role or choice.finish_reason is not None


class Gateway:
    """The gateway as one tenant sees it. ``headers`` go with every request."""

    def __init__(self, session: aiohttp.ClientSession, url: str, headers: Mapping[str, str]) -> None:
        self._session, self._url, self._headers = session, url.rstrip("/"), dict(headers)

    async def stream(self, path: str, body: Mapping[str, Any], timeout_s: float) -> Answer:
        """One streamed request. Never raises for what the gateway or the network does: see ``problem``."""
        clock = asyncio.get_running_loop().time
        asked_s = clock()
        offer, first_s, last_s, gap_s_max, tail = "", 0.0, 0.0, 0.0, b""
        try:
            async with self._session.post(
                self._url + path,
                data=msgspec.json.encode({**body, "stream": True, "stream_options": {"include_usage": True}}),
                headers={**self._headers, "content-type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=timeout_s),
            ) as response:
                offer = response.headers.get("x-baseload-offer", "")
                if response.status != 200:
                    return _failed(asked_s, offer, await _told(response))
                async for chunk in response.content.iter_any():
                    now_s = clock()
                    tail += chunk
                    if not first_s and any(map(_is_token, _events(tail))):
                        first_s = now_s
                    if b'"delta"' in chunk or b'"text"' in chunk:  # the usage and [DONE] come after the last token
                        gap_s_max = max(gap_s_max, now_s - last_s) if last_s and first_s else 0.0
                        last_s = now_s
                    if len(tail) > (_TAIL_BYTES if first_s else _HEAD_BYTES_MAX):
                        tail = tail[-_TAIL_BYTES:]
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return _failed(asked_s, offer, f"{type(error).__name__}: {error}".rstrip(": "))
        usage = next((event.usage for event in reversed(_events(tail)) if event.usage), None)
        if b"data: [DONE]" not in tail[-64:] or any(event.error for event in _events(tail)):
            return _failed(asked_s, offer, "the answer broke off")
        if usage is None or not first_s:
            return _failed(asked_s, offer, "the answer has no usage, or no token")
        cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0
        return Answer(
            asked_s,
            first_s,
            max(first_s, last_s),
            offer,
            usage.prompt_tokens,
            cached or 0,
            usage.completion_tokens,
            usage.cost or 0.0,
            gap_s_max,
        )

    async def explain(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Where such a request would go. Raises CalibrationError with the gateway's own words."""
        raw = await self._call("POST", "/v1/explain", msgspec.json.encode(body))
        try:
            found: dict[str, Any] = msgspec.json.decode(raw, type=dict[str, Any])
            return found
        except msgspec.DecodeError:
            raise CalibrationError(f"{self._url} does not answer as a gateway of Baseload does") from None

    async def gauges(self, pool: str) -> dict[tuple[str, str], float]:
        """Samples of /metrics about ``pool``, by metric and its other label's value (none: '')."""
        found: dict[tuple[str, str], float] = {}
        for name, labels, value in await self.samples():
            if labels.pop("pool", None) == pool:
                found[name, next(iter(labels.values()), "")] = value
        return found

    async def samples(self) -> list[tuple[str, dict[str, str], float]]:
        """Every sample of /metrics: metric, labels, value. Raises CalibrationError where there are none to be had."""
        text = (await self._call("GET", "/metrics", None)).decode("utf-8", "replace")
        found = []
        for match in filter(None, map(_SAMPLE.match, text.splitlines())):
            try:
                found.append((match[1], dict(_LABEL.findall(match[2] or "")), float(match[3])))
            except ValueError:
                continue
        return found

    async def _call(self, method: str, path: str, data: bytes | None) -> bytes:
        try:
            async with self._session.request(
                method, self._url + path, data=data, headers=self._headers, timeout=aiohttp.ClientTimeout(total=10)
            ) as response:
                if response.status != 200:
                    raise CalibrationError(f"the gateway refuses: {await _told(response)}")
                return await _bounded(response, _METRICS_BYTES_MAX)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise CalibrationError(
                f"cannot reach {self._url}: {error or type(error).__name__} (is `baseload serve` running?)", UNREACHABLE
            ) from None


def _failed(asked_s: float, offer: str, problem: str) -> Answer:
    return Answer(asked_s, 0.0, 0.0, offer, 0, 0, 0, 0.0, problem=problem)


async def _bounded(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    """The body up to ``bytes_max``."""
    data = b""
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) >= bytes_max:
            break
    return data[:bytes_max]


async def _told(response: aiohttp.ClientResponse) -> str:
    """What an error answer says of itself."""
    body = await _bounded(response, _ERROR_BYTES_MAX)
    try:
        return f"HTTP {response.status}: {msgspec.json.decode(body)['error']['message']}"
    except (msgspec.DecodeError, KeyError, TypeError, RecursionError):
        return f"HTTP {response.status}: {body[:200].decode('utf-8', 'replace')}"
