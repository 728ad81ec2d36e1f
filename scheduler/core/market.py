"""The market and the requests on it: every type that ``decide`` and its neighbours pass around, frozen.

Units: USD, seconds, tokens; instants are Unix seconds. The supply side (offers, rates, curves) is in ``supply``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from scheduler.core.supply import Offer, Usage


@dataclass(frozen=True, slots=True)
class Lease:
    """USD a tenant may spend through one gateway since that gateway started, valid until ``expires_s``."""

    usd: float
    expires_s: float


@dataclass(frozen=True, slots=True)
class Market:
    """All offers at one instant. ``leases`` hold only tenants with a budget."""

    version: int
    as_of_s: float
    offers: tuple[Offer, ...]
    leases: Mapping[str, Lease] = field(default_factory=dict)


class OfferLoad(NamedTuple):
    """What one gateway knows of an offer beyond the market's snapshot.

    ``sent_s``: seconds of wait that its own requests since the snapshot had left to cause at ``sent_at_s``.
    """

    inflight: int = 0
    sent_s: float = 0.0
    sent_at_s: float = 0.0
    requests_last_min: int = 0
    cooldown_until_s: float = 0.0
    failures: int = 0
    ttft_ratio: float = 1.0  # EWMA of actual over predicted time to first token: slow-but-alive shows here
    tpot_s: float = 0.0  # nine answers in ten stay below it; 0 while none was seen
    tpot_at_s: float = 0.0

    def waiting_s(self, now_s: float) -> float:
        """What is left of ``sent_s``."""
        left_s = self.sent_s - (now_s - self.sent_at_s)
        return left_s if left_s > 0.0 else 0.0


NO_LOAD = OfferLoad()


@dataclass(frozen=True, slots=True)
class Load:
    """One gateway's own view: per offer, and USD spent or reserved per tenant since it started."""

    offers: Mapping[str, OfferLoad]
    usd_by_tenant: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ServiceClass:
    """What latency and errors are worth to a class of requests, in USD. TPOT: seconds per output token after the first."""

    name: str
    ttft_s_max: float
    usd_per_ttft_miss: float
    usd_per_s_waiting: float
    usd_per_wrong_answer: float
    tpot_s_max: float = math.inf
    usd_per_tpot_miss: float = 0.0


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the scheduler sees it: no text, only what decides. ``models`` None means any (``auto``)."""

    id: str
    tenant: str
    service_class: ServiceClass
    models: frozenset[str] | None
    usage: Usage
    difficulty: float
    needs: frozenset[str]
    zones: frozenset[str]
    usd_max: float
    deadline_s: float
    arrived_s: float
    session: str = ""
    budgeted: bool = False
    output_tokens_max: int = 0  # most that the client lets be written, over all choices; 0: no more than the estimate
    output_tokens_asked: int = 1  # what must fit the context: max_tokens if given, else a first token
    prefix_offer: str = ""  # where this session's last answer came from, and so where its prompt is cached
    prefix_tokens: int = 0  # how many of the prompt's tokens are expected in that cache


class Quote(NamedTuple):
    """An eligible offer and its price in USD; ``terms`` sum to ``usd``; ``usd_cash`` is the avoidable money in it.

    ``usd_most`` is what it may cost if the answer is as long as the client allows: limits and budgets are held to that.
    """

    offer: Offer
    usd: float
    usd_cash: float
    terms: dict[str, float]
    usd_most: float = 0.0


class Rejection(NamedTuple):
    """An offer that may not serve this request, and why (a name from ``constraints``)."""

    offer_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The whole merit order, cheapest first, decided once; fallback only walks down it."""

    request: Request
    market_version: int
    merit_order: tuple[Quote, ...]
    rejected: tuple[Rejection, ...]


Status = Literal["complete", "bounced", "failed", "refused", "interrupted", "cancelled", "timeout"]


def tpot_s(ttft_s: float | None, duration_s: float, usage: Usage) -> float | None:
    """Seconds per output token after the first, of an answer that took ``duration_s`` in all."""
    if ttft_s is None or usage.output_tokens < 2:
        return None
    return max(0.0, duration_s - ttft_s) / (usage.output_tokens - 1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended. ``refused`` is the source's verdict on the request itself (a 400): nobody else is asked.

    ``interrupted`` and ``cancelled`` come after the first byte or by the client's will; they end the chain as well.
    """

    offer_id: str
    status: Status
    started_s: float
    ended_s: float
    usage: Usage
    usd: float
    ttft_s: float | None = None
    first_byte_sent: bool = False
    http_status: int = 0
    error: str = ""
    retry_after_s: float = 0.0
    measured: bool = False  # usage came from the source, not from an estimate

    @property
    def tpot_s(self) -> float | None:
        """Seconds per output token after the first; None where there is none to time."""
        return tpot_s(self.ttft_s, self.ended_s - self.started_s, self.usage)


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """Money and time of one request. Counterfactual: the cheapest other eligible offer at the same usage."""

    request_id: str
    offer_id: str
    kind: str
    model: str
    status: str
    usage: Usage
    usd_avoidable: float
    usd_fixed_share: float
    usd_counterfactual: float
    ttft_s: float | None
    duration_s: float
    at_s: float

    @property
    def tpot_s(self) -> float | None:
        """Seconds per output token after the first; None where there is none to time."""
        return tpot_s(self.ttft_s, self.duration_s, self.usage)


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's settings that the core reads."""

    attempts_max: int = 4
    attempt_s_min: float = 0.05
    local_floor: Literal["none", "amortized"] = "none"
    bid_prefilter: float = 0.6
    breaker_base_s: float = 1.0
    breaker_max_s: float = 60.0
    lease_ttl_s: float = 10.0
    horizon_s: float = 300.0
    ttft_margin: float = 0.93  # share of a TTFT objective that the gate plans with, at the start; then learnt
    grant_ahead_s: float = 0.1  # work that an engine is given before it has begun what it has
