"""Tickets as messages to a gate, and the sample of demand that a gateway reports, from which bid curves are solved."""

from __future__ import annotations

import math

from scheduler.core import costs
from scheduler.core.admission import Ticket
from scheduler.core.bids import Demand, Sample
from scheduler.core.market import Decision, Load
from scheduler.core.tickets import displaced_usd, pool_of
from serving.control import Wanted
from serving.gate.wire import Enter

# Of each pool in one report. Reports come twice a second, and the controller keeps some thousands for its five minutes.
_SAMPLES_MAX = 32
_REPORT_MAX = 256


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
        self._samples: dict[str, Sample] = {}

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
            sample = self._samples.setdefault(pool, Sample(_SAMPLES_MAX))
            sample.add(Demand(usd, work_s, decision.request.service_class.ttft_s_max))

    def take(self) -> dict[str, list[Wanted]]:
        """By pool, at most some hundreds in all."""
        samples, self._samples = self._samples, {}
        most = max(1, _REPORT_MAX // max(1, len(samples)))
        return {pool: [_line(demand) for demand in _thinned(sample.take(), most)] for pool, sample in samples.items()}


def _thinned(taken: list[Demand], most: int) -> list[Demand]:
    step = math.ceil(len(taken) / most)
    kept = taken[:: max(1, step)]
    return [demand._replace(weight=demand.weight * len(taken) / len(kept)) for demand in kept]


def _line(demand: Demand) -> Wanted:
    usd = demand.usd_displaced
    return Wanted(None if usd == math.inf else usd, demand.work_s, demand.ttft_s_max, demand.weight)
