"""The OpenAI-compatible gateway as a bare ASGI application: bounded, synchronous in its judgement, one answer each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from pricing.report import PriceReport
from scheduler.config import ClusterConfig
from scheduler.core.dispatch import GiveUp, decide
from serving import metrics
from serving.access import Access, headers_of
from serving.asgi import DISCONNECT
from serving.dispatcher import Dispatch, Services
from serving.explain import explanation
from serving.intake import ClientGone, Intake, Reader, Receive, read_body
from serving.ledger.errors import LedgerFull
from serving.ledger.records import EndStatus
from serving.openapi import document
from serving.protocol import ProtocolError
from serving.refusals import refusal
from serving.responder import Responder, Send, debug_headers, source_headers
from serving.status import Status
from serving.watch import Watch

log = logging.getLogger("baseload.gateway")

_ENDPOINTS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
}
_DURATION_WEIGHT = 0.05

Scope = Mapping[str, Any]
Handler = Callable[[Scope, Receive, Responder], Awaitable[None]]


class Gateway:
    """The application. ``services`` is what requests share; ``status`` answers health checks and metrics."""

    def __init__(
        self, config: ClusterConfig, access: Access, reader: Reader, services: Services, status: Status
    ) -> None:
        self._bounds = config.policy.bounds
        self._access, self._reader, self._services, self._status = access, reader, services, status
        self._inflight = 0
        self._duration_s_mean = 1.0
        self._see_costs = frozenset(tenant.name for tenant in config.tenants if tenant.sees_costs)
        self._openapi = msgspec.json.encode(document(config))
        self._get: dict[str, Handler] = {
            "/v1/models": self._models,
            "/v1/prices": self._prices,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
            "/openapi.json": self._document,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        if scope["type"] != "http":
            return
        responder = Responder(send, self._services.routes)
        path, method = scope["path"], scope["method"]
        try:
            if path in _ENDPOINTS or path == "/v1/explain":
                if method != "POST":
                    raise _wrong_method(method, path, "POST")
                await self._bounded(scope, receive, responder)
            elif path in self._get:
                if method not in ("GET", "HEAD"):
                    raise _wrong_method(method, path, "GET, HEAD")
                await self._get[path](scope, receive, responder)
            else:
                raise ProtocolError(404, f"there is nothing at {path}", "not_found")
        except ProtocolError as error:
            metrics.REJECTED.labels(error.code or str(error.status)).inc()
            headers = [(b"allow", error.param.encode())] if error.status == 405 and error.param else []
            await responder.error(error, headers)
        except ClientGone:
            metrics.REJECTED.labels("client_gone").inc()
        except Exception:  # a fault of ours or of an extension: told in OpenAI's shape while that is possible
            if responder.started:
                raise
            metrics.REJECTED.labels("internal").inc()
            log.exception("a request has failed")
            await responder.error(ProtocolError(500, "internal error", "internal"))

    async def _bounded(self, scope: Scope, receive: Receive, responder: Responder) -> None:
        if self._inflight >= self._bounds.concurrent_max:
            raise ProtocolError(
                503, "this gateway serves as many requests as it may", "overloaded", retry_after_s=self._duration_s_mean
            )
        self._inflight += 1
        try:
            await self._serve(scope, receive, responder)
        finally:
            self._inflight -= 1

    async def _serve(self, scope: Scope, receive: Receive, responder: Responder) -> None:
        services = self._services
        headers = headers_of(scope)
        account = self._access.account(headers, scope.get("client"))
        raw = await read_body(receive, headers, self._bounds.body_bytes_max)
        path = scope["path"]
        intake = self._reader.read(_ENDPOINTS.get(path, "chat"), raw, headers, account)
        decision = decide(intake.request, services.view.market, services.view.load, services.policy, services.clock())
        if path == "/v1/explain":
            await responder.plain(200, explanation(decision, services.view, services.policy, services.clock()), [])
            return
        services.wants.add(decision, services.view.load)
        extension = (scope.get("extensions") or {}).get(DISCONNECT)
        responder.abort = extension.abort if extension is not None else None
        responder.debug = headers.get(b"x-baseload-debug") == b"true"
        responder.wants_usage = bool(
            intake.parsed.body.stream_options and intake.parsed.body.stream_options.include_usage
        )
        try:
            services.accountant.begin(decision, intake.asked, intake.labels, intake.parsed.stream)
        except LedgerFull as error:
            log.error("refusing: the ledger takes no records", extra={"error": str(error)})
            raise ProtocolError(
                503, "the ledger cannot be written: nothing is served", "ledger", retry_after_s=5.0
            ) from None
        dispatch = Dispatch(services, decision, intake.parsed, path, responder)
        await self._watched(dispatch, intake, scope, receive, responder)

    async def _watched(
        self, dispatch: Dispatch, intake: Intake, scope: Scope, receive: Receive, responder: Responder
    ) -> None:
        """Run ``dispatch``; a client that goes away cancels it, and with it the work upstream."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("an ASGI application runs inside a task")
        watch = Watch(task, scope, receive)
        try:
            give_up = await dispatch.run()
        except asyncio.CancelledError:
            if watch.client_gone:
                task.uncancel()
                self._end(dispatch, intake, "cancelled", 499, "the client went away")
                return
            self._end(dispatch, intake, "cancelled", 503, "the gateway is stopping")
            raise
        except BaseException:
            self._end(dispatch, intake, "failed", 500, "internal error")
            raise
        finally:
            watch.stop()
        await self._answer(dispatch, give_up, intake, responder)

    async def _answer(self, dispatch: Dispatch, give_up: GiveUp | None, intake: Intake, responder: Responder) -> None:
        if give_up is not None:
            error = refusal(dispatch.decision, give_up, dispatch.outcomes, self._services)
            status: EndStatus = "unserved" if not dispatch.outcomes else "failed"
            self._end(dispatch, intake, status, error.status, give_up.reason)
            await responder.error(error, [(b"x-baseload-decision-id", intake.request.id.encode())])
            return
        last = dispatch.outcomes[-1]
        if last.status == "interrupted":
            self._end(dispatch, intake, "interrupted", 200, last.error)
            await responder.break_stream("the source broke off; the answer is not complete")
            return
        if dispatch.refusal is not None:
            status_code, body = dispatch.refusal
            self._end(dispatch, intake, "failed", status_code, last.error)
            await responder.refused(status_code, body, intake.request.id)
            return
        entry = self._end(dispatch, intake, "complete", 200, "")
        if dispatch.reader is not None:
            await responder.end_stream(dispatch.reader, entry)
            return
        offer = next(quote.offer for quote in dispatch.decision.merit_order if quote.offer.id == last.offer_id)
        headers = source_headers(
            dispatch.decision, dispatch.outcomes, offer, entry.usd_avoidable, self._services.routes
        )
        overhead_ms = (entry.duration_s - (last.ended_s - last.started_s)) * 1000.0
        if responder.debug:
            headers += debug_headers(dispatch.decision, offer)
        headers.append((b"x-litellm-overhead-duration-ms", b"%.3f" % max(0.0, overhead_ms)))
        await responder.plain(200, dispatch.body, headers)

    def _end(self, dispatch: Dispatch, intake: Intake, status: EndStatus, http_status: int, reason: str) -> Any:
        entry = self._services.accountant.end(
            dispatch.decision, dispatch.outcomes, intake.asked, status, http_status, reason
        )
        self._services.wants.ended(dispatch.decision, dispatch.outcomes)
        if status == "complete":
            self._learn(dispatch, intake)
        self._duration_s_mean += _DURATION_WEIGHT * (entry.duration_s - self._duration_s_mean)
        return entry

    def _learn(self, dispatch: Dispatch, intake: Intake) -> None:
        outcome, parsed = dispatch.outcomes[-1], intake.parsed
        offer = next(q.offer for q in dispatch.decision.merit_order if q.offer.id == outcome.offer_id)
        asked = parsed.output_tokens_asked
        self._services.learned.answered(intake.request, intake.template, parsed.choices, asked, offer, outcome)

    async def _models(self, scope: Scope, receive: Receive, responder: Responder) -> None:
        self._access.account(headers_of(scope), scope.get("client"))
        data = [
            {"id": name, "object": "model", "created": 0, "owned_by": "baseload"} for name in sorted(self._reader.names)
        ]
        await responder.plain(200, msgspec.json.encode({"object": "list", "data": data}), [])

    async def _prices(self, scope: Scope, receive: Receive, responder: Responder) -> None:
        account = self._access.account(headers_of(scope), scope.get("client"))
        report = self._services.view.prices
        if report is None:
            raise ProtocolError(503, "the controller has not told its prices yet", "no_prices", retry_after_s=1.0)
        if account.name not in self._see_costs:
            report = PriceReport(report.as_of_s, report.offers, (), (), ())
        await responder.plain(200, msgspec.json.encode(report), [])

    async def _healthz(self, scope: Scope, receive: Receive, responder: Responder) -> None:
        await responder.plain(200, b'{"status":"alive"}', [])

    async def _readyz(self, scope: Scope, receive: Receive, responder: Responder) -> None:
        problems, state = self._status.readiness()
        body = msgspec.json.encode({"status": "not ready" if problems else "ready", "problems": problems, **state})
        await responder.plain(503 if problems else 200, body, [])

    async def _metrics(self, scope: Scope, receive: Receive, responder: Responder) -> None:
        metrics.INFLIGHT.set(self._inflight)
        await responder.text(self._status.exposition())

    async def _document(self, scope: Scope, receive: Receive, responder: Responder) -> None:
        await responder.plain(200, self._openapi, [])


def _wrong_method(method: str, path: str, allowed: str) -> ProtocolError:
    return ProtocolError(405, f"{method} is not allowed at {path} (allowed: {allowed})", "method_not_allowed", allowed)
