"""From decisions and outcomes to ledger records and metrics. Text of prompts and answers never comes here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from scheduler.core.market import Decision, LedgerEntry, Outcome
from scheduler.core.settlement import settle
from scheduler.core.supply import FixedCost
from serving import metrics
from serving.ledger.errors import LedgerFull
from serving.ledger.journal import Journal
from serving.ledger.records import AttemptLine, Begin, End, EndStatus, QuoteLine, RejectionLine

log = logging.getLogger("baseload.ledger")


def _at_once(call: Callable[..., None], *arguments: Any) -> None:
    call(*arguments)


class Priced(Protocol):
    """Who knows the amortized costs of this moment (the view)."""

    fixed: dict[str, FixedCost]


class Accountant:
    """Writes the two records of every request and counts it. ``priced.fixed`` is the amortized cost by offer id, now.

    ``defer`` runs a call a little later (the event loop's ``call_soon``): nobody's answer has to wait for the counting.
    """

    def __init__(self, journal: Journal, priced: Priced, writer: str, defer: Callable[..., Any] = _at_once) -> None:
        self._journal, self._priced, self._writer, self._defer = journal, priced, writer, defer

    @property
    def healthy(self) -> bool:
        """The journal takes records."""
        return self._journal.healthy

    def begin(self, decision: Decision, asked: str, labels: Sequence[str], stream: bool) -> None:
        """Record the decision before anything is tried. Raises LedgerFull: then nothing may be tried."""
        request = decision.request
        usage = request.usage
        self._journal.append(
            Begin(
                id=request.id,
                at_s=request.arrived_s,
                writer=self._writer,
                tenant=request.tenant,
                service_class=request.service_class.name,
                model_requested=asked,
                session=request.session,
                zones=sorted(request.zones),
                labels=list(labels),
                stream=stream,
                market_version=decision.market_version,
                difficulty=request.difficulty,
                input_tokens=usage.input_tokens,
                cached_tokens=usage.cached_tokens,
                output_tokens=usage.output_tokens,
                merit_order=[QuoteLine(quote.offer.id, quote.usd, quote.terms) for quote in decision.merit_order],
                rejected=[RejectionLine(rejection.offer_id, rejection.reason) for rejection in decision.rejected],
            )
        )

    def end(
        self,
        decision: Decision,
        outcomes: Sequence[Outcome],
        asked: str,
        status: EndStatus,
        http_status: int,
        reason: str,
    ) -> LedgerEntry:
        """Settle and record, before the last byte leaves; then count."""
        entry = settle(decision, outcomes, self._priced.fixed)
        request, usage = decision.request, entry.usage
        record = End(
            id=request.id,
            at_s=entry.at_s,
            writer=self._writer,
            status=status,
            http_status=http_status,
            reason=reason,
            offer_id=entry.offer_id,
            source=entry.kind,  # type: ignore[arg-type]  # Kind or '' by construction
            model=entry.model,
            attempts=[_attempt(outcome) for outcome in outcomes],
            input_tokens=usage.input_tokens,
            cached_tokens=usage.cached_tokens,
            output_tokens=usage.output_tokens,
            usd_avoidable=entry.usd_avoidable,
            usd_fixed_share=entry.usd_fixed_share,
            usd_counterfactual=entry.usd_counterfactual,
            ttft_s=entry.ttft_s,
            duration_s=entry.duration_s,
        )
        try:
            self._journal.append(record)
        except LedgerFull as error:
            # The answer exists and is paid for: it is delivered, and the loss is said aloud. New requests are refused.
            log.critical("a ledger row was lost", extra={"request": request.id, "error": str(error)})
        self._defer(self._count, decision, outcomes, entry, asked, status)
        return entry

    def _count(
        self, decision: Decision, outcomes: Sequence[Outcome], entry: LedgerEntry, asked: str, status: str
    ) -> None:
        request = decision.request
        source = entry.kind or "none"
        metrics.request_counter(request.tenant, request.service_class.name, source, status).inc()
        if outcomes:
            metrics.OVERHEAD.observe(max(0.0, outcomes[0].started_s - request.arrived_s))
        for outcome in outcomes:
            metrics.attempt_counter(outcome.offer_id, outcome.status).inc()
            if outcome.status == "bounced":
                metrics.bounce_counter(outcome.offer_id.partition("/")[0], outcome.error).inc()
        avoidable, amortized = metrics.usd_counters(request.tenant, source)
        avoidable.inc(max(0.0, entry.usd_avoidable))
        if entry.usd_fixed_share:
            amortized.inc(entry.usd_fixed_share)
        if status != "complete":
            return
        provider = entry.offer_id.partition("/")[0]
        duration, ttft, tpot, tokens_in, tokens_out = metrics.source_children(asked, entry.model, provider)
        duration.observe(entry.duration_s)
        tokens_in.observe(entry.usage.input_tokens)
        tokens_out.observe(entry.usage.output_tokens)
        if entry.ttft_s is not None:
            ttft.observe(entry.ttft_s)
        if entry.tpot_s:  # an answer that came in one piece has none
            tpot.observe(entry.tpot_s)


def _attempt(outcome: Outcome) -> AttemptLine:
    return AttemptLine(
        offer_id=outcome.offer_id,
        status=outcome.status,
        http_status=outcome.http_status,
        error=outcome.error,
        started_s=outcome.started_s,
        ttft_s=outcome.ttft_s,
        duration_s=outcome.ended_s - outcome.started_s,
        usd_avoidable=outcome.usd,
        input_tokens=outcome.usage.input_tokens,
        cached_tokens=outcome.usage.cached_tokens,
        output_tokens=outcome.usage.output_tokens,
    )
