"""Demand as gateways see it, and the bid curves that follow from it: one for each TTFT objective of a pool.

Gateways report what each request would displace at each pool, also where they did not send it there: a price learnt only
from those who paid it would forget everybody else.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from scheduler.core.capacity import BidCurve, Level, room_s
from scheduler.core.market import Policy
from scheduler.core.value import cushioned, value_curve

SAMPLES_MAX = 256
_KEPT_MAX = 8192
# Demand is counted in windows of at least a second; fewer of them than this say nothing about bursts.
_WINDOW_S = 1.0
_WINDOWS_MIN = 10
_BURST_MAX = 20.0
_GOLDEN = 0.6180339887498949  # its multiples, less their whole parts, keep step with no rhythm of the demand


class Demand(NamedTuple):
    """A request that a pool could serve: what it costs elsewhere above its cost here, work, and TTFT objective.

    ``weight``: how many requests it stands for, where only a sample was kept.
    """

    usd_displaced: float
    work_s: float
    ttft_s_max: float = math.inf
    weight: float = 1.0


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
        self._windows: dict[str, deque[tuple[float, float, float]]] = {}  # (end, seconds, work)
        self.curves: dict[str, dict[float, BidCurve | None]] = {}

    def heard(self, pool: str, demand: Iterable[Demand], now_s: float) -> None:
        """A gateway's report for one pool's offer."""
        kept = self._demand.setdefault(pool, deque(maxlen=_KEPT_MAX))
        since_s = self._since_s.setdefault(pool, now_s)
        demand = list(demand)
        kept.extend((now_s, one) for one in demand)
        work_s = sum(one.work_s * one.weight for one in demand)
        windows = self._windows.setdefault(pool, deque([(since_s, 0.0, 0.0)], maxlen=_KEPT_MAX))
        end_s, span_s, so_far_s = windows[-1]
        if span_s < _WINDOW_S or now_s <= end_s:
            windows[-1] = (now_s, span_s + now_s - end_s, so_far_s + work_s)
        else:
            windows.append((now_s, now_s - end_s, work_s))

    def solve(
        self,
        levels: Mapping[str, Sequence[Level]],
        replicas: Mapping[str, int],
        ratios: Mapping[str, float],
        now_s: float,
    ) -> None:
        """New curves for every pool with ``replicas``; ``ratios``: calibrated over predicted seconds of work.

        The staircase: the curve of an objective is solved from all requests that are as urgent or more.
        """
        for pool, lines in levels.items():
            kept, count = self._demand.get(pool), replicas.get(pool, 0)
            if not kept or count <= 0:
                self.curves.pop(pool, None)
                continue
            while kept and kept[0][0] < now_s - self._policy.horizon_s:
                kept.popleft()
            if not kept:
                self.curves.pop(pool, None)
                continue
            span_s = min(now_s - self._since_s[pool], self._policy.horizon_s)
            if len(kept) == _KEPT_MAX:
                span_s = min(span_s, now_s - kept[0][0])
            demand, added = [d for _, d in kept], ratios.get(pool, 1.0) / count
            burst = self._burst(pool, demand, now_s)
            self.curves[pool] = {
                line.ttft_s_max: self._curve(demand, lines, k, span_s, added, burst) for k, line in enumerate(lines)
            }

    def _burst(self, pool: str, demand: list[Demand], now_s: float) -> float:
        """How many requests come at once, as far as a queue can tell: variance of the work that windows brought over what
        it would be if requests came one by one at random (an index of dispersion).
        """
        windows = self._windows[pool]
        while len(windows) > 1 and windows[0][0] < now_s - self._policy.horizon_s:
            windows.popleft()
        whole = [(span_s, work_s) for _, span_s, work_s in list(windows)[:-1] if span_s > 0.0]
        demand_s = sum(d.work_s * d.weight for d in demand)
        if len(whole) < _WINDOWS_MIN or demand_s <= 0.0:
            return 1.0
        per_s = sum(work_s for _, work_s in whole) / sum(span_s for span_s, _ in whole)
        # A sampled request stands for others that are not all of its size: what that adds to the spread is no burst.
        mean_s = demand_s / sum(d.weight for d in demand)
        one_s = sum(d.weight * (mean_s**2 + d.weight * (d.work_s - mean_s) ** 2) for d in demand) / demand_s
        spread = sum((work_s - per_s * span_s) ** 2 for span_s, work_s in whole)
        usual = sum(per_s * span_s * one_s for span_s, _ in whole)
        return min(_BURST_MAX, max(1.0, spread / usual)) if usual > 0.0 else 1.0

    def _curve(
        self,
        demand: list[Demand],
        lines: Sequence[Level],
        level: int,
        span_s: float,
        added_per_work: float,
        burst: float,
    ) -> BidCurve | None:
        slowest = level == len(lines) - 1
        own = [d for d in demand if d.ttft_s_max <= lines[level].ttft_s_max or slowest]
        if len(own) < 2 or span_s <= 0.0:
            return None
        seen = list(accumulate(d.weight for d in own))
        gap_s_mean = span_s / seen[-1]
        if len(own) > SAMPLES_MAX or seen[-1] != len(own):  # evenly by weight: each stands for as many as the others
            picks = min(len(own), SAMPLES_MAX)
            own = [own[bisect_left(seen, seen[-1] * (i + i * _GOLDEN % 1.0) / picks)] for i in range(picks)]
        usd, added_s = [d.usd_displaced for d in own], [d.work_s * added_per_work for d in own]
        wait_s_max = room_s(lines, level, self._policy.ttft_margin)
        return cushioned(value_curve(usd, added_s, gap_s_mean, wait_s_max, burst), usd, added_s)
