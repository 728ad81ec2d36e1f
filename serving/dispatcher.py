"""The I/O loop around ``next_attempt``: try, relay, record. It judges nothing; the core decided the order once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from scheduler.core import costs
from scheduler.core.dispatch import Attempt, GiveUp, next_attempt
from scheduler.core.market import Decision, Outcome, Policy, Quote, Status
from scheduler.core.supply import Offer, Usage
from scheduler.core.tickets import ticket
from serving.accounting import Accountant
from serving.book import Book
from serving.gate.client import GateBounce, GateClient, Grant
from serving.learned import Learned
from serving.protocol import BYTES_PER_TOKEN, Parsed
from serving.responder import Responder
from serving.routes import Route
from serving.sse import StreamReader, usage_of
from serving.tickets import Wants, enter
from serving.upstreams import Reply, Transport, UpstreamError
from serving.view import View

# A source that has not begun to answer after this many times the class's objective is left, if another remains.
_TTFT_PATIENCE = 4.0
# An objective below this, or below what the source usually needs, is a wish: it must not trip the breaker for all.
_TTFT_S_MIN = 0.125


@dataclass(frozen=True, slots=True)
class Services:
    """What every request shares in one gateway process."""

    view: View
    routes: Mapping[str, Route]
    transports: Mapping[str, Transport]
    gates: Mapping[str, GateClient]
    accountant: Accountant
    policy: Policy
    learned: Learned
    wants: Wants
    clock: Callable[[], float]


class Dispatch:
    """One request's way through its merit order."""

    def __init__(self, services: Services, decision: Decision, parsed: Parsed, path: str, responder: Responder) -> None:
        self._services, self.decision, self._parsed = services, decision, parsed
        self._path, self._responder = path, responder
        self.outcomes: list[Outcome] = []
        self.body = b""
        self.refusal: tuple[int, bytes] | None = None
        self.reader: StreamReader | None = None

    async def run(self) -> GiveUp | None:
        """Walk the merit order. None: an answer was (at least begun to be) relayed; its outcome is the last one.

        A cancelled run (the client has gone) leaves a ``cancelled`` outcome behind.
        """
        while True:
            step = next_attempt(self.decision, self.outcomes, self._services.policy, self._services.view.retry_tokens)
            if isinstance(step, GiveUp):
                return step
            outcome = await self._attempt(step)
            if outcome.status == "complete" or outcome.first_byte_sent or outcome.status == "refused":
                return None

    async def _attempt(self, step: Attempt) -> Outcome:
        services, quote = self._services, step.quote
        offer, request = quote.offer, self.decision.request
        route = services.routes[offer.id]
        started_s = services.clock()
        self.reader = None  # what an earlier attempt streamed is not this one's
        book = Book(offer, started_s, services.clock)
        usd_reserved = max(quote.usd_cash, quote.usd_most)
        services.view.begin(offer, request.tenant, usd_reserved, costs.work_s(request, offer))
        grant: Grant | None = None
        reply: Reply | None = None
        outcome: Outcome | None = None
        unreachable = asked = False
        # Of this attempt, not of the request: a late answer to an earlier attempt must find nobody.
        ticket_id = f"{request.id}-{len(self.outcomes)}"
        try:
            async with asyncio.timeout(step.until_s - started_s) as timeout:
                base_url = route.base_url
                if route.pool:
                    gate = services.gates[route.pool]
                    grant = await self._enter(gate, quote, ticket_id)
                    base_url = grant.url
                    book.on_first_byte = partial(gate.began, ticket_id)
                body = self._parsed.rewritten(route.upstream_model, route.service_tier)
                if self._parsed.stream:
                    self._be_patient(timeout, quote, started_s)
                asked = True
                reply = await services.transports[route.transport].post(
                    base_url, self._path, body, route, step.until_s - services.clock()
                )
                outcome = await self._answer(reply, book, timeout, step.until_s)
        except GateBounce as bounce:
            outcome = book.outcome("bounced", error=bounce.reason, retry_after_s=bounce.retry_after_s)
        except TimeoutError:
            status: Status = "interrupted" if self._responder.started else "timeout"
            outcome = book.outcome(status, self._usage_so_far(book.offer), error="no answer in time", begun=asked)
        except UpstreamError as error:
            status = "interrupted" if self._responder.started else "failed"
            # A source that has seen the request may bill it, whether or not anything of it reached the client.
            outcome = book.outcome(
                status, self._usage_so_far(book.offer), error=str(error), begun=asked and error.begun
            )
            unreachable = not error.begun
        except asyncio.CancelledError:
            outcome = book.outcome(
                "cancelled", self._usage_so_far(book.offer), error="the client went away", begun=asked
            )
            raise
        finally:
            if reply is not None:
                reply.close()
            if outcome is None:
                outcome = book.outcome("failed", error="internal error", begun=True)
            # Recorded before anything is awaited: a client that goes away now must not take the bill with it.
            self.outcomes.append(outcome)
            services.view.end(offer, request.tenant, usd_reserved, outcome, offer.curve.prefill_s(request.usage))
            if grant is not None:
                await services.gates[route.pool].leave(ticket_id, unreachable)
        return outcome

    def _be_patient(self, timeout: asyncio.Timeout, quote: Quote, started_s: float) -> None:
        tried = {outcome.offer_id for outcome in self.outcomes} | {quote.offer.id}
        when = timeout.when()
        if when is None or all(other.offer.id in tried for other in self.decision.merit_order):
            return
        request = self.decision.request
        usual_s = quote.offer.curve.prefill_s(request.usage)
        patience_s = _TTFT_PATIENCE * max(_TTFT_S_MIN, usual_s, request.service_class.ttft_s_max)
        timeout.reschedule(min(when, asyncio.get_running_loop().time() + patience_s))

    async def _enter(self, gate: GateClient, quote: Quote, ticket_id: str) -> Grant:
        """Pass the pool's gate. Raises GateBounce."""
        services = self._services
        view, tried = services.view, {outcome.offer_id for outcome in self.outcomes}
        stream, now_s = self._parsed.stream, services.clock()
        made = ticket(ticket_id, self.decision, quote, view.load, tried, now_s)
        return await gate.enter(enter(made, stream, now_s))

    async def _answer(self, reply: Reply, book: Book, limit: asyncio.Timeout, until_s: float) -> Outcome:
        if reply.status != 200:
            return await self._fault(reply, book)
        searches_asked = self.decision.request.usage.searches
        if not self._parsed.stream:
            self.body = await reply.read()
            book.first_byte(is_token=False)
            usage = usage_of(self.body, searches_asked)
            billed = usage or self._estimate(book.offer, len(self.body) // BYTES_PER_TOKEN)
            return book.outcome("complete", billed, 200, measured=usage is not None)
        self.reader = reader = StreamReader(searches_asked)
        async for chunk in reply.chunks():
            relayed = reader.feed(chunk)
            if relayed:
                if not self._responder.started:
                    book.first_byte()
                    limit.reschedule(asyncio.get_running_loop().time() + max(0.0, until_s - self._services.clock()))
                    await self._responder.start_stream(self.decision, self.outcomes, book.offer)
                await self._responder.relay(relayed)
            if reader.done:
                break  # some sources keep the connection open after their last word
        if reader.error or not reader.done:
            raise UpstreamError(reader.error or "the stream ended before its end")
        if not self._responder.started:
            await self._responder.start_stream(self.decision, self.outcomes, book.offer)
        return book.outcome(
            "complete", self._usage_so_far(book.offer), 200, measured=reader.usage is not None, begun=True
        )

    async def _fault(self, reply: Reply, book: Book) -> Outcome:
        """An answer other than 200: the request's own fault is final, the source's is not."""
        body = await reply.read()
        retry_after_s = _seconds(reply.headers.get("retry-after", ""))
        own_fault = reply.status in (400, 404, 413, 415, 422) and b"maximum context length" not in body
        if own_fault and not (reply.status == 404 and len(self.decision.merit_order) > 1):
            self.refusal = (reply.status, body)
            return book.outcome("refused", http_status=reply.status, error=f"HTTP {reply.status}")
        # The source's words may quote the prompt: the ledger gets the status alone.
        return book.outcome(
            "failed", http_status=reply.status, error=f"HTTP {reply.status}", retry_after_s=retry_after_s
        )

    def _usage_so_far(self, offer: Offer) -> Usage:
        """What the source reported, else what it may bill by now, in its tokens and with its usual reasoning."""
        if self.reader is None:  # a plain answer comes whole or not at all, and the work behind it is billed
            return offer.expected(self.decision.request.usage)
        return self.reader.usage or self._estimate(offer, self.reader.events)

    def _estimate(self, offer: Offer, output_tokens: int) -> Usage:
        request = self.decision.request
        written = 0 if "embeddings" in request.needs else output_tokens
        return offer.expected(request.usage._replace(output_tokens=written))


def _seconds(text: str) -> float:
    try:
        return min(3600.0, max(0.0, float(text)))
    except ValueError:
        return 0.0
