"""What a pool's time is worth by quantity: demand in falling order of USD per replica-second.

The first replica serves what is dearest elsewhere, the next what comes after that. So what one more replica saves, and what
one less would cost, is read from one concave curve; lambda, the price of the moment, is only its slope at today's capacity.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from scheduler.core.bids import SAMPLES_MAX, Demand, Sample
from scheduler.core.costs import usage_at
from scheduler.core.market import Decision
from scheduler.core.supply import ServiceCurve


@dataclass(frozen=True, slots=True)
class Worth:
    """Cumulative and concave, from (0, 0): the best ``work_s[i]`` replica-seconds displace ``usd[i]``."""

    work_s: tuple[float, ...] = (0.0,)
    usd: tuple[float, ...] = (0.0,)

    @property
    def total_s(self) -> float:
        """All of the work that is worth anything."""
        return self.work_s[-1]

    def at(self, work_s: float) -> float:
        """USD of the best ``work_s``; flat beyond all of it."""
        if work_s <= 0.0:
            return 0.0
        if work_s >= self.work_s[-1]:
            return self.usd[-1]
        i = bisect_right(self.work_s, work_s)
        low_s, high_s = self.work_s[i - 1], self.work_s[i]
        return self.usd[i - 1] + (self.usd[i] - self.usd[i - 1]) * (work_s - low_s) / (high_s - low_s)

    def between(self, from_s: float, to_s: float, load: float = 1.0) -> float:
        """USD of the work between two quantities with ``load`` times as much of every kind (inf: all of it the best)."""
        if load == math.inf:
            return (to_s - from_s) * self.usd[1] / self.work_s[1] if len(self.usd) > 1 else 0.0
        return load * (self.at(to_s / load) - self.at(from_s / load)) if load > 0.0 else 0.0


NOTHING = Worth()


def stacked(demand: Iterable[Demand], usd_unserved: float, per_s: float = 1.0) -> Worth:
    """The curve of ``demand``, all of it divided by ``per_s`` seconds.

    What costs no more elsewhere is left out: nobody would keep it. What can go nowhere else (inf) is worth
    ``usd_unserved`` a request, since the money for a replica is not endless.
    """
    found = []
    for usd, work_s, _, weight in demand:
        worth_usd = usd_unserved if usd == math.inf else usd
        if worth_usd > 0.0 and work_s > 0.0 and weight > 0.0:
            found.append((worth_usd / work_s, work_s * weight))
    found.sort(reverse=True)
    work, money = [0.0], [0.0]
    for usd_per_s, work_s in found:
        work.append(work[-1] + work_s / per_s)
        money.append(money[-1] + usd_per_s * work_s / per_s)
    return Worth(tuple(work), tuple(money))


def displaced_by(decision: Decision, offers: Collection[str], curve: ServiceCurve) -> Demand | None:
    """What the pools behind ``offers``, as one, displace: the cheapest other source less the cheapest of them, without
    its scarcity. None where none of them was eligible. ``curve``: in whose replica-seconds the work is counted.

    Counted one by one, two pools with room would each make the other look worthless.
    """
    own, elsewhere, found = math.inf, math.inf, None
    for quote in decision.merit_order:
        if quote.offer.id in offers:
            usd = quote.usd - quote.terms.get("scarcity", 0.0)
            if usd < own:
                own, found = usd, quote.offer
        else:
            elsewhere = min(elsewhere, quote.usd)
    if found is None:
        return None
    request = decision.request
    return Demand(elsewhere - own, curve.work_s(usage_at(request, found)), request.service_class.ttft_s_max)


class Look(NamedTuple):
    """``offered`` is per second, over the last minutes; ``burst``: what went elsewhere in the last ``span_s``.

    ``load``: replica-seconds of offered work per second in that time.
    """

    offered: Worth
    burst: Worth
    load: float
    span_s: float


class _Weighed(Sample):
    """A sample of demand that may itself stand for several requests."""

    def __init__(self, samples_max: int) -> None:
        super().__init__(samples_max)
        self._weight = 0.0

    def add(self, demand: Demand) -> None:
        """What it stands for counts."""
        self._weight += demand.weight
        super().add(demand)

    def take(self) -> list[Demand]:
        """As ``Sample``."""
        kept, weight = self._kept, self._weight
        super().take()
        self._weight = 0.0
        share = weight / sum(demand.weight for demand in kept) if kept else 1.0
        return [demand._replace(weight=demand.weight * share) for demand in kept]


class Offered:
    """Demand for one group of pools, bounded: all of it for ``horizon_s``, and what was burst since the last look.

    ``samples_max``: how many requests are kept between two looks, others being stood for.
    """

    def __init__(self, horizon_s: float, usd_unserved: float, since_s: float, samples_max: int = SAMPLES_MAX) -> None:
        self._horizon_s, self._usd_unserved = horizon_s, usd_unserved
        self._all, self._burst = _Weighed(samples_max), _Weighed(samples_max)
        self._windows: deque[tuple[float, float, list[Demand]]] = deque()  # (end, seconds, demand)
        self._since_s = since_s

    def add(self, demand: Demand, is_burst: bool) -> None:
        """One request (or as many as its weight says), served here or not."""
        self._all.add(demand)
        if is_burst:
            self._burst.add(demand)

    def look(self, now_s: float) -> Look | None:
        """What there was since the last look; None at the same instant."""
        span_s = now_s - self._since_s
        if span_s <= 0.0:
            return None
        latest = self._all.take()
        self._windows.append((now_s, span_s, latest))
        while len(self._windows) > 1 and self._windows[0][0] <= now_s - self._horizon_s:
            self._windows.popleft()
        seconds = sum(window[1] for window in self._windows)
        offered = stacked((d for window in self._windows for d in window[2]), self._usd_unserved, seconds)
        self._since_s = now_s
        load = stacked(latest, self._usd_unserved, span_s).total_s
        return Look(offered, stacked(self._burst.take(), self._usd_unserved), load, span_s)
