"""Tickets as messages to a gate, and the sample of demand that a gateway reports, from which bid curves are solved."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scheduler.core import costs
from scheduler.core.admission import Ticket
from scheduler.core.bids import Demand, Sample
from scheduler.core.market import Decision, Load, Outcome, Quote
from scheduler.core.tickets import displaced_usd, pool_of
from scheduler.core.worth import displaced_by
from serving.control import ELSEWHERE, HERE, Wanted
from serving.gate.wire import Enter

# Of each pool in one report. Reports come twice a second, and the controller keeps some thousands for its five minutes.
_SAMPLES_MAX = 32
_REPORT_MAX = 256
_TURNED_AWAY = ("bounced", "failed", "timeout")


def enter(found: Ticket, stream: bool, now_s: float) -> Enter:
    """A ticket as a message: times from now, so that clocks need not agree."""
    never = found.leave_by_s == -math.inf
    return Enter(
        id=found.id,
        work_s=found.work_s,
        usd_displaced=None if found.usd_displaced == math.inf else found.usd_displaced,
        start_within_s=found.start_by_s - now_s,
        prefill_s=found.prefill_s,
        kv_tokens=found.kv_tokens,
        ttft_s_max=found.ttft_s_max,
        ttft_within_s=found.ttft_by_s - now_s,
        leave_within_s=None if never else found.leave_by_s - now_s,
        usd_per_s_waiting=found.usd_per_s_waiting,
        stream=stream,
    )


class Wants:
    """A fair sample of what requests would displace at every pool, wherever they were sent; reported and begun anew."""

    def __init__(self) -> None:
        self._samples: dict[tuple[str, str], Sample] = {}  # by pool, and how the request ended

    def add(self, decision: Decision, load: Load) -> None:
        """One decision: each pool that might serve the request, at its cheapest offer."""
        seen = set()
        for quote in decision.merit_order:
            offer = quote.offer
            pool = pool_of(offer.id)
            if offer.capacity is None or pool in seen:
                continue
            seen.add(pool)
            usd = displaced_usd(decision, quote, load)
            work_s = costs.work_s(decision.request, offer)
            self._sample(pool, "").add(Demand(usd, work_s, decision.request.service_class.ttft_s_max))

    def ended(self, decision: Decision, outcomes: Sequence[Outcome]) -> None:
        """A request is over: what pools of one model and zone together displaced, and whether one of them had it.

        Whoever went away while a pool had the request was not served elsewhere.
        """
        last = outcomes[-1] if outcomes else None
        for quotes in _kinds(decision):
            offers = {quote.offer.id for quote in quotes}
            own = min(quotes, key=lambda quote: quote.usd - quote.terms.get("scarcity", 0.0)).offer
            found = displaced_by(decision, offers, own.curve)
            if found is not None:
                here = last is not None and last.offer_id in offers and last.status not in _TURNED_AWAY
                self._sample(pool_of(own.id), HERE if here else ELSEWHERE).add(found)

    def _sample(self, pool: str, end: str) -> Sample:
        return self._samples.setdefault((pool, end), Sample(_SAMPLES_MAX))

    def take(self) -> dict[str, list[Wanted]]:
        """By pool, at most some hundreds in all, and as many again of how requests ended."""
        samples, self._samples = self._samples, {}
        pools = {pool for pool, _ in samples}
        most = max(1, _REPORT_MAX // max(1, len(pools)))
        taken: dict[str, list[Wanted]] = {}
        for (pool, end), sample in samples.items():
            share = most if not end else max(1, most // 2)
            taken.setdefault(pool, []).extend(_line(demand, end) for demand in _thinned(sample.take(), share))
        return taken


def _kinds(decision: Decision) -> list[list[Quote]]:
    """Quotes of our pools, those of one model and zone together; a pool is one, by whatever names it is asked for."""
    kinds: list[list[Quote]] = []
    for quote in decision.merit_order:
        offer, pool = quote.offer, pool_of(quote.offer.id)
        if offer.kind == "api":
            continue
        for kind in kinds:
            if any(
                pool_of(other.offer.id) == pool or (other.offer.model, other.offer.zone) == (offer.model, offer.zone)
                for other in kind
            ):
                kind.append(quote)
                break
        else:
            kinds.append([quote])
    return kinds


def _thinned(taken: list[Demand], most: int) -> list[Demand]:
    step = math.ceil(len(taken) / most)
    kept = taken[:: max(1, step)]
    return [demand._replace(weight=demand.weight * len(taken) / len(kept)) for demand in kept]


def _line(demand: Demand, end: str) -> Wanted:
    usd = demand.usd_displaced
    return Wanted(None if usd == math.inf else usd, demand.work_s, demand.ttft_s_max, demand.weight, end)
