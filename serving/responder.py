"""What the client gets: heads, bodies, errors, streams. One answer per request, whatever happens."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from scheduler.core.market import Decision, LedgerEntry, Outcome
from scheduler.core.supply import Offer
from serving.protocol import ProtocolError, error_body
from serving.routes import Route
from serving.sse import DONE, StreamReader, error_event, usage_with_cost

Send = Callable[[Mapping[str, Any]], Awaitable[None]]
RawHeaders = list[tuple[bytes, bytes]]

_LAST_WORD_S = 10.0
_JSON = (b"content-type", b"application/json")


def source_headers(
    decision: Decision, outcomes: Sequence[Outcome], offer: Offer, usd: float, routes: Mapping[str, Route]
) -> RawHeaders:
    """Where it ran, why, and what it costs; litellm's names beside ours, since others ingest them."""
    fallbacks = [outcome for outcome in outcomes if outcome.offer_id != offer.id]
    usd_text = b"%.10f" % usd
    headers = [
        (b"x-baseload-source", offer.kind.encode()),
        (b"x-baseload-model", offer.model.encode()),
        (b"x-baseload-offer", offer.id.encode()),
        (b"x-baseload-decision-id", decision.request.id.encode()),
        (b"x-baseload-usd", usd_text),
        (b"x-baseload-reason", reason(decision, fallbacks, offer).encode("latin-1", "replace")),
        (b"x-baseload-market-version", b"%d" % decision.market_version),
        (b"x-litellm-response-cost", usd_text),
        (b"x-litellm-model-id", offer.id.encode()),
        (b"x-litellm-call-id", decision.request.id.encode()),
        (b"x-litellm-attempted-fallbacks", b"%d" % len(fallbacks)),
    ]
    if routes[offer.id].simulated:
        headers.append((b"x-baseload-simulated", b"true"))
    return headers


def debug_headers(decision: Decision, offer: Offer) -> RawHeaders:
    """On ``x-baseload-debug: true``: the terms of the quote in USD, the merit order and the rejections by name."""
    quote = next(quote for quote in decision.merit_order if quote.offer is offer)
    order = {quote.offer.id: quote.usd for quote in decision.merit_order}
    rejected = {rejection.offer_id: rejection.reason for rejection in decision.rejected}
    return [
        (b"x-baseload-terms", msgspec.json.encode(quote.terms)),
        (b"x-baseload-merit-order", msgspec.json.encode(order)),
        (b"x-baseload-rejected", msgspec.json.encode(rejected)),
    ]


def reason(decision: Decision, fallbacks: Sequence[Outcome], offer: Offer) -> str:
    """One clear sentence: why this source."""
    if fallbacks:
        last = fallbacks[-1]
        return f"fallback: {last.offer_id} {last.status} ({last.error})"
    quotes = decision.merit_order
    if len(quotes) == 1:
        return f"only eligible source of {len(decision.rejected) + 1}"
    mine, other = quotes[0], next(q for q in quotes if q.offer is not offer)
    return f"cheapest expected cost ${mine.usd:.6f}; next {other.offer.id} ${other.usd:.6f}"


class Responder:
    """Writes one HTTP answer through ASGI's ``send``. ``started`` once the head has left."""

    def __init__(self, send: Send, routes: Mapping[str, Route]) -> None:
        self._send, self._routes = send, routes
        self.wants_usage = False
        self.debug = False
        self.abort: Callable[[], object] | None = None
        self.started = False

    async def plain(self, status: int, body: bytes, headers: RawHeaders) -> None:
        """A whole answer at once."""
        self.started = True
        length = (b"content-length", b"%d" % len(body))
        await self._send({"type": "http.response.start", "status": status, "headers": [_JSON, length, *headers]})
        await self._send({"type": "http.response.body", "body": body})

    async def text(self, body: bytes) -> None:
        """Prometheus text."""
        self.started = True
        headers = [
            (b"content-type", b"text/plain; version=0.0.4; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def refused(self, status: int, body: bytes, request_id: str) -> None:
        """A source's verdict on the request itself, in OpenAI's shape whatever shape it came in."""
        try:
            shaped = isinstance(msgspec.json.decode(body).get("error"), dict)
        except (msgspec.DecodeError, AttributeError, RecursionError):
            shaped = False
        if not shaped:
            body = error_body(f"the source refused the request (HTTP {status})", "invalid_request_error", "refused")
        await self.plain(status, body, [(b"x-baseload-decision-id", request_id.encode())])

    async def error(self, error: ProtocolError, headers: RawHeaders | None = None) -> None:
        """An OpenAI-shaped error, with Retry-After where asking again may help."""
        headers = list(headers or [])
        if error.retry_after_s > 0:
            headers.append((b"retry-after", b"%d" % math.ceil(error.retry_after_s)))
        await self.plain(error.status, error.body(), headers)

    async def start_stream(self, decision: Decision, outcomes: Sequence[Outcome], offer: Offer) -> None:
        """The head of a stream; its USD is the estimate."""
        self.started = True
        usd = next(quote.usd_cash for quote in decision.merit_order if quote.offer is offer)
        headers = source_headers(decision, outcomes, offer, usd, self._routes)
        if self.debug:
            headers += debug_headers(decision, offer)
        headers += [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def relay(self, data: bytes) -> None:
        """Bytes of a stream, as they come."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end_stream(self, reader: StreamReader, entry: LedgerEntry) -> None:
        """The end that was held back: usage with the cost (if the client asked for usage), then [DONE]."""
        tail = DONE
        if self.wants_usage and reader.usage_event is not None:
            about = {
                "source": entry.kind,
                "model": entry.model,
                "offer": entry.offer_id,
                "decision_id": entry.request_id,
            }
            if self._routes[entry.offer_id].simulated:
                about["simulated"] = "true"
            tail = usage_with_cost(reader.usage_event, entry.usd_avoidable, about) + tail
        await self._last(tail)

    async def break_stream(self, message: str) -> None:
        """After the first byte nothing is switched: the client hears that the answer is not whole."""
        await self._last(error_event(error_body(message, "api_error", "stream_interrupted")))

    async def _last(self, body: bytes) -> None:
        """The last bytes of a stream. A client that does not read them must not hold a place in the gateway for ever."""
        try:
            async with asyncio.timeout(_LAST_WORD_S):
                await self._send({"type": "http.response.body", "body": body})
        except TimeoutError:
            if self.abort is not None:
                self.abort()
