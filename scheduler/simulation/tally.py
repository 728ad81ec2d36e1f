"""What a simulated run came to: money, objectives, and where each request went. Sums, and one small row a request."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from scheduler.core.market import LedgerEntry, Request, ServiceClass

BUCKETS = 240
ROWS_MAX = 4_000_000


class Headline:
    """The three figures that policies are compared by, from sums that every kind of run keeps."""

    __slots__ = ()
    requests: int
    in_time: int
    local: int
    usd_api: float
    usd_energy: float

    @property
    def usd_total(self) -> float:
        """Avoidable money: API and energy."""
        return self.usd_api + self.usd_energy

    @property
    def slo_attainment(self) -> float:
        """Share of all requests that met their objectives; one that nobody served missed them."""
        return self.in_time / self.requests if self.requests else 1.0

    @property
    def local_share(self) -> float:
        """Share of all requests that own engines served."""
        return self.local / self.requests if self.requests else 0.0


@dataclass(slots=True)
class Tally(Headline):
    """Lists have one entry a request, in order of its end (``number`` is its place in the run), up to ``ROWS_MAX``.

    ``series``: by bucket of the span and of arrival: USD of APIs, USD of energy, served by APIs, served by own engines, in
    time, requests. ``bids``: by pool and bucket: sum of bid prices (USD per replica-second), and of how many clearings.
    ``replica_s``: by pool, seconds that its replicas were there, starting or not, until the last request had ended.
    ``usd_held``: by pool, rent as billed and idle power of replicas that came and went over the span; empty where none did.
    """

    from_s: float
    span_s: float
    offers: dict[str, int] = field(default_factory=dict)
    requests: int = 0
    served: int = 0
    in_time: int = 0
    local: int = 0
    bounces: int = 0
    failures: int = 0
    violations: int = 0
    usd_api: float = 0.0
    usd_energy: float = 0.0
    usd_fixed: float = 0.0
    by_class: dict[str, list[int]] = field(default_factory=dict)  # name: [in time, requests]
    ttft_s: list[float] = field(default_factory=list)
    api_usd: list[float] = field(default_factory=list)
    offer: list[int] = field(default_factory=list)
    number: list[int] = field(default_factory=list)
    series: np.ndarray = field(default_factory=lambda: np.zeros((BUCKETS, 6)))
    bids: dict[str, np.ndarray] = field(default_factory=dict)
    replica_s: dict[str, float] = field(default_factory=dict)
    usd_held: dict[str, float] = field(default_factory=dict)

    def add(self, number: int, request: Request, entry: LedgerEntry, kind: str, bounces: int) -> None:
        """One request that is over."""
        self.requests += 1
        self.bounces += bounces
        is_served = entry.status == "complete"
        in_time = is_served and _is_in_time(entry, request.service_class)
        local = is_served and kind != "api"
        counts = self.by_class.setdefault(request.service_class.name, [0, 0])
        counts[1] += 1
        self.served += is_served
        if in_time:
            self.in_time += 1
            counts[0] += 1
        row = self.series[self._bucket(request.arrived_s)]
        if local:
            self.local += 1
            self.usd_energy += entry.usd_avoidable
            row[1] += entry.usd_avoidable
            row[3] += 1
        else:
            self.usd_api += entry.usd_avoidable
            row[0] += entry.usd_avoidable
            row[2] += is_served
        row[4] += in_time
        row[5] += 1
        self.usd_fixed += entry.usd_fixed_share
        if self.requests <= ROWS_MAX:
            self.number.append(number)
            self.ttft_s.append(entry.ttft_s if entry.ttft_s is not None else math.nan)
            self.api_usd.append(0.0 if local else entry.usd_avoidable)
            self.offer.append(self.offers.setdefault(entry.offer_id, len(self.offers)))

    def _bucket(self, at_s: float) -> int:
        return max(0, min(BUCKETS - 1, int((at_s - self.from_s) / max(1e-9, self.span_s) * BUCKETS)))

    def bid(self, usd_per_replica_s: Mapping[str, float], now_s: float) -> None:
        """The bid price of every pool at one clearing."""
        bucket = self._bucket(now_s)
        for pool, usd in usd_per_replica_s.items():
            sums = self.bids.setdefault(pool, np.zeros((BUCKETS, 2)))
            sums[bucket] += (usd, 1.0)

    def api_usd_by_request(self, requests: int) -> np.ndarray:
        """USD spent on APIs, by the request's number."""
        usd = np.zeros(requests)
        usd[np.asarray(self.number, int)] = self.api_usd
        return usd


def _is_in_time(entry: LedgerEntry, service_class: ServiceClass) -> bool:
    """Whether both objectives were met, the time to the first token and the pace of the others."""
    if entry.ttft_s is None or entry.ttft_s > service_class.ttft_s_max:
        return False
    return entry.tpot_s is None or entry.tpot_s <= service_class.tpot_s_max
