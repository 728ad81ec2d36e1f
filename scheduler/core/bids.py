"""Demand as gateways see it, and the bid curves that follow from it: one for each TTFT objective of a pool.

Gateways report what each request would displace at each pool, also where they did not send it there: a price learnt only
from those who paid it would forget everybody else.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from scheduler.core.capacity import BidCurve
from scheduler.core.market import Decision, Policy
from scheduler.core.value import value_curve

SAMPLES_MAX = 256
_KEPT_MAX = 8192


class Demand(NamedTuple):
    """A request that a pool could serve: what it costs elsewhere above its cost here, work, and TTFT objective.

    ``weight``: how many requests it stands for, where only a sample was kept.
    """

    usd_displaced: float
    work_s: float
    ttft_s_max: float = math.inf
    weight: float = 1.0


def displaced(decision: Decision) -> dict[str, float]:
    """USD that each pool of a decision displaces, by offer id: the cheapest other source less the pool without its
    scarcity; inf where there is no other.

    Other pools count at their price with scarcity, as they are no free way out.
    """
    quotes = decision.merit_order
    found = {}
    for quote in quotes:
        if quote.offer.capacity is not None:
            elsewhere = min((other.usd for other in quotes if other is not quote), default=math.inf)
            found[quote.offer.id] = elsewhere - quote.usd + quote.terms.get("scarcity", 0.0)
    return found


class Sample:
    """A bounded, fair sample of a stream of demand (every k-th, k doubling), to be reported and begun anew."""

    def __init__(self, samples_max: int = SAMPLES_MAX) -> None:
        self._max, self._every, self._seen = samples_max, 1, 0
        self._kept: list[Demand] = []

    def add(self, demand: Demand) -> None:
        """One more request."""
        if self._seen % self._every == 0:
            if len(self._kept) >= self._max:
                self._kept, self._every = self._kept[::2], self._every * 2
            if self._seen % self._every == 0:
                self._kept.append(demand)
        self._seen += 1

    def take(self) -> list[Demand]:
        """What was kept, weighted for all that was seen; the sample begins anew."""
        weight = self._seen / len(self._kept) if self._kept else 1.0
        taken = [demand._replace(weight=weight) for demand in self._kept]
        self._kept, self._every, self._seen = [], 1, 0
        return taken


class BidBook:
    """Demand of the last ``policy.horizon_s`` by pool, and the curves that were last solved from it."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._demand: dict[str, deque[tuple[float, Demand]]] = {}
        self._since_s: dict[str, float] = {}
        self.curves: dict[str, dict[float, BidCurve | None]] = {}

    def heard(self, pool: str, demand: Iterable[Demand], now_s: float) -> None:
        """A gateway's report for one pool's offer."""
        kept = self._demand.setdefault(pool, deque(maxlen=_KEPT_MAX))
        self._since_s.setdefault(pool, now_s)
        kept.extend((now_s, one) for one in demand)

    def solve(
        self, replicas: Mapping[str, int], limits: Sequence[float], ratios: Mapping[str, float], now_s: float
    ) -> None:
        """New curves for every pool with ``replicas``; ``ratios``: calibrated over predicted seconds of work.

        The staircase: the curve of an objective is solved from all requests that are as urgent or more.
        """
        for pool, count in replicas.items():
            kept = self._demand.get(pool)
            if not kept or count <= 0:
                self.curves.pop(pool, None)
                continue
            while kept and kept[0][0] < now_s - self._policy.horizon_s:
                kept.popleft()
            span_s = min(now_s - self._since_s[pool], self._policy.horizon_s)
            if len(kept) == _KEPT_MAX:
                span_s = min(span_s, now_s - kept[0][0])
            self.curves[pool] = {
                limit_s: self._curve([d for _, d in kept], limit_s, limits, span_s, ratios.get(pool, 1.0) / count)
                for limit_s in limits
            }

    def _curve(
        self, demand: list[Demand], limit_s: float, limits: Sequence[float], span_s: float, added_per_work: float
    ) -> BidCurve | None:
        slowest = limit_s == max(limits)
        own = [d for d in demand if d.ttft_s_max <= limit_s or slowest]
        if len(own) < 2 or span_s <= 0.0:
            return None
        gap_s_mean = span_s / sum(d.weight for d in own)
        own = own[:: math.ceil(len(own) / SAMPLES_MAX)]
        return value_curve(
            [d.usd_displaced for d in own],
            [d.work_s * added_per_work for d in own],
            gap_s_mean,
            self._policy.ttft_margin * limit_s,
        )
